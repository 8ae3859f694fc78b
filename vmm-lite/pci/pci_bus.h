// PciBus and PciHost: slots, and the two ways by which guests reach their configuration space.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>

#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/pci/pci_function.h"

namespace farside::vmm {

// One function a slot. Any thread may plug and unplug.
class PciBus {
 public:
  static constexpr uint32_t kSlots = 32;

  std::shared_ptr<PciFunction> Get(uint32_t slot) const {
    const std::shared_lock lock(mutex_);
    return slots_[slot];
  }
  void Set(uint32_t slot, std::shared_ptr<PciFunction> function) {
    const std::unique_lock lock(mutex_);
    slots_[slot] = std::move(function);
  }
  // The first empty slot, if there is one.
  std::optional<uint32_t> FindFree() const;
  // Bus `number` behind one of this bus's bridges, or null.
  PciBus* FindBus(uint8_t number) const;
  void Reset();

 private:
  mutable std::shared_mutex mutex_;
  std::array<std::shared_ptr<PciFunction>, kSlots> slots_;
};

// Bus 0 with its two access mechanisms: ports CF8 and CFC (PCI 3.0, section 3.2.2.3.2), and memory
// (PCI Express 3.0, section 7.2.2).
class PciHost {
 public:
  PciBus& bus() { return bus_; }

  // Handlers for kPciConfigAddressPort (8 ports) and kEcamBase. The host outlives them. `on_reset`
  // is called when the guest writes the reset value to port CF9.
  std::shared_ptr<IoHandler> MakePorts(std::function<void()> on_reset);
  std::shared_ptr<IoHandler> MakeEcam();

 private:
  class Ports;
  class Ecam;

  // Where nothing is, reads are ones.
  void Read(uint32_t cpu, uint32_t bdf, uint32_t offset, Bytes out) const;
  void Write(uint32_t cpu, uint32_t bdf, uint32_t offset, ConstBytes in) const;
  std::shared_ptr<PciFunction> Find(uint32_t bdf) const;

  PciBus bus_;
};

}  // namespace farside::vmm
