// PciConfig: a function's configuration space, with the masks of what a driver may write.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "devices/core/device.h"
#include "devices/core/fast_state.h"
#include "devices/core/pci_registers.h"

namespace farside {

struct PciIds {
  uint16_t vendor = 0;
  uint16_t device = 0;
  uint16_t subsystem_vendor = 0;
  uint16_t subsystem = 0;
  uint32_t class_code = 0;  // Base class, subclass, interface: 0x010802 is NVMe.
  uint8_t revision = 0;
};

enum class BarKind : uint8_t { kNone, kIo, kMemory32, kMemory64 };

struct BarSpec {
  BarKind kind = BarKind::kNone;  // kMemory64 takes the next BAR's place too.
  uint64_t size = 0;              // In bytes: a power of two, at least 16 (4 for I/O).
  bool prefetchable = false;
};

struct MsixSpec {
  uint32_t count = 0;  // 1..2048.
  uint32_t table_bar = 0;
  uint32_t table_offset = 0;
  uint32_t pba_bar = 0;
  uint32_t pba_offset = 0;
};

// What a write to configuration space changed that somebody must act upon.
struct PciConfigChange {
  bool interrupts = false;            // MSI, MSI-X or INTx enables or masks.
  bool bus_master = false;            // Or the power state, which gates the same.
  bool bars = false;                  // Addresses or decode enables.
  bool function_level_reset = false;  // Asked for by this write.
};

// 4096 bytes of a type 0 function. Built once, capabilities in the order of the calls.
class PciConfig {
 public:
  PciConfig(const PciIds& ids, const std::array<BarSpec, kBarCount>& bars, bool has_intx);

  void AddPowerManagement();
  void AddPcieEndpoint();
  void AddMsi(uint32_t count);  // A power of two up to 32. 64-bit address, per-vector masks.
  void AddMsix(const MsixSpec& spec);

  // Any offset and size inside configuration space.
  void Read(uint64_t offset, Bytes out) const;
  PciConfigChange Write(uint64_t offset, ConstBytes in);
  void Reset();

  uint16_t command() const { return Load16(pci::kCommand); }
  bool in_d0() const { return power_state() == pci::kPmcsrD0; }
  // The function may use the bus: bus mastering on and power state D0.
  bool may_master() const { return (command() & pci::kCommandBusMaster) != 0 && in_d0(); }
  bool intx_disabled() const { return (command() & pci::kCommandIntxDisable) != 0; }

  const BarSpec& bar(uint32_t index) const { return bars_[index]; }
  // Where a BAR lies, if its decode is enabled. An address of 0 is none: a client that keeps the
  // BAR registers to itself (cloud-hypervisor) leaves that here.
  std::optional<uint64_t> bar_address(uint32_t index) const;
  // True when [iova, iova + size) touches an enabled memory BAR of this function; `*bar` and
  // `*offset` then say where the first byte inside lies.
  bool OwnsAddress(uint64_t iova, uint64_t size, uint32_t* bar, uint64_t* offset) const;

  void set_interrupt_status(bool asserted);

  bool msi_enabled() const;
  uint32_t msi_enabled_count() const;  // Vectors the driver allotted.
  bool msi_masked(uint32_t vector) const;
  void set_msi_pending(uint32_t vector, bool pending);
  bool msi_pending(uint32_t vector) const;

  bool msix_enabled() const;
  bool msix_function_masked() const;
  const MsixSpec& msix() const { return msix_; }

  // All bytes, for saved state.
  ConstBytes bytes() const { return bytes_; }
  // Takes over what a driver may write, and the device's own status bits, from saved bytes. Refused
  // if what is fixed differs: the state is of another device.
  Result<void> Load(ConstBytes saved);
  // As Device::SaveFast and LoadFast.
  void SaveFast(FastState& out) const { out.Put(bytes_); }
  void LoadFast(FastReader& in) { in.Get(bytes_); }

 private:
  uint16_t Load16(uint32_t offset) const {
    return LoadLe<uint16_t>(ConstBytes(bytes_).subspan(offset));
  }
  uint32_t Load32(uint32_t offset) const {
    return LoadLe<uint32_t>(ConstBytes(bytes_).subspan(offset));
  }
  // Bits of PMCSR; D0 where there is no power management.
  uint32_t power_state() const {
    return pm_ == 0 ? pci::kPmcsrD0 : Load16(pm_ + pci::kPmcsr) & pci::kPmcsrStateMask;
  }
  template <typename T>
  void Define(uint32_t offset, T value, T writable = 0, T clear = 0);
  uint32_t AddCapability(uint8_t id, uint32_t size);
  void DefineBar(uint32_t index);
  uint64_t RawBarAddress(uint32_t index) const;

  std::array<BarSpec, kBarCount> bars_;
  MsixSpec msix_;
  uint32_t capabilities_end_ = pci::kFirstCapability;
  uint32_t last_capability_ = 0;  // Offset of the pointer to the next one.
  uint32_t pm_ = 0;               // Offsets of capabilities; 0 where absent.
  uint32_t pcie_ = 0;
  uint32_t msi_cap_ = 0;
  uint32_t msix_cap_ = 0;

  std::array<std::byte, pci::kConfigSize> bytes_{};
  std::array<std::byte, pci::kConfigSize> reset_{};
  std::array<std::byte, pci::kConfigSize> writable_{};
  std::array<std::byte, pci::kConfigSize> clear_{};     // RW1C.
  std::array<std::byte, pci::kConfigSize> volatile_{};  // Read-only bits the device itself moves.
};

}  // namespace farside
