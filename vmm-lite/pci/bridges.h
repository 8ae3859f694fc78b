// The bridges of the machine: what the chipset shows as PCI functions.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/pci/intx.h"
#include "vmm-lite/pci/pci_bus.h"
#include "vmm-lite/pci/pci_function.h"

namespace farside::vmm {

// A function of which a configuration space is all there is.
class ConfigOnlyFunction : public PciFunction {
 public:
  void ReadConfig(uint32_t cpu, uint32_t offset, Bytes out) override;
  void WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) override;
  void Reset() override;

 protected:
  void Identify(uint16_t vendor, uint16_t device, uint32_t class_code, uint8_t header_type);
  // Called with the lock held, after a write of `size` bytes at `offset`.
  virtual void OnWritten(uint32_t offset, size_t size) {
    (void)offset;
    (void)size;
  }
  // Gives registers their values after a reset; with the lock held.
  virtual void OnReset() = 0;

  std::mutex mutex_;
  ConfigSpace config_;
};

// 82441FX's identity, by which SeaBIOS and Linux know a PC; its shadow registers are storage: RAM
// lies below 1 MiB whatever they say.
class HostBridge final : public ConfigOnlyFunction {
 public:
  HostBridge();

 private:
  void OnReset() override;
};

// PIIX3's PCI-to-ISA bridge (82371SB, section 2.3): identity and PIRQ route registers.
class IsaBridge final : public ConfigOnlyFunction {
 public:
  explicit IsaBridge(IntxRouter& router);

 private:
  void OnWritten(uint32_t offset, size_t size) override;
  void OnReset() override;

  IntxRouter& router_;
};

// A PCI Express root port with one hot-plug slot (PCI Express 3.0, sections 6.7 and 7.8).
// Interrupts are MSI's. The bridge's windows are the guest's own business: BARs behind it answer
// wherever they are.
class RootPort final : public ConfigOnlyFunction {
 public:
  // `port` numbers the slot for people. `on_removed` is called with what the guest has switched
  // off, or what was pulled out, after it has left its slot.
  using OnRemoved = std::function<void(std::shared_ptr<PciFunction>)>;
  RootPort(Vm& vm, std::string id, uint8_t port, OnRemoved on_removed);

  const std::string& id() const { return id_; }
  bool empty() const { return bus_.Get(0) == nullptr; }
  // Into an empty slot. Before the guest runs, or at any time.
  void Plug(std::shared_ptr<PciFunction> function);
  // Presses the attention button: the guest lets go of the device and switches the slot off.
  void AskToRemove();
  // The device is gone already.
  void PullOut();

  void WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) override;
  PciBus* FindBus(uint8_t number) override;

 private:
  void OnWritten(uint32_t offset, size_t size) override;
  void OnReset() override;
  // With the lock held: sets Slot Status events and signals them if the guest asks for that.
  void Notify(uint16_t events);
  void SetLink(bool up);
  std::shared_ptr<PciFunction> TakeOut();

  Vm& vm_;
  const std::string id_;
  const OnRemoved on_removed_;
  PciBus bus_;
  bool power_off_ = false;                // As Slot Control has it.
  std::shared_ptr<PciFunction> removed_;  // Handed to on_removed_ once nothing is locked.
};

}  // namespace farside::vmm
