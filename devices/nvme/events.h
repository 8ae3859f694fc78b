// Asynchronous events and the requests that wait for them. NVM Express 1.4, section 5.2.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/nvme/commands.h"

namespace farside::nvme {

// In the order in which they are reported when several are pending.
enum class Event : uint8_t {
  kInvalidDoorbellRegister,
  kInvalidDoorbellValue,
  kTemperatureThreshold,
};
inline constexpr uint32_t kEventCount = 3;
inline constexpr uint32_t kEventTypes = 2;

struct EventDef {
  uint8_t type;
  uint8_t info;
  LogId log;  // To be read by the host; reading it lets events of this type be reported again.
};
inline constexpr EventDef kEvents[kEventCount] = {
    {.type = 0, .info = 0, .log = LogId::kErrors},
    {.type = 0, .info = 1, .log = LogId::kErrors},
    {.type = 1, .info = 1, .log = LogId::kSmart},
};

// A request that waits. It holds no completion queue entry: a host with few of them goes on.
struct EventRequest {
  uint16_t cid = 0;
  uint64_t sequence = 0;  // As in Command.
};

struct EventState {
  std::vector<EventRequest> requests;  // At most kMaxEventRequests, oldest first.
  uint8_t pending = 0;                 // Bit n: Event n. An event is pending once, however often.
  uint8_t masked_types = 0;            // Bit n: type n was reported and its log not read since.

  // The memory of `requests` is kept.
  void Clear() {
    requests.clear();
    pending = 0;
    masked_types = 0;
  }
  void Raise(Event event) { pending = static_cast<uint8_t>(pending | Bit(event)); }
  // The event to report next, if any.
  bool Next(Event* event) const {
    for (uint32_t i = 0; i < kEventCount; ++i) {
      if ((pending >> i & 1) == 0 || (masked_types >> kEvents[i].type & 1) != 0) continue;
      *event = static_cast<Event>(i);
      return true;
    }
    return false;
  }
  // `event` is being reported: DW0 of the completion.
  uint32_t Report(Event event) {
    const EventDef& def = kEvents[static_cast<size_t>(event)];
    pending = static_cast<uint8_t>(pending & ~Bit(event));
    masked_types = static_cast<uint8_t>(masked_types | 1 << def.type);
    return def.type | uint32_t{def.info} << 8 | static_cast<uint32_t>(def.log) << 16;
  }
  // The host read `log` and did not ask to retain the event.
  void OnLogRead(LogId log) {
    for (const EventDef& def : kEvents) {
      if (def.log == log) masked_types = static_cast<uint8_t>(masked_types & ~(1 << def.type));
    }
  }

 private:
  static constexpr int Bit(Event event) { return 1 << static_cast<int>(event); }
};

}  // namespace farside::nvme
