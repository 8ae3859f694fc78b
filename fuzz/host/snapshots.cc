#include "fuzz/host/snapshots.h"

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
