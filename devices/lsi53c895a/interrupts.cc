#include "devices/lsi53c895a/interrupts.h"

#include "base/mutant.h"

namespace farside::lsi53c895a {
namespace {

constexpr uint32_t kIntfCause = 1u << 24;

constexpr uint32_t Causes(InterruptBits bits) {
  return uint32_t{bits.dstat} | uint32_t{bits.sist0} << 8 | uint32_t{bits.sist1} << 16;
}

}  // namespace

bool Interrupts::sip() const {
  const InterruptBits bits = state_.first & (kFatal | enabled_);
  return (bits.sist0 | bits.sist1) != 0;
}

bool Interrupts::Post(InterruptBits bits) {
  InterruptBits& level = sip() || dip() ? state_.second : state_.first;
  level = level | bits;
  return (bits & (kFatal | enabled_)).any();
}

void Interrupts::Clear(bool dstat, bool sist0, bool sist1) {
  if (dstat) state_.first.dstat = 0;
  if (sist0) state_.first.sist0 = 0;
  if (sist1) state_.first.sist1 = 0;
  // Causes that were served are no longer raised, even if the same bit comes up from behind.
  state_.raised &= Causes(state_.first) | kIntfCause;
  Promote();
}

void Interrupts::SetEnabled(InterruptBits enabled) {
  enabled_ = enabled;
  Promote();
}

void Interrupts::Promote() {
  if (sip() || dip()) return;
  state_.first = state_.first | state_.second;
  state_.second = {};
}

bool Interrupts::Line(bool intf, bool sync_irqd, bool irqd) {
  const uint32_t pending =
      Causes(state_.first) | (intf && !MUTANT("lsi-intf-lost") ? kIntfCause : 0);
  const uint32_t enabled = Causes(enabled_) | kIntfCause;
  if (!sync_irqd) state_.raised |= pending & enabled;
  state_.raised &= pending;
  return state_.raised != 0 && !irqd;
}

}  // namespace farside::lsi53c895a
