#include "fuzz/host/snapshots.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "devices/core/state.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

Task<void> DrainIt(Device& device, bool* drained) {
  co_await device.Drain();
  *drained = true;
}

}  // namespace

void RunTurns(Loop& loop, size_t turns) {
  while (turns != 0 && loop.RunReady(1)) --turns;
}

// As every session begins: reset once more, and drained.
Snapshots::Snapshots(Loop& loop, SessionClock& clock, Device& device)
    : loop_(loop), clock_(clock), device_(device) {
  device_.Reset(ResetKind::kFunction);
  Drain("at the start");
  device_.SaveFast(fresh_);
  fresh_saved_ = Saved();
  device_.Resume();
}

std::vector<std::byte> Snapshots::Saved() const {
  StateWriter out;
  device_.Save(out);
  return out.Finish();
}

void Snapshots::TakeReady() {
  Drain("after the prologue");
  device_.SaveFast(ready_);
  device_.Resume();
}

void Snapshots::GoBack(bool ready) {
  device_.Reset(ResetKind::kFunction);
  Drain("before a session");
  clock_.Set(0);
  device_.LoadFast(ready ? ready_ : fresh_);
  device_.Resume();
}

double Snapshots::MeasureLoad() {
  constexpr int kTimes = 20'000;
  using SteadyClock = std::chrono::steady_clock;
  device_.Reset(ResetKind::kFunction);
  Drain("before it is measured");
  const auto per_time = [](SteadyClock::time_point begin) {
    return std::chrono::duration<double, std::nano>(SteadyClock::now() - begin).count() / kTimes;
  };
  const std::vector<std::byte> from(ready_.size());
  std::vector<std::byte> to(ready_.size());
  auto begin = SteadyClock::now();
  for (int i = 0; i < kTimes; ++i) {
    std::memcpy(to.data(), from.data(), from.size());
    asm volatile("" : : "r"(to.data()) : "memory");  // Somebody may look.
  }
  const double copy_ns = per_time(begin);
  begin = SteadyClock::now();
  for (int i = 0; i < kTimes; ++i) device_.LoadFast(ready_);
  const double load_ns = per_time(begin);
  device_.Resume();
  return load_ns / std::max(copy_ns, 1e-3);
}

void Snapshots::Drain(const char* when) {
  bool drained = false;
  scope_.Spawn(DrainIt(device_, &drained));
  RunTurns(loop_, kMaxTurns);
  if (!drained) {
    Violation("drain", "the device has work in flight after {} turns of the loop, {}", kMaxTurns,
              when);
  }
}

void Snapshots::ExpectFresh() {
  GoBack(false);
  if (Saved() != fresh_saved_) {
    Violation("reset", "the state of the device is not a new device's after a session");
  }
}

}  // namespace farside::fuzz
