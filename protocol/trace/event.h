// Event: one entry of a trace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "protocol/vfio_user.h"

namespace farside::trace {

enum class EventKind : uint8_t {
  kMessage = 1,
  kFds = 2,
  kSteps = 3,
  kAttach = 4,
  kDetach = 5,
};

// Whether an event goes to the device (commands of the client, replies to its DMA) or comes from
// it.
enum class Direction : uint8_t { kIn = 0, kOut = 1 };

// What came with a message, as far as it can be told and matters.
struct FdSpec {
  enum class Kind : uint8_t { kMemory = 1, kEventfd = 2, kOther = 3 };
  Kind kind = Kind::kOther;
  uint64_t size = 0;   // In bytes, of memory.
  uint32_t seals = 0;  // F_SEAL_*, of memory.
  friend bool operator==(const FdSpec&, const FdSpec&) = default;
};

struct Event {
  uint32_t number = 0;
  EventKind kind = EventKind::kMessage;
  Direction direction = Direction::kIn;
  uint32_t device = 0;  // Index in TraceInfo::devices.
  uint16_t cpu = 0;
  uint64_t time_ns = 0;
  std::vector<std::byte> bytes;  // kMessage: header and payload. kSteps: a u64.
  std::vector<FdSpec> fds;       // kFds.

  friend bool operator==(const Event&, const Event&) = default;

  // Of a message; its bytes hold at least a header.
  vfio_user::Header header() const;
  ConstBytes payload() const { return ConstBytes(bytes).subspan(sizeof(vfio_user::Header)); }
  vfio_user::Command command() const { return static_cast<vfio_user::Command>(header().command); }
  bool is_message() const { return kind == EventKind::kMessage; }
  bool is_reply() const {
    return (header().flags & vfio_user::kFlagTypeMask) == vfio_user::kFlagTypeReply;
  }
  // The fixed structure at the payload's start; zeroes where the payload is shorter.
  template <typename T>
  T fields() const {
    T fields{};
    const ConstBytes from = payload();
    Copy(AsWritableBytes(fields).first(std::min(sizeof(T), from.size())),
         from.first(std::min(sizeof(T), from.size())));
    return fields;
  }
  // What follows a T in the payload.
  template <typename T>
  ConstBytes data_after() const {
    return payload().size() < sizeof(T) ? ConstBytes() : payload().subspan(sizeof(T));
  }
};

// A device's bulk DMA is recorded as accesses of at most so many bytes.
inline constexpr uint64_t kMaxTappedDma = 128 << 10;

// The first block: what was recorded, and how to start it again.
struct TraceInfo {
  struct Device {
    std::string id;
    std::string model;
    friend bool operator==(const Device&, const Device&) = default;
  };
  enum class Tap { kDevice, kWire };
  enum class Dma { kDirect, kMessage };
  enum class ClockKind { kMonotonic, kVirtual };

  std::string program;
  Tap tap = Tap::kDevice;
  Dma dma = Dma::kDirect;
  ClockKind clock = ClockKind::kMonotonic;
  std::vector<std::string> args;
  std::vector<Device> devices;
  std::string note = {};  // For people: what the trace cannot have, a sentence. Often empty.
  friend bool operator==(const TraceInfo&, const TraceInfo&) = default;
};

}  // namespace farside::trace
