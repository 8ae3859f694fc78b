// Interrupts: the status registers DSTAT, SIST0, SIST1 and the second level behind them (manual,
// section 2.2.16.5 "Stacked Interrupts").
#pragma once

#include <cstdint>

#include "devices/lsi53c895a/registers.h"

namespace farside::lsi53c895a {

// Bits of the three registers, or of the masks DIEN, SIEN0, SIEN1.
struct InterruptBits {
  uint8_t dstat = 0;
  uint8_t sist0 = 0;
  uint8_t sist1 = 0;

  friend InterruptBits operator|(InterruptBits a, InterruptBits b) {
    return {.dstat = static_cast<uint8_t>(a.dstat | b.dstat),
            .sist0 = static_cast<uint8_t>(a.sist0 | b.sist0),
            .sist1 = static_cast<uint8_t>(a.sist1 | b.sist1)};
  }
  friend InterruptBits operator&(InterruptBits a, InterruptBits b) {
    return {.dstat = static_cast<uint8_t>(a.dstat & b.dstat),
            .sist0 = static_cast<uint8_t>(a.sist0 & b.sist0),
            .sist1 = static_cast<uint8_t>(a.sist1 & b.sist1)};
  }
  friend bool operator==(const InterruptBits&, const InterruptBits&) = default;
  bool any() const { return (dstat | sist0 | sist1) != 0; }
};

// All that halt SCRIPTS even when they are masked. The others are CMP, SEL, RSL, GEN and HTH.
inline constexpr InterruptBits kFatal = {
    .dstat = 0x7f,
    .sist0 = static_cast<uint8_t>(~(kSist0Cmp | kSist0Sel | kSist0Rsl)),
    .sist1 = static_cast<uint8_t>(~(kSist1Gen | kSist1Hth))};

class Interrupts {
 public:
  struct State {
    InterruptBits first;   // What the registers show.
    InterruptBits second;  // What they show once SIP and DIP are clear.
    uint32_t raised = 0;   // Causes of the pin's level, see Line.
  };

  void Reset() { state_ = {}; }
  // Masks as they are now. A masked nonfatal interrupt sets neither SIP nor DIP, and hides nothing
  // that is stacked behind it.
  void SetEnabled(InterruptBits enabled);

  // Whether SCRIPTS halt: fatal or not masked.
  bool Post(InterruptBits bits);

  const InterruptBits& first() const { return state_.first; }
  bool sip() const;
  bool dip() const { return state_.first.dstat != 0; }

  // The driver has read some of the registers in one access; then what is stacked moves up.
  void Clear(bool dstat, bool sist0, bool sist1);

  // The level of the pin. Masking does not deassert it (section 2.2.16.4), SYNC_IRQD lets it be but
  // keeps new causes off it, IRQD takes it off the bus.
  bool Line(bool intf, bool sync_irqd, bool irqd);

  const State& state() const { return state_; }
  void set_state(const State& state) { state_ = state; }

 private:
  // What is stacked shows once SIP and DIP are clear.
  void Promote();

  State state_;
  InterruptBits enabled_;
};

}  // namespace farside::lsi53c895a
