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

Task<DmaStatus> Ended(DmaStatus status) { co_return status; }

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

bool PciDevice::TakesBarAccess(uint32_t bar, uint64_t offset, size_t size) const {
  return bar < kBarCount && InRange(offset, size, info_.regions[bar].size) && config_.in_d0();
}

PciDevice::Piece PciDevice::PieceAt(uint32_t bar, uint64_t offset, size_t size) const {
  const MsixSpec& spec = config_.msix();
  if (spec.count == 0 || (bar != spec.table_bar && bar != spec.pba_bar)) {
    return {Owner::kModel, size};
  }
  const struct {
    Owner owner;
    uint32_t bar;
    uint64_t begin;
    uint64_t size;
  } parts[] = {
      {Owner::kMsixTable, spec.table_bar, spec.table_offset, msix_.entries.size()},
      {Owner::kMsixPba, spec.pba_bar, spec.pba_offset, msix_.pending.size() * sizeof(uint64_t)}};
  Piece piece{Owner::kModel, size};
  for (const auto& part : parts) {
    if (part.bar != bar || part.size == 0) continue;
    if (offset < part.begin) {
      piece.size = std::min<uint64_t>(piece.size, part.begin - offset);
    } else if (offset - part.begin < part.size) {
      return {part.owner, std::min<uint64_t>(size, part.begin + part.size - offset)};
    }
  }
  return piece;
}

void PciDevice::ReadRegion(Region region, uint64_t offset, Bytes out) {
  if (region == Region::kConfig) return config_.Read(offset, out);
  const auto bar = static_cast<uint32_t>(region);
  if (!TakesBarAccess(bar, offset, out.size())) return Fill(out, 0xff);
  while (!out.empty()) {
    const Piece piece = PieceAt(bar, offset, out.size());
    const Bytes to = out.first(piece.size);
    if (piece.owner == Owner::kMsixTable) {
      Copy(to, ConstBytes(msix_.entries).subspan(offset - config_.msix().table_offset, to.size()));
    } else if (piece.owner == Owner::kMsixPba) {
      ReadPba(offset - config_.msix().pba_offset, to);
    } else {
      ReadBar(bar, offset, to);
    }
    offset += piece.size;
    out = out.subspan(piece.size);
  }
}

void PciDevice::WriteRegion(Region region, uint64_t offset, ConstBytes in) {
  if (region == Region::kConfig) {
    const PciConfigChange change = config_.Write(offset, in);
    if (change.function_level_reset) return Reset(ResetKind::kFunction);
    if (change.interrupts) UpdateIntx();
    if (change.interrupts || change.bus_master) DeliverPending();
    if (change.bus_master) OnBusMasterChanged();
    return;
  }
  const auto bar = static_cast<uint32_t>(region);
  if (!TakesBarAccess(bar, offset, in.size())) return;
  while (!in.empty()) {
    const Piece piece = PieceAt(bar, offset, in.size());
    const ConstBytes from = in.first(piece.size);
    if (piece.owner == Owner::kMsixTable) {
      Copy(Bytes(msix_.entries).subspan(offset - config_.msix().table_offset, from.size()), from);
      DeliverPending();
    } else if (piece.owner == Owner::kModel) {
      WriteBar(bar, offset, from);
    }
    offset += piece.size;
    in = in.subspan(piece.size);
  }
}

void PciDevice::Reset(ResetKind kind) {
  config_.Reset();
  ResetMsix();
  env_.irq.ClearPending();
  intx_level_ = false;
  UpdateIntx();
  OnReset(kind);
}

std::vector<uint64_t> PciDevice::PendingBits() const {
  std::vector<uint64_t> bits(msix_.pending.size());
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = PendingWord(i);
  return bits;
}

// Of vectors 64 * index on: ours and those of a sink.
uint64_t PciDevice::PendingWord(size_t index) const {
  uint64_t bits = msix_.pending[index];
  if (!env_.irq.owns_msix_table()) return bits;
  const auto first = static_cast<uint32_t>(64 * index);
  for (uint32_t vector = first; vector < std::min(first + 64, info_.msix_count); ++vector) {
    if (env_.irq.msix_pending(vector)) bits |= uint64_t{1} << vector % 64;
  }
  return bits;
}

void PciDevice::ReadPba(uint64_t offset, Bytes out) const {
  const std::vector<uint64_t> bits = PendingBits();
  Copy(out, std::as_bytes(std::span(bits)).subspan(offset, out.size()));
}

bool PciDevice::MsixMasked(uint32_t vector) const {
  if (env_.irq.owns_msix_table()) return false;
  const size_t control = size_t{vector} * pci::kMsixEntrySize + pci::kMsixEntryControl;
  return config_.msix_function_masked() ||
         (LoadLe<uint32_t>(ConstBytes(msix_.entries).subspan(control)) & pci::kMsixEntryMasked);
}

// A message is a write to memory: one that the function may not make is pending, as a masked one.
void PciDevice::SignalMsix(uint32_t vector) {
  if (vector >= info_.msix_count) return;
  if (config_.may_master() && !MsixMasked(vector)) return env_.irq.SignalMsix(vector);
  msix_.pending[vector / 64] |= uint64_t{1} << vector % 64;
}

