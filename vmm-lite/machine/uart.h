// Uart: a 16550A, the console (National Semiconductor PC16550D, section 8).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

#include "base/fd.h"
#include "vmm-lite/machine/address_map.h"

namespace farside::vmm {

// Sends at once. What nobody takes from `output` in time is lost, as on a line without hand-shake:
// a guest never waits for a person. Any thread.
class Uart final : public IoHandler {
 public:
  static constexpr uint64_t kPorts = 8;
  // `output`, non-blocking or a file, stays the caller's; -1: none. `set_irq` is the level of the
  // interrupt.
  Uart(int output, std::function<void(bool)> set_irq)
      : output_(output), set_irq_(std::move(set_irq)) {}

  void Read(uint32_t cpu, uint64_t offset, Bytes out) override;
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override;

  // Bytes that came in for the guest; those behind kMaxInput that it has not read are dropped.
  void Receive(ConstBytes in);
  void Reset();

 private:
  static constexpr size_t kMaxInput = 4096;

  uint8_t ReadRegister(uint64_t offset);
  void WriteRegister(uint64_t offset, uint8_t value);
  uint8_t PendingInterrupt() const;
  void Update();

  const int output_;
  const std::function<void(bool)> set_irq_;
  std::mutex mutex_;
  std::deque<uint8_t> input_;
  uint16_t divisor_ = 12;
  uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, scr_ = 0;
  bool empty_pending_ = false;  // THRE's interrupt, until IIR is read or THR written.
  bool irq_ = false;
};

}  // namespace farside::vmm
