// Event lists: the events of a comparison in a file, and those that a trace or a scenario has.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "harness/diff/event.h"
#include "harness/host/guest_memory.h"

namespace farside::diff {

struct EventList {
  std::string device;               // The model's name; empty where the file does not say.
  std::optional<uint64_t> seed;     // Of which the events were made up.
  std::vector<MemoryRange> memory;  // Empty: the model's.
  std::vector<Event> events;
};

// A list that WriteEventList wrote, a scenario of raw verbs ({"steps": [...]}), or a trace in any
// of its forms, of which `device` is the number of the device. Errors name the file and the event.
Result<EventList> ReadEventList(const std::string& path, uint32_t device);

// One event a line.
Result<void> WriteEventList(const std::string& path, const EventList& list);

}  // namespace farside::diff
