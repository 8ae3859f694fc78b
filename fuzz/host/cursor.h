// Cursor: the events of a session, one by one. Some are not played but answer the device's DMA, at
// the moment when it asks.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "fuzz/host/host.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

class Cursor {
 public:
  // Told of each event before it happens, or before it answers an access.
  using Observer = std::function<void(size_t index, const Event& event)>;

  // `events` stay the caller's until done().
  void Begin(std::span<const Event> events, Observer observer = {}) {
    events_ = events;
    next_ = 0;
    observer_ = std::move(observer);
  }
  bool done() const { return next_ >= events_.size(); }
  // The next one, or one behind it; nullptr behind the last.
  const Event* Peek(size_t ahead = 0) const {
    return next_ + ahead < events_.size() ? &events_[next_ + ahead] : nullptr;
  }
  const Event& Take() {
    const Event& event = events_[next_];
    if (observer_) observer_(next_, event);
    ++next_;
    return event;
  }
  // What comes next, if it is for such an access.
  std::optional<Answer> TakeAnswer(DmaAccess access) {
    const Event* const event = Peek();
    if (event == nullptr) return std::nullopt;
    const bool fault = event->kind == Kind::kFault;
    const bool data = event->kind == Kind::kAnswer && access == DmaAccess::kRead;
    if (!fault && !data) return std::nullopt;
    Take();
    return fault ? Answer{.fault = true} : Answer{.data = event->data};
  }

 private:
  std::span<const Event> events_;
  size_t next_ = 0;
  Observer observer_;
};

}  // namespace farside::fuzz
