#include "devices/core/pci_device.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace farside {
namespace {

DeviceInfo MakeInfo(std::string_view model, const PciConfig& config, uint32_t msi_count) {
  DeviceInfo info{.model = model};
  for (uint32_t i = 0; i < kBarCount; ++i) info.regions[i].size = config.bar(i).size;
  info.regions[static_cast<size_t>(Region::kConfig)].size = pci::kConfigSize;
  info.intx_count = std::to_integer<uint32_t>(config.bytes()[pci::kInterruptPin]) != 0 ? 1 : 0;
  info.msi_count = msi_count;
  info.msix_count = config.msix().count;
  return info;
}

}  // namespace

PciDevice::PciDevice(std::string_view model, DeviceEnv env, const PciConfig& config,
                     uint32_t msi_count)
    : env_(std::move(env)), config_(config), info_(MakeInfo(model, config, msi_count)) {
  msix_.entries.resize(size_t{info_.msix_count} * pci::kMsixEntrySize);
  msix_.pending.resize((info_.msix_count + 63) / 64);
  ResetMsix();
}

void PciDevice::ResetMsix() {
  for (size_t i = 0; i < msix_.entries.size(); ++i) {
    const bool control = i % pci::kMsixEntrySize == pci::kMsixEntryControl;
    msix_.entries[i] = control ? std::byte{pci::kMsixEntryMasked} : std::byte{0};
  }
  std::ranges::fill(msix_.pending, 0);
}

void PciDevice::ReadRegion(Region region, uint64_t offset, Bytes out) {
  if (region == Region::kConfig) return config_.Read(offset, out);
  const auto bar = static_cast<uint32_t>(region);
  if (bar >= kBarCount || !InRange(offset, out.size(), info_.region(region).size) ||
      !config_.in_d0()) {
    return Fill(out, 0xff);
  }
  if (InMsixTable(bar, offset)) {
    Fill(out, 0);
    const auto entries = ConstBytes(msix_.entries).subspan(offset - config_.msix().table_offset);
    const size_t size = std::min(out.size(), entries.size());
    return Copy(out.first(size), entries.first(size));
  }
  if (InMsixPba(bar, offset)) return ReadPba(offset - config_.msix().pba_offset, out);
  ReadBar(bar, offset, out);
}

void PciDevice::WriteRegion(Region region, uint64_t offset, ConstBytes in) {
  if (region == Region::kConfig) {
    const PciConfigChange change = config_.Write(offset, in);
    if (change.function_level_reset) return Reset(ResetKind::kFunction);
    if (change.interrupts) {
      UpdateIntx();
      DeliverPending();
    }
    if (change.bus_master) OnBusMasterChanged();
    return;
  }
  const auto bar = static_cast<uint32_t>(region);
  if (bar >= kBarCount || !InRange(offset, in.size(), info_.region(region).size) ||
      !config_.in_d0()) {
    return;
  }
  if (InMsixTable(bar, offset)) {
    const auto entries = Bytes(msix_.entries).subspan(offset - config_.msix().table_offset);
    const size_t size = std::min(in.size(), entries.size());
    Copy(entries.first(size), in.first(size));
    return DeliverPending();
  }
  if (InMsixPba(bar, offset)) return;  // Read-only.
  WriteBar(bar, offset, in);
}

void PciDevice::Reset(ResetKind kind) {
  config_.Reset();
  ResetMsix();
  intx_level_ = false;
  UpdateIntx();
  OnReset(kind);
}

bool PciDevice::InMsixTable(uint32_t bar, uint64_t offset) const {
  const MsixSpec& spec = config_.msix();
  return spec.count != 0 && bar == spec.table_bar && offset >= spec.table_offset &&
         offset - spec.table_offset < msix_.entries.size();
}

bool PciDevice::InMsixPba(uint32_t bar, uint64_t offset) const {
  const MsixSpec& spec = config_.msix();
  return spec.count != 0 && bar == spec.pba_bar && offset >= spec.pba_offset &&
         offset - spec.pba_offset < msix_.pending.size() * sizeof(uint64_t);
}

void PciDevice::ReadPba(uint64_t offset, Bytes out) const {
  std::vector<uint64_t> bits = msix_.pending;
  if (env_.irq.owns_msix_table()) {
    for (uint32_t vector = 0; vector < info_.msix_count; ++vector) {
      if (env_.irq.msix_pending(vector)) bits[vector / 64] |= uint64_t{1} << vector % 64;
    }
  }
  Fill(out, 0);
  const auto bytes = std::as_bytes(std::span(bits)).subspan(offset);
  const size_t size = std::min(out.size(), bytes.size());
  Copy(out.first(size), bytes.first(size));
}

bool PciDevice::MsixMasked(uint32_t vector) const {
  if (env_.irq.owns_msix_table()) return false;
  const size_t control = size_t{vector} * pci::kMsixEntrySize + pci::kMsixEntryControl;
  return config_.msix_function_masked() ||
         (LoadLe<uint32_t>(ConstBytes(msix_.entries).subspan(control)) & pci::kMsixEntryMasked);
}

