// Time as an argument: devices see only the clock they were given.
#pragma once

#include <cstdint>

namespace farside {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual uint64_t now_ns() const = 0;  // Never goes back.
};

// CLOCK_MONOTONIC.
class MonotonicClock final : public Clock {
 public:
  uint64_t now_ns() const override;
};

// Stands still until it is told to move.
class ManualClock final : public Clock {
 public:
  uint64_t now_ns() const override { return now_ns_; }
  void AdvanceTo(uint64_t time_ns) {
    if (time_ns > now_ns_) now_ns_ = time_ns;
  }

 private:
  uint64_t now_ns_ = 0;
};

}  // namespace farside
