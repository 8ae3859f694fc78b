// Snapshots: the states that sessions begin in, and the way back to them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/loop.h"
#include "devices/core/device.h"
#include "devices/core/fast_state.h"

namespace farside::fuzz {

// A clock that goes back with the device's state.
class SessionClock final : public Clock {
 public:
  uint64_t now_ns() const override { return now_ns_; }
  void Set(uint64_t now_ns) { now_ns_ = now_ns; }

 private:
  uint64_t now_ns_ = 0;
};

// Of one device. Oracles: "drain" (work in flight that does not end), "reset" (a reset or a copy of
// the state leaves something of a session behind).
class Snapshots {
 public:
  // Turns of the loop in which everything ends when nothing holds it up.
  static constexpr size_t kMaxTurns = 20'000;

  // The state of a new device is `device`'s as it is. All outlive this.
  Snapshots(Loop& loop, SessionClock& clock, Device& device);

  // What a driver has set up by now is where sessions with kReady begin.
  void TakeReady();
  // Resets, drains and puts a state back; the device may go on afterwards.
  void GoBack(bool ready);
  // Nothing is in flight when it returns, and nothing begins before Resume.
  void Drain(const char* when);
  void ExpectFresh();
  std::vector<std::byte> Saved() const;
  // LoadFast's time, as a multiple of a copy of as many bytes. The device is left where sessions
  // with kReady begin.
  double MeasureLoad();
  const FastState& fresh() const { return fresh_; }

 private:
  Loop& loop_;
  SessionClock& clock_;
  Device& device_;
  TaskScope scope_;
  FastState fresh_;
  FastState ready_;
  std::vector<std::byte> fresh_saved_;
};

// Turns of the loop, until it is idle or that many were made.
void RunTurns(Loop& loop, size_t turns);

}  // namespace farside::fuzz