void PciDevice::SignalMsix(uint32_t vector) {
  if (vector >= info_.msix_count) return;
  if (!MsixMasked(vector)) return env_.irq.SignalMsix(vector);
  msix_.pending[vector / 64] |= uint64_t{1} << vector % 64;
}

void PciDevice::SignalVector(uint32_t vector) {
  if (config_.msix_enabled()) return SignalMsix(vector);
  if (!config_.msi_enabled()) return;
  const uint32_t allotted = vector % config_.msi_enabled_count();
  if (config_.msi_masked(allotted)) return config_.set_msi_pending(allotted, true);
  env_.irq.SignalMsi(allotted);
}

void PciDevice::DeliverPending() {
  if (config_.msix_enabled()) {
    for (uint32_t vector = 0; vector < info_.msix_count; ++vector) {
      uint64_t& word = msix_.pending[vector / 64];
      const uint64_t bit = uint64_t{1} << vector % 64;
      if ((word & bit) == 0 || MsixMasked(vector)) continue;
      word &= ~bit;
      env_.irq.SignalMsix(vector);
    }
  } else if (config_.msi_enabled()) {
    for (uint32_t vector = 0; vector < config_.msi_enabled_count(); ++vector) {
      if (!config_.msi_pending(vector) || config_.msi_masked(vector)) continue;
      config_.set_msi_pending(vector, false);
      env_.irq.SignalMsi(vector);
    }
  }
}

void PciDevice::SetIntxLevel(bool asserted) {
  intx_level_ = asserted;
  UpdateIntx();
}

void PciDevice::UpdateIntx() {
  if (info_.intx_count == 0) return;
  // PCI 3.0 section 6.2.3: the status bit shows the function's state, whatever the disable bit
  // says.
  const bool asserted = intx_level_ && !vectors_enabled();
  config_.set_interrupt_status(asserted);
  const bool line = asserted && !config_.intx_disabled();
  if (std::exchange(intx_line_, line) != line) env_.irq.SetIntx(line);
}

DmaStatus PciDevice::SelfAccess(uint32_t, uint64_t, Bytes, DmaAccess) { return DmaStatus::kFault; }

Task<DmaStatus> PciDevice::Gate::Read(uint64_t iova, Bytes out) {
  uint32_t bar;
  uint64_t offset;
  if (!device_.config_.may_master()) co_return DmaStatus::kFault;
  if (device_.config_.OwnsAddress(iova, out.size(), &bar, &offset)) {
    co_return device_.SelfAccess(bar, offset, out, DmaAccess::kRead);
  }
  co_return co_await device_.env_.dma.Read(iova, out);
}

Task<DmaStatus> PciDevice::Gate::Write(uint64_t iova, ConstBytes in) {
  uint32_t bar;
  uint64_t offset;
  if (!device_.config_.may_master()) co_return DmaStatus::kFault;
  if (device_.config_.OwnsAddress(iova, in.size(), &bar, &offset)) {
    std::vector<std::byte> copy(in.begin(), in.end());
    co_return device_.SelfAccess(bar, offset, copy, DmaAccess::kWrite);
  }
  co_return co_await device_.env_.dma.Write(iova, in);
}

Task<DmaStatus> PciDevice::Gate::Map(std::span<const DmaSegment> segments, DmaAccess access,
                                     DmaBuffer* buffer) {
  uint32_t bar;
  uint64_t offset;
  if (!device_.config_.may_master()) co_return DmaStatus::kFault;
  for (const DmaSegment& segment : segments) {
    if (device_.config_.OwnsAddress(segment.iova, segment.size, &bar, &offset)) {
      co_return DmaStatus::kFault;
    }
  }
  co_return co_await device_.env_.dma.Map(segments, access, buffer);
}

void PciDevice::Save(StateWriter& out) const {
  out.Section("pci", 1);
  out.PutBytes(config_.bytes());
  out.PutBytes(msix_.entries);
  out.PutBytes(std::as_bytes(std::span(msix_.pending)));
  out.Put(static_cast<uint8_t>(intx_level_));
  SaveModel(out);
}

Result<void> PciDevice::Load(StateReader& in) {
  if (const auto version = in.Section("pci", 1); !version) return tl::unexpected(version.error());
  std::vector<std::byte> bytes(pci::kConfigSize);
  in.GetBytes(bytes);
  PciConfig config = config_;
  if (const auto loaded = config.Load(bytes); !loaded) return loaded;
  MsixTable msix = msix_;
  in.GetBytes(msix.entries);
  in.GetBytes(std::as_writable_bytes(std::span(msix.pending)));
  const bool level = in.Get<uint8_t>() != 0;

  std::swap(config_, config);
  std::swap(msix_, msix);
  if (const auto loaded = LoadModel(in); !loaded) {
    std::swap(config_, config);
    std::swap(msix_, msix);
    return loaded;
  }
  SetIntxLevel(level);
  return {};
}

}  // namespace farside
