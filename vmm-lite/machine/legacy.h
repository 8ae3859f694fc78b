// What a PC does not start without: the clock's CMOS, the keyboard controller's reset line, and
// ACPI's fixed hardware.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/clock.h"
#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {

// MC146818's clock, which shows the host's time and can't be set, and the bytes behind it in which
// firmware looks for the size of memory.
class Cmos final : public IoHandler {
 public:
  static constexpr uint64_t kPorts = 2;
  Cmos(uint64_t low_ram, uint64_t high_ram, uint32_t cpus);
  void Read(uint32_t cpu, uint64_t offset, Bytes out) override;
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override;

 private:
  uint8_t ReadRegister(uint8_t index) const;

  std::mutex mutex_;
  std::array<uint8_t, 128> bytes_{};
  uint8_t index_ = 0;
};

// Port 64 takes one command: the pulse that resets the machine. No keyboard is there, and ACPI says
// so.
class ResetController final : public IoHandler {
 public:
  static constexpr uint64_t kPorts = 1;
  explicit ResetController(std::function<void()> on_reset) : on_reset_(std::move(on_reset)) {}
  void Read(uint32_t, uint64_t, Bytes out) override { Fill(out, 0); }
  void Write(uint32_t, uint64_t, ConstBytes in) override {
    constexpr uint8_t kPulseReset = 0xfe;
    if (LoadLe<uint8_t>(in) == kPulseReset) on_reset_();
  }

 private:
  const std::function<void()> on_reset_;
};

// PM1a event and control blocks and the timer, at kPmBase (ACPI 6.4, section 4.8.3).
class PowerManagement final : public IoHandler {
 public:
  // `on_power_off` is called when the guest enters S5.
  PowerManagement(std::function<void(bool)> set_irq, std::function<void()> on_power_off)
      : set_irq_(std::move(set_irq)), on_power_off_(std::move(on_power_off)) {}
  void Read(uint32_t cpu, uint64_t offset, Bytes out) override;
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override;

  // The guest's operating system is asked to shut down.
  void PressPowerButton();
  void Reset();

 private:
  uint32_t Timer() const;
  void Update();

  const std::function<void(bool)> set_irq_;
  const std::function<void()> on_power_off_;
  MonotonicClock clock_;
  std::mutex mutex_;
  uint16_t status_ = 0;
  uint16_t enable_ = 0;
  uint16_t control_ = 1;  // SCI_EN: there is no legacy mode.
  bool irq_ = false;
};

}  // namespace farside::vmm
