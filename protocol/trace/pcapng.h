// The blocks of pcapng (draft-ietf-opsawg-pcapng) that a trace is made of, and a trace's own packet
// header.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "protocol/trace/event.h"

namespace farside::trace::pcapng {

inline constexpr uint32_t kSectionHeader = 0x0a0d0d0a;
inline constexpr uint32_t kInterfaceDescription = 1;
inline constexpr uint32_t kEnhancedPacket = 6;

inline constexpr uint32_t kByteOrderMagic = 0x1a2b3c4d;
inline constexpr uint16_t kLinkTypeUser0 = 147;

inline constexpr uint16_t kOptionEnd = 0;
inline constexpr uint16_t kOptionComment = 1;
inline constexpr uint16_t kOptionIfName = 2;
inline constexpr uint16_t kOptionIfTsresol = 9;

// Type, length, body, length again.
inline constexpr size_t kBlockOverhead = 12;
// No block of ours comes near it: a message has at most a MiB and a page.
inline constexpr uint32_t kMaxBlockSize = 4 << 20;

struct SectionFields {
  uint32_t byte_order_magic = kByteOrderMagic;
  uint16_t major = 1;
  uint16_t minor = 0;
  uint64_t section_length = ~uint64_t{0};  // Not said.
};
static_assert(sizeof(SectionFields) == 16);

struct InterfaceFields {
  uint16_t link_type = kLinkTypeUser0;
  uint16_t reserved = 0;
  uint32_t snap_length = 0;  // No limit.
};
static_assert(sizeof(InterfaceFields) == 8);

struct PacketFields {
  uint32_t interface = 0;
  uint32_t time_high = 0;
  uint32_t time_low = 0;
  uint32_t captured_size = 0;
  uint32_t original_size = 0;
};
static_assert(sizeof(PacketFields) == 20);

struct EventHeader {
  uint32_t number = 0;
  uint8_t kind = 0;
  uint8_t flags = 0;
  uint16_t cpu = 0;
  uint64_t time_ns = 0;
};
static_assert(sizeof(EventHeader) == 16);

inline constexpr uint8_t kFlagPaged = 1 << 0;
inline constexpr uint8_t kFlagMore = 1 << 1;
// Wireshark takes no packet of more than 256 KiB.
inline constexpr size_t kMaxPacketBody = 192 << 10;
inline constexpr uint32_t kLiteralPage = 0xffffffff;

struct FdFields {
  uint8_t kind;
  uint64_t size;
  uint32_t seals;
};
inline constexpr size_t kFdFieldsSize = 13;

// Where the data of a message begin, if they are paged when they are long enough; 0 for messages
// without such data. Counted from the message's start.
inline size_t DataOffset(const vfio_user::Header& header) {
  switch (static_cast<vfio_user::Command>(header.command)) {
    case vfio_user::Command::kRegionRead:
    case vfio_user::Command::kRegionWrite:
    case vfio_user::Command::kDmaRead:
    case vfio_user::Command::kDmaWrite:
      return sizeof(vfio_user::Header) + 16;
    default:
      return 0;
  }
}

}  // namespace farside::trace::pcapng
