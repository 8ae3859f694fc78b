#include "vmm-lite/machine/uart.h"

#include <unistd.h>

namespace farside::vmm {
namespace {

constexpr uint8_t kEnableReceived = 1 << 0;
constexpr uint8_t kEnableEmpty = 1 << 1;
constexpr uint8_t kIirNone = 1;
constexpr uint8_t kIirEmpty = 2;
constexpr uint8_t kIirReceived = 4;
constexpr uint8_t kIirFifos = 0xc0;
constexpr uint8_t kFifoEnable = 1 << 0;
constexpr uint8_t kFifoClearReceived = 1 << 1;
constexpr uint8_t kDivisorLatch = 1 << 7;
constexpr uint8_t kLoop = 1 << 4;
constexpr uint8_t kLineReady = 1 << 0;
constexpr uint8_t kLineEmpty = 0x60;
constexpr uint8_t kModemConnected = 0xb0;  // DCD, DSR, CTS.

enum Register : uint64_t { kData, kIer, kIirFcr, kLcr, kMcr, kLsr, kMsr, kScr };

}  // namespace

uint8_t Uart::PendingInterrupt() const {
  if ((ier_ & kEnableReceived) != 0 && !input_.empty()) return kIirReceived;
  if ((ier_ & kEnableEmpty) != 0 && empty_pending_) return kIirEmpty;
  return kIirNone;
}

void Uart::Update() {
  const bool irq = PendingInterrupt() != kIirNone;
  if (irq != irq_) set_irq_(irq);
  irq_ = irq;
}

uint8_t Uart::ReadRegister(uint64_t offset) {
  const bool latch = (lcr_ & kDivisorLatch) != 0;
  switch (offset) {
    case kData: {
      if (latch) return static_cast<uint8_t>(divisor_);
      if (input_.empty()) return 0;
      const uint8_t value = input_.front();
      input_.pop_front();
      return value;
    }
    case kIer:
      return latch ? static_cast<uint8_t>(divisor_ >> 8) : ier_;
    case kIirFcr: {
      const uint8_t pending = PendingInterrupt();
      if (pending == kIirEmpty) empty_pending_ = false;
      return pending | ((fcr_ & kFifoEnable) != 0 ? kIirFifos : uint8_t{0});
    }
    case kLcr:
      return lcr_;
    case kMcr:
      return mcr_;
    case kLsr:
      return kLineEmpty | (input_.empty() ? uint8_t{0} : kLineReady);
    case kMsr:
      if ((mcr_ & kLoop) == 0) return kModemConnected;
      // RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
      return static_cast<uint8_t>((mcr_ & 2) << 3 | (mcr_ & 1) << 5 | (mcr_ & 0xc) << 4);
    default:
      return scr_;
  }
}

void Uart::WriteRegister(uint64_t offset, uint8_t value) {
  const bool latch = (lcr_ & kDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (latch) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
      } else if ((mcr_ & kLoop) != 0) {
        if (input_.size() < kMaxInput) input_.push_back(value);
        empty_pending_ = true;
      } else {
        if (output_ >= 0) (void)!write(output_, &value, 1);
        empty_pending_ = true;
      }
      break;
    case kIer:
      if (latch) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
      } else {
        if ((value & ~ier_ & kEnableEmpty) != 0) empty_pending_ = true;
        ier_ = value & 0x0f;
      }
      break;
    case kIirFcr:
      if ((value & kFifoClearReceived) != 0) input_.clear();
      fcr_ = value & 0xc9;
      break;
    case kLcr:
      lcr_ = value;
      break;
    case kMcr:
      mcr_ = value & 0x1f;
      break;
    case kScr:
      scr_ = value;
      break;
    default:
      break;
  }
}

void Uart::Read(uint32_t, uint64_t offset, Bytes out) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < out.size(); ++i) out[i] = std::byte{ReadRegister(offset + i)};
  Update();
}

void Uart::Write(uint32_t, uint64_t offset, ConstBytes in) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < in.size(); ++i) WriteRegister(offset + i, static_cast<uint8_t>(in[i]));
  Update();
}

void Uart::Receive(ConstBytes in) {
  const std::lock_guard lock(mutex_);
  for (const std::byte byte : in) {
    if (input_.size() < kMaxInput) input_.push_back(static_cast<uint8_t>(byte));
  }
  Update();
}

void Uart::Reset() {
  const std::lock_guard lock(mutex_);
  input_.clear();
  divisor_ = 12;
  ier_ = fcr_ = lcr_ = mcr_ = scr_ = 0;
  empty_pending_ = false;
  Update();
}

}  // namespace farside::vmm