void PciDevice::SignalVector(uint32_t vector) {
  if (config_.msix_enabled()) return SignalMsix(vector);
  if (!config_.msi_enabled()) return;
  const uint32_t allotted = vector % config_.msi_enabled_count();
  if (!config_.may_master() || config_.msi_masked(allotted)) {
    return config_.set_msi_pending(allotted, true);
  }
  env_.irq.SignalMsi(allotted);
}

void PciDevice::DeliverPending() {
  if (!config_.may_master()) return;
  if (config_.msix_enabled()) {
    if (std::ranges::all_of(msix_.pending, [](uint64_t word) { return word == 0; })) return;
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

bool PciDevice::InsideOwnBar(uint64_t iova, uint64_t size, uint32_t bar, uint64_t offset) const {
  return config_.bar_address(bar) == iova - offset && InRange(offset, size, config_.bar(bar).size);
}

DmaStatus PciDevice::SelfAccess(uint32_t, uint64_t, Bytes, DmaAccess) { return DmaStatus::kFault; }

// An access that goes out is the space's own task: none of the gate's is around it.
Task<DmaStatus> PciDevice::Gate::Read(uint64_t iova, Bytes out) {
  uint32_t bar;
  uint64_t offset;
  if (!device_.config_.may_master()) return Ended(DmaStatus::kFault);
  if (device_.config_.OwnsAddress(iova, out.size(), &bar, &offset)) {
    if (!device_.InsideOwnBar(iova, out.size(), bar, offset)) return Ended(DmaStatus::kFault);
    return Ended(device_.SelfAccess(bar, offset, out, DmaAccess::kRead));
  }
  return device_.env_.dma.Read(iova, out);
}

Task<DmaStatus> PciDevice::Gate::Write(uint64_t iova, ConstBytes in) {
  uint32_t bar;
  uint64_t offset;
  if (!device_.config_.may_master()) return Ended(DmaStatus::kFault);
  if (device_.config_.OwnsAddress(iova, in.size(), &bar, &offset)) {
    if (!device_.InsideOwnBar(iova, in.size(), bar, offset)) return Ended(DmaStatus::kFault);
    std::vector<std::byte> copy(in.begin(), in.end());
    return Ended(device_.SelfAccess(bar, offset, copy, DmaAccess::kWrite));
  }
  return device_.env_.dma.Write(iova, in);
}

// What a lease holds for the function may be written only as long as it masters the bus: a driver
// that switches that off while a transfer is under way takes its memory back.
class PciDevice::Gate::Lease final : public DmaBuffer::Lease {
 public:
  Lease(PciDevice& device, std::unique_ptr<DmaBuffer::Lease> lease)
      : device_(device), lease_(std::move(lease)) {}

  Task<DmaStatus> WriteBack() override {
    if (!device_.config_.may_master()) co_return DmaStatus::kFault;
    co_return co_await lease_->WriteBack();
  }
  bool revoked() const override { return lease_->revoked(); }

 private:
  PciDevice& device_;
  const std::unique_ptr<DmaBuffer::Lease> lease_;
};

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
  const DmaStatus status = co_await device_.env_.dma.Map(segments, access, buffer);
  if (status == DmaStatus::kOk && access == DmaAccess::kWrite) {
    buffer->WrapLease([this](std::unique_ptr<DmaBuffer::Lease> lease) {
      return std::make_unique<Lease>(device_, std::move(lease));
    });
  }
  co_return status;
}

void PciDevice::Save(StateWriter& out) const {
  out.Section("pci", 1);
  out.PutBytes(config_.bytes());
  out.PutBytes(msix_.entries);
  // Those of a sink, too: its peer arms the vectors anew after the move.
  const std::vector<uint64_t> pending = PendingBits();
  out.PutBytes(std::as_bytes(std::span(pending)));
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
  const auto level = in.Get<uint8_t>();
  if (in.remaining() != 0 || level > 1) {
    return Fail(
        "the device state's section 'pci' is of a device with other interrupts, or damaged");
  }

  std::swap(config_, config);
  std::swap(msix_, msix);
  // A model whose registers say what the level is has the last word.
  const bool old_level = std::exchange(intx_level_, level != 0);
  if (const auto loaded = LoadModel(in); !loaded) {
    std::swap(config_, config);
    std::swap(msix_, msix);
    intx_level_ = old_level;
    return loaded;
  }
  UpdateIntx();
  DeliverPending();
  return {};
}

void PciDevice::SaveFast(FastState& out) const {
  out.Clear();
  config_.SaveFast(out);
  out.PutArray(msix_.entries);
  for (size_t i = 0; i < msix_.pending.size(); ++i) out.Put(PendingWord(i));
  out.Put(intx_level_);
  SaveModelFast(out);
}

void PciDevice::LoadFast(const FastState& state) {
  FastReader in(state);
  config_.LoadFast(in);
  in.GetArray(std::span(msix_.entries));
  for (uint64_t& word : msix_.pending) in.Get(word);
  const bool level = in.Get<bool>();
  LoadModelFast(in);
  CHECK(in.done());
  SetIntxLevel(level);
  DeliverPending();
}

}  // namespace farside
