// Slot: a device together with the memory and the interrupts that a remote client gives it.
#pragma once

#include <memory>
#include <string>

#include "base/epoll_loop.h"
#include "devices/core/device.h"
#include "devices/server/dma_messages.h"
#include "devices/server/dma_table.h"
#include "devices/server/irq_table.h"

namespace farside {

// Made first, then the device from `env()`, then Plug. Outlives the servers that offer it; before
// it is destroyed the device is shut down and drained.
class Slot {
 public:
  Slot(EpollLoop& loop, std::string id) : loop_(loop), id_(std::move(id)) {
    dma_.set_messenger(&messages_);
  }

  // What the device may use.
  DeviceEnv env() {
    return {.id = id_, .loop = loop_, .clock = loop_.clock(), .dma = dma_, .irq = irqs_};
  }
  void Plug(std::unique_ptr<Device> device) {
    device_ = std::move(device);
    irqs_.SetCounts(device_->info());
  }

  const std::string& id() const { return id_; }
  EpollLoop& loop() { return loop_; }
  Device& device() { return *device_; }
  DmaTable& dma() { return dma_; }
  DmaMessages& messages() { return messages_; }
  IrqTable& irqs() { return irqs_; }

 private:
  EpollLoop& loop_;
  std::string id_;
  DmaTable dma_{loop_};
  DmaMessages messages_{loop_};
  IrqTable irqs_{loop_};
  std::unique_ptr<Device> device_;
};

}  // namespace farside
