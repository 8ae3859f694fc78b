// ProxyIrqs: the interrupts of a remote device, from its eventfds into KVM (D14, D15).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"
#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/pci/intx.h"

namespace farside::vmm {

// Where a device has its MSI-X table and pending bits, as its capability says.
struct MsixLayout {
  uint32_t count = 0;  // Vectors; 0: no MSI-X.
  uint32_t table_bar = 0;
  uint64_t table_offset = 0;
  uint32_t pba_bar = 0;
  uint64_t pba_offset = 0;

  uint64_t table_size() const { return uint64_t{count} * 16; }
  uint64_t pba_size() const { return (uint64_t{count} + 63) / 64 * 8; }
};

// The MSI-X table and its masks live here. A vector's eventfd is given to the device when the
// vector is first unmasked, and to KVM while it is unmasked: what the device signals meanwhile
// stays in the eventfd, is the pending bit, and comes when KVM gets it back. Any thread.
class ProxyIrqs {
 public:
  // All of them outlive the object.
  ProxyIrqs(Vm& vm, IntxRouter& router, DeviceClient& client)
      : vm_(vm), router_(router), client_(client) {}
  ~ProxyIrqs() { Detach(); }

  void SetMsixLayout(const MsixLayout& layout);
  const MsixLayout& msix() const { return layout_; }

  // Arms INTx, on `pirq`. Where the device takes no eventfd for the end of interrupt,
  // unheard_resample() is its fd, which the owner watches to call Unmask.
  Result<void> StartIntx(uint32_t pirq);
  int unheard_resample() const { return hears_resample_ ? -1 : resample_.get(); }
  void Unmask();

  // The guest's writes to the control words of the capabilities, and to the table.
  void SetMsix(bool enabled, bool masked);
  void SetMsi(uint32_t count, uint64_t address, uint16_t data);  // 0: off.
  void ReadTable(uint64_t offset, Bytes out) const;
  void WriteTable(uint64_t offset, ConstBytes in);
  // Ors the bits that are pending here to the device's own.
  void AddPending(uint64_t offset, Bytes out) const;

  // All off, as a reset has it; INTx stays.
  void Reset();
  // From here on nothing reaches the guest. The device is told unless it is dead.
  void Detach();

 private:
  struct Entry {
    uint64_t address = 0;
    uint32_t data = 0;
    uint32_t control = 1;  // Bit 0: masked.
  };
  struct Vector {
    Entry entry;
    UniqueFd eventfd;
    std::optional<uint32_t> gsi;
    bool armed = false;     // The device has the eventfd.
    bool attached = false;  // KVM has it.
  };

  // With the lock held.
  void Update(uint32_t vector);
  Result<void> Raise(uint32_t vector);
  void Lower(Vector& vector);
  void MsixOff();
  void MsiOff();
  Result<void> MsiOn(uint32_t count, uint64_t address, uint16_t data);

  Vm& vm_;
  IntxRouter& router_;
  DeviceClient& client_;

  UniqueFd interrupt_;
  UniqueFd resample_;
  std::optional<IntxLine> line_;
  bool hears_resample_ = true;

  mutable std::mutex mutex_;
  MsixLayout layout_;
  bool msix_enabled_ = false;
  bool msix_masked_ = false;
  std::vector<Vector> msix_;
  std::vector<Vector> msi_;
};

}  // namespace farside::vmm
