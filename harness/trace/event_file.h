// Traces in all their forms: compressed (FILE.trace), as plain pcapng (FILE.pcapng), as JSON
// (FILE.json).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "protocol/trace/event.h"

namespace farside::trace {

// Events in order, in memory that does not grow with the file.
class EventSource {
 public:
  virtual ~EventSource() = default;
  virtual const TraceInfo& info() const = 0;
  // Nothing at the end. Errors name the file and the event.
  virtual Result<std::optional<Event>> Next() = 0;
  // The recorder was killed, or the file cut. Known at the end.
  virtual bool truncated() const = 0;
};

class EventSink {
 public:
  virtual ~EventSink() = default;
  // Events are numbered in the order of the calls.
  virtual Result<void> Write(const Event& event) = 0;
  // Without it the file is not complete, or not there.
  virtual Result<void> Finish() = 0;
};

// JSON is known by its name, the others by what they begin with.
Result<std::unique_ptr<EventSource>> OpenEvents(const std::string& path);

// What is written is said by the name's end: .trace, .pcapng or .json.
Result<std::unique_ptr<EventSink>> CreateEvents(const std::string& path, const TraceInfo& info);

}  // namespace farside::trace
