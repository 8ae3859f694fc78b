// mpqemu: the private protocol between QEMU's x-pci-proxy-dev and -machine x-remote, as the wire
// has it. Raw C structures of x86-64, host byte order. Nothing is negotiated; requests go from
// proxy to remote only and are answered in order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace farside::mpqemu {

enum class Command : int32_t {
  kSyncSysmem = 0,  // The guest's memory, all of it, with an fd a region. No reply.
  kRet = 1,         // The reply to all others.
  kPciCfgWrite = 2,
  kPciCfgRead = 3,
  kBarWrite = 4,
  kBarRead = 5,
  kSetIrqfd = 6,  // Two eventfds: the interrupt and its resampling. No reply.
  kDeviceReset = 7,
};
inline constexpr int32_t kCommandCount = 8;

// "BAR_READ"; "command 12" for what is none.
std::string_view CommandName(Command command);

struct Header {
  int32_t command = 0;
  uint32_t padding = 0;  // Ignored.
  uint64_t size = 0;     // Of the payload, in bytes.
};
static_assert(sizeof(Header) == 16);

inline constexpr uint64_t kMaxPayload = 192;
// Regions in one SYNC_SYSMEM: the structure has room for 8, but QEMU's remote ends at 8.
inline constexpr size_t kMaxRegions = 8;
inline constexpr size_t kQemuMaxRegions = 7;
// Configuration space of the proxy, a conventional PCI device. In bytes.
inline constexpr uint32_t kConfigSize = 256;

// Entry i belongs to fd i.
struct SyncSysmem {
  std::array<uint64_t, kMaxRegions> gpas{};
  std::array<uint64_t, kMaxRegions> sizes{};    // In bytes.
  std::array<uint64_t, kMaxRegions> offsets{};  // In the fds' files.
};
static_assert(sizeof(SyncSysmem) == kMaxPayload);

struct ConfigAccess {
  uint32_t address = 0;
  uint32_t value = 0;  // 0 for reads.
  int32_t size = 0;    // In bytes: 1, 2 or 4.
};
static_assert(sizeof(ConfigAccess) == 12);

struct BarAccess {
  uint64_t address = 0;  // Absolute: the BAR's base and the offset.
  uint64_t value = 0;    // 0 for reads.
  uint32_t size = 0;     // In bytes: 1, 2, 4 or 8.
  uint8_t memory = 0;    // 0: an I/O port.
  std::array<uint8_t, 3> padding{};
};
static_assert(sizeof(BarAccess) == 24);

}  // namespace farside::mpqemu
