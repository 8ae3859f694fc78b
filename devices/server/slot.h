// Slot: a device together with the memory and the interrupts that a remote client gives it.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/epoll_loop.h"
#include "devices/core/deadline.h"
#include "devices/core/device.h"
#include "devices/server/dma_messages.h"
#include "devices/server/dma_table.h"
#include "devices/server/irq_table.h"

namespace farside {

// A device's clock: the machine's, or one that its client moves.
class SlotClock final : public Clock {
 public:
  explicit SlotClock(const Clock& real) : real_(real) {}

  uint64_t now_ns() const override { return virtual_ns_ ? *virtual_ns_ : real_.now_ns(); }
  bool is_virtual() const { return virtual_ns_.has_value(); }
  // From now on the clock stands, at 0 until it is moved.
  void MakeVirtual() { virtual_ns_ = 0; }
  // The machine's clock again.
  void MakeReal() { virtual_ns_.reset(); }
  // Never back. Only a virtual clock.
  void AdvanceTo(uint64_t time_ns) { virtual_ns_ = std::max(*virtual_ns_, time_ns); }

 private:
  const Clock& real_;
  std::optional<uint64_t> virtual_ns_;
};

// Made first, then the device from `env()`, then Plug. Outlives the servers that offer it; before
// it is destroyed the device is shut down and drained.
class Slot final : private WaitObserver {
 public:
  Slot(EpollLoop& loop, std::string id) : loop_(loop), id_(std::move(id)) {
    dma_.set_messenger(&messages_);
    loop_.AddWaitObserver(*this);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() override { loop_.RemoveWaitObserver(*this); }

  // What the device may use.
  DeviceEnv env() { return {.id = id_, .loop = loop_, .clock = clock_, .dma = dma_, .irq = irqs_}; }
  void Plug(std::unique_ptr<Device> device) {
    device_ = std::move(device);
    irqs_.SetCounts(device_->info());
  }

  // Has the device act on its deadline if that has come. By itself the slot sees to that while the
  // clock is the machine's; who moves a virtual one calls it.
  void CheckDeadline() { farside::CheckDeadline(*device_, clock_); }

  const std::string& id() const { return id_; }
  EpollLoop& loop() { return loop_; }
  Device& device() { return *device_; }
  DmaTable& dma() { return dma_; }
  DmaMessages& messages() { return messages_; }
  IrqTable& irqs() { return irqs_; }
  SlotClock& clock() { return clock_; }

 private:
  void BeforeWait() override {
    const auto deadline =
        device_ && !clock_.is_virtual() ? device_->NextDeadline() : std::optional<uint64_t>();
    if (std::exchange(armed_for_, deadline) == deadline) return;
    deadline ? deadline_timer_.Arm(*deadline) : deadline_timer_.Disarm();
  }

  EpollLoop& loop_;
  std::string id_;
  SlotClock clock_{loop_.clock()};
  DmaTable dma_{loop_};
  DmaMessages messages_{loop_};
  IrqTable irqs_{loop_};
  std::optional<uint64_t> armed_for_;  // The deadline that the timer waits for.
  Timer deadline_timer_{loop_, [this] {
                          armed_for_.reset();
                          CheckDeadline();
                        }};
  std::unique_ptr<Device> device_;
};

}  // namespace farside
