// The general purpose and handshake timers: manual, registers STIME0 and STIME1.
#include <algorithm>

#include "devices/lsi53c895a/chip.h"

namespace farside::lsi53c895a {
namespace {

constexpr uint64_t kTimerUnitNs = 125'000;
constexpr uint64_t kTimerScale = 16;

}  // namespace

// Of a nonzero 4-bit code: each doubles the time.
uint64_t Chip::TimerPeriod(uint8_t code, bool scaled) const {
  return (kTimerUnitNs << (code - 1)) * (scaled ? kTimerScale : 1);
}

void Chip::OnStime1Write() {
  const uint8_t code = reg8(kStime1) & 0xf;
  general_deadline_.reset();
  if (code == 0) return;
  general_deadline_ = clock().now_ns() + TimerPeriod(code, bit(kStime1, kStime1Gensf));
}

// The script has come to wait, or goes on: the time in which a connected target asks for nothing.
void Chip::UpdateHandshakeTimer() {
  const uint8_t code = reg8(kStime0) >> 4;
  const bool waits = execution_.running && execution_.wait != Wait::kNone && link_.connected();
  if (!waits || code == 0) {
    handshake_deadline_.reset();
  } else if (!handshake_deadline_) {
    handshake_deadline_ = clock().now_ns() + TimerPeriod(code, bit(kStime1, kStime1Hthsf));
  }
}

std::optional<uint64_t> Chip::NextDeadline() const {
  if (paused_) return std::nullopt;
  if (!general_deadline_) return handshake_deadline_;
  if (!handshake_deadline_) return general_deadline_;
  return std::min(*general_deadline_, *handshake_deadline_);
}

void Chip::OnDeadline() {
  const uint64_t now = clock().now_ns();
  if (general_deadline_ && *general_deadline_ <= now) {
    general_deadline_.reset();
    Post({.sist1 = kSist1Gen});
  }
  if (handshake_deadline_ && *handshake_deadline_ <= now) {
    handshake_deadline_.reset();
    Post({.sist1 = kSist1Hth});
  }
}

}  // namespace farside::lsi53c895a
