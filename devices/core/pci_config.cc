#include "devices/core/pci_config.h"

#include <bit>

#include "base/check.h"
#include "base/mutant.h"

namespace farside {

using namespace pci;  // NOLINT: register names only.

template <typename T>
void PciConfig::Define(uint32_t offset, T value, T writable, T clear) {
  StoreLe(Bytes(bytes_).subspan(offset), value);
  StoreLe(Bytes(reset_).subspan(offset), value);
  StoreLe(Bytes(writable_).subspan(offset), writable);
  StoreLe(Bytes(clear_).subspan(offset), clear);
}

PciConfig::PciConfig(const PciIds& ids, const std::array<BarSpec, kBarCount>& bars, bool has_intx)
    : bars_(bars) {
  Define(kVendorId, ids.vendor);
  Define(kDeviceId, ids.device);
  bool has_io = false;
  bool has_memory = false;
  for (const BarSpec& bar : bars_) {
    has_io |= bar.kind == BarKind::kIo;
    has_memory |= bar.kind == BarKind::kMemory32 || bar.kind == BarKind::kMemory64;
  }
  const int command = (has_io ? kCommandIo : 0) | (has_memory ? kCommandMemory : 0) |
                      kCommandBusMaster | kCommandParity | kCommandSerr |
                      (has_intx ? kCommandIntxDisable : 0);
  Define(kCommand, uint16_t{0}, static_cast<uint16_t>(command));
  Define(kStatus, uint16_t{0}, uint16_t{0}, kStatusErrors);
  StoreLe(Bytes(volatile_).subspan(kStatus), kStatusInterrupt);
  Define(kRevision, ids.revision);
  for (uint32_t i = 0; i < 3; ++i) {
    Define(kClassCode + i, static_cast<uint8_t>(ids.class_code >> (8 * i)));
  }
  Define(kCacheLineSize, uint8_t{0}, uint8_t{0xff});
  Define(kSubsystemVendorId, ids.subsystem_vendor);
  Define(kSubsystemId, ids.subsystem);
  if (has_intx) {
    Define(kInterruptLine, uint8_t{0}, uint8_t{0xff});
    Define(kInterruptPin, uint8_t{1});
  }
  for (uint32_t i = 0; i < kBarCount; ++i) DefineBar(i);
}

void PciConfig::DefineBar(uint32_t index) {
  const BarSpec& bar = bars_[index];
  if (bar.kind == BarKind::kNone) return;
  const bool is_io = bar.kind == BarKind::kIo;
  CHECK(std::has_single_bit(bar.size) && bar.size >= (is_io ? 4 : 16));
  const uint64_t writable = ~(bar.size - 1);
  uint32_t flags = is_io ? kBarIo : 0;
  if (bar.kind == BarKind::kMemory64) flags |= kBar64;
  if (bar.prefetchable) flags |= kBarPrefetchable;
  Define(kBar0 + 4 * index, flags, static_cast<uint32_t>(writable));
  if (bar.kind != BarKind::kMemory64) return;
  CHECK(index + 1 < kBarCount && bars_[index + 1].kind == BarKind::kNone);
  Define(kBar0 + 4 * index + 4, uint32_t{0}, static_cast<uint32_t>(writable >> 32));
}

uint32_t PciConfig::AddCapability(uint8_t id, uint32_t size) {
  const uint32_t offset = capabilities_end_;
  capabilities_end_ += (size + 3) & ~3u;
  CHECK(capabilities_end_ <= kConventionalSize);
  Define(last_capability_ == 0 ? kCapabilities : last_capability_, static_cast<uint8_t>(offset));
  Define(kStatus, kStatusCapabilities, uint16_t{0}, kStatusErrors);
  Define(offset, id);
  last_capability_ = offset + 1;
  return offset;
}

void PciConfig::AddPowerManagement() {
  pm_ = AddCapability(kCapPowerManagement, 8);
  Define(pm_ + 2, uint16_t{0x0003});  // Version 1.2; D0 and D3hot only, no PME.
  Define(pm_ + kPmcsr, kPmcsrNoSoftReset, kPmcsrStateMask);
}

void PciConfig::AddPcieEndpoint() {
  pcie_ = AddCapability(kCapPcie, kPcieSize);
  Define(pcie_ + kPcieCapabilities, uint16_t{0x0002});  // Version 2, endpoint.
  // 128-byte payload, role-based error reporting, function-level reset.
  Define(pcie_ + kPcieDeviceCapabilities, uint32_t{kPcieFlrCapable | 1 << 15});
  // Error enables, relaxed ordering, payload and read request size, no-snoop; status is RW1C.
  Define(pcie_ + kPcieDeviceControl, uint32_t{0x2810}, uint32_t{0x78ff}, uint32_t{0x000f'0000});
  Define(pcie_ + kPcieLinkCapabilities, uint32_t{0x11});  // x1, 2.5 GT/s.
  Define(pcie_ + kPcieLinkStatus, uint16_t{0x11});
  Define(pcie_ + kPcieDeviceCapabilities2, uint32_t{0});
  Define(pcie_ + kPcieDeviceControl2, uint16_t{0});
}

void PciConfig::AddMsi(uint32_t count) {
  CHECK(std::has_single_bit(count) && count <= 32);
  msi_cap_ = AddCapability(kCapMsi, kMsiSize);
  const auto capable = static_cast<uint16_t>(std::countr_zero(count) << 1);
  Define(msi_cap_ + kMsiControl, static_cast<uint16_t>(kMsi64 | kMsiPerVectorMask | capable),
         static_cast<uint16_t>(kMsiEnable | 7 << 4));
  Define(msi_cap_ + kMsiAddress, uint64_t{0}, ~uint64_t{3});
  Define(msi_cap_ + kMsiData, uint16_t{0}, uint16_t{0xffff});
  const auto vectors = static_cast<uint32_t>((uint64_t{1} << count) - 1);
  Define(msi_cap_ + kMsiMask, uint32_t{0}, vectors);
  StoreLe(Bytes(volatile_).subspan(msi_cap_ + kMsiPending), vectors);
}

void PciConfig::AddMsix(const MsixSpec& spec) {
  CHECK(spec.count >= 1 && spec.count <= 2048);
  CHECK(spec.table_offset % 8 == 0 && spec.pba_offset % 8 == 0);
  msix_ = spec;
  msix_cap_ = AddCapability(kCapMsix, kMsixSize);
  Define(msix_cap_ + kMsixControl,
         static_cast<uint16_t>(spec.count - (MUTANT("pci-msix-one-more") ? 0 : 1)),
         static_cast<uint16_t>(kMsixEnable | kMsixFunctionMask));
  Define(msix_cap_ + kMsixTable, spec.table_offset | spec.table_bar);
  Define(msix_cap_ + kMsixPba, spec.pba_offset | spec.pba_bar);
}

void PciConfig::Read(uint64_t offset, Bytes out) const {
  CHECK(InRange(offset, out.size(), kConfigSize));
  Copy(out, ConstBytes(bytes_).subspan(offset, out.size()));
}

PciConfigChange PciConfig::Write(uint64_t offset, ConstBytes in) {
  CHECK(InRange(offset, in.size(), kConfigSize));
  const std::byte power = bytes_[pm_ + kPmcsr];
  for (size_t i = 0; i < in.size(); ++i) {
    const size_t at = offset + i;
    bytes_[at] = ((bytes_[at] & ~writable_[at]) | (in[i] & writable_[at])) & ~(in[i] & clear_[at]);
  }
  // Power Management 1.2 section 3.2.4: a state that the function lacks is discarded.
  if (!in_d0() && power_state() != kPmcsrD3Hot) bytes_[pm_ + kPmcsr] = power;
  const auto touches = [&](uint32_t begin, uint32_t size) {
    return offset < begin + size && begin < offset + in.size();
  };
  PciConfigChange change;
  change.bars = touches(kBar0, 4 * kBarCount) || touches(kCommand, 1);
  change.bus_master = touches(kCommand, 1) || (pm_ != 0 && touches(pm_ + kPmcsr, 1));
  change.interrupts = touches(kCommand, 2) || (msi_cap_ != 0 && touches(msi_cap_, kMsiSize)) ||
                      (msix_cap_ != 0 && touches(msix_cap_, kMsixSize));
  if (pcie_ != 0 && touches(pcie_ + kPcieDeviceControl + 1, 1)) {
    const auto high = in[pcie_ + kPcieDeviceControl + 1 - offset];
    change.function_level_reset = (std::to_integer<int>(high) & kPcieInitiateFlr >> 8) != 0;
  }
  return change;
}

void PciConfig::Reset() { bytes_ = reset_; }

uint64_t PciConfig::RawBarAddress(uint32_t index) const {
  const uint32_t low = Load32(kBar0 + 4 * index);
  if (bars_[index].kind == BarKind::kIo) return low & ~kBarIoFlags;
  uint64_t address = low & ~kBarMemoryFlags;
  if (bars_[index].kind == BarKind::kMemory64) {
    address |= uint64_t{Load32(kBar0 + 4 * index + 4)} << 32;
  }
  return address;
}

std::optional<uint64_t> PciConfig::bar_address(uint32_t index) const {
  const BarKind kind = bars_[index].kind;
  if (kind == BarKind::kNone) return std::nullopt;
  const uint16_t enable = kind == BarKind::kIo ? kCommandIo : kCommandMemory;
  if ((command() & enable) == 0) return std::nullopt;
  const uint64_t address = RawBarAddress(index);
  return address == 0 ? std::nullopt : std::optional(address);
}

bool PciConfig::OwnsAddress(uint64_t iova, uint64_t size, uint32_t* bar, uint64_t* offset) const {
  // Of each DMA access: what bar_address says, without asking for the Command register each time.
  if ((command() & kCommandMemory) == 0) return false;
  for (uint32_t i = 0; i < kBarCount; ++i) {
    if (bars_[i].kind != BarKind::kMemory32 && bars_[i].kind != BarKind::kMemory64) continue;
    const uint64_t address = RawBarAddress(i);
    if (address == 0) continue;
    // The last bytes of either range may be the last of the address space: compare sizes.
    const bool begins_inside = iova >= address && iova - address < bars_[i].size;
    const bool reaches_in = iova < address && address - iova < size;
    if (!begins_inside && !reaches_in) continue;
    *bar = i;
    *offset = begins_inside ? iova - address : 0;
    return true;
  }
  return false;
}

void PciConfig::set_interrupt_status(bool asserted) {
  const uint16_t status = Load16(kStatus);
  const int value = asserted ? status | kStatusInterrupt : status & ~kStatusInterrupt;
  StoreLe(Bytes(bytes_).subspan(kStatus), static_cast<uint16_t>(value));
}

bool PciConfig::msi_enabled() const {
  return msi_cap_ != 0 && (Load16(msi_cap_ + kMsiControl) & kMsiEnable) != 0;
}

uint32_t PciConfig::msi_enabled_count() const {
  const uint16_t control = Load16(msi_cap_ + kMsiControl);
  // A driver that enables more than the function has gets what there is.
  return 1u << std::min((control >> 4) & 7, (control >> 1) & 7);
}

bool PciConfig::msi_masked(uint32_t vector) const {
  return (Load32(msi_cap_ + kMsiMask) >> vector & 1) != 0;
}

void PciConfig::set_msi_pending(uint32_t vector, bool pending) {
  const uint32_t bits = Load32(msi_cap_ + kMsiPending);
  const uint32_t bit = 1u << vector;
  StoreLe(Bytes(bytes_).subspan(msi_cap_ + kMsiPending), pending ? bits | bit : bits & ~bit);
}

bool PciConfig::msi_pending(uint32_t vector) const {
  return (Load32(msi_cap_ + kMsiPending) >> vector & 1) != 0;
}

bool PciConfig::msix_enabled() const {
  return msix_cap_ != 0 && (Load16(msix_cap_ + kMsixControl) & kMsixEnable) != 0;
}

bool PciConfig::msix_function_masked() const {
  return (Load16(msix_cap_ + kMsixControl) & kMsixFunctionMask) != 0;
}

Result<void> PciConfig::Load(ConstBytes saved) {
  if (saved.size() != kConfigSize) {
    return Fail("the saved configuration space has {} bytes instead of {}", saved.size(),
                kConfigSize);
  }
  for (size_t i = 0; i < kConfigSize; ++i) {
    const std::byte moving = writable_[i] | clear_[i] | volatile_[i];
    if ((saved[i] & ~moving) != (reset_[i] & ~moving)) {
      return Fail(
          "the saved configuration space differs at {:#x} in what never changes: the state "
          "is of another device or of one with other options",
          i);
    }
  }
  std::array<std::byte, kConfigSize> before = bytes_;
  Copy(bytes_, saved);
  if (in_d0() || power_state() == kPmcsrD3Hot) return {};
  bytes_ = before;
  return Fail("the saved configuration space has a power state that the device lacks");
}

}  // namespace farside
