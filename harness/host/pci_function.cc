#include "harness/host/pci_function.h"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace farside {
namespace {

// PCI Local Bus 3.0, section 6.1 and 6.2.
constexpr uint32_t kCommand = 0x04;
constexpr uint32_t kStatus = 0x06;
constexpr uint32_t kHeaderType = 0x0e;
constexpr uint32_t kBar0 = 0x10;
constexpr uint32_t kCapabilities = 0x34;
constexpr uint32_t kConventionalSize = 0x100;
constexpr uint16_t kCommandIo = 1 << 0;
constexpr uint16_t kCommandMemory = 1 << 1;
constexpr uint16_t kCommandBusMaster = 1 << 2;
constexpr uint16_t kStatusCapabilities = 1 << 4;
constexpr uint32_t kBarIo = 1 << 0;
constexpr uint32_t kBarType = 3 << 1;
constexpr uint32_t kBarType64 = 2 << 1;
constexpr uint32_t kBarPrefetchable = 1 << 3;
constexpr uint16_t kMsixEnable = 1 << 15;
constexpr uint16_t kMsiEnable = 1 << 0;
constexpr uint32_t kVectorControl = 2;  // Of MSI and MSI-X, from the capability.
// Every capability takes at least four bytes: a longer walk is a circle.
constexpr size_t kMaxCapabilities = (4096 - 0x40) / 4;

template <typename... Args>
tl::unexpected<Error> Broken(fmt::format_string<Args...> format, Args&&... args) {
  return FailWith(EPROTO, "the device breaks PCI: {}",
                  fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace

Result<PciFunction> PciFunction::Probe(DeviceClient& client) {
  PciFunction out(client);
  const auto config = client.GetRegionInfo(kConfigRegion);
  if (!config) return tl::unexpected(config.error());
  if (config->info.size < kConventionalSize) {
    return Broken("its configuration space has {} bytes", config->info.size);
  }
  out.config_size_ = static_cast<uint32_t>(std::min<uint64_t>(config->info.size, 4096));
  for (const auto step :
       {&PciFunction::ReadIds, &PciFunction::SizeBars, &PciFunction::WalkCapabilities,
        &PciFunction::WalkExtendedCapabilities, &PciFunction::ReadVectorCounts}) {
    if (const auto done = (out.*step)(); !done) return tl::unexpected(done.error());
  }
  return out;
}

Result<void> PciFunction::ReadIds() {
  std::array<std::byte, 64> header;
  const auto read = client_->RegionRead({.region = kConfigRegion}, header);
  if (!read) return read;
  const auto at = [&](size_t offset) { return ConstBytes(header).subspan(offset); };
  vendor_ = LoadLe<uint16_t>(at(0));
  device_ = LoadLe<uint16_t>(at(2));
  revision_ = LoadLe<uint8_t>(at(8));
  class_code_ = LoadLe<uint32_t>(at(8)) >> 8;
  subsystem_vendor_ = LoadLe<uint16_t>(at(0x2c));
  subsystem_ = LoadLe<uint16_t>(at(0x2e));
  interrupt_pin_ = LoadLe<uint8_t>(at(0x3d));
  if (vendor_ == 0xffff) return Broken("its vendor id is 0xffff, which says that there is none");
  const auto type = LoadLe<uint8_t>(at(kHeaderType));
  if ((type & 0x7f) != 0) return Broken("its header is of type {}, a function's is 0", type & 0x7f);
  return {};
}

// The mask that the device answers to all ones. `*old` is put back.
Result<uint32_t> PciFunction::SizeBar(uint32_t index, uint32_t* old) {
  const uint32_t offset = kBar0 + 4 * index;
  const auto before = ReadConfig<uint32_t>(offset);
  if (!before) return before;
  *old = *before;
  if (const auto ones = WriteConfig<uint32_t>(offset, ~0u); !ones) {
    return tl::unexpected(ones.error());
  }
  const auto mask = ReadConfig<uint32_t>(offset);
  if (!mask) return mask;
  if (const auto back = WriteConfig<uint32_t>(offset, *before); !back) {
    return tl::unexpected(back.error());
  }
  return *mask;
}

Result<void> PciFunction::SizeBars() {
  const auto command = ReadConfig<uint16_t>(kCommand);
  if (!command) return tl::unexpected(command.error());
  if (const auto off = ChangeCommand(kCommandIo | kCommandMemory, 0); !off) return off;
  for (uint32_t i = 0; i < bars_.size(); ++i) {
    PciBar& bar = bars_[i];
    uint32_t low = 0;
    const auto mask = SizeBar(i, &low);
    if (!mask) return tl::unexpected(mask.error());
    if (*mask == 0) continue;
    const bool io = (*mask & kBarIo) != 0;
    const uint32_t flags = io ? 0x3 : 0xf;
    uint64_t address_mask = *mask & ~flags;
    bar.address = low & ~flags;
    bar.kind = io ? PciBar::Kind::kIo : PciBar::Kind::kMemory32;
    bar.prefetchable = !io && (*mask & kBarPrefetchable) != 0;
    if (!io && (*mask & kBarType) == kBarType64) {
      if (i + 1 == bars_.size()) return Broken("BAR 5 claims to be 64 bits wide");
      uint32_t high = 0;
      const auto upper = SizeBar(++i, &high);
      if (!upper) return tl::unexpected(upper.error());
      bar.kind = PciBar::Kind::kMemory64;
      address_mask |= uint64_t{*upper} << 32;
      bar.address |= uint64_t{high} << 32;
    } else {
      // The upper half of an I/O BAR may be hard-wired to zero.
      address_mask |= io ? 0xffff'ffff'ffff'0000 : 0xffff'ffff'0000'0000;
    }
    bar.size = ~address_mask + 1;
    if (!std::has_single_bit(bar.size)) {
      return Broken("BAR {} answers {:#x} to all ones, its size is no power of two", i, *mask);
    }
  }
  return WriteConfig<uint16_t>(kCommand, *command);
}

Result<void> PciFunction::WalkCapabilities() {
  const auto status = ReadConfig<uint16_t>(kStatus);
  if (!status) return tl::unexpected(status.error());
  if ((*status & kStatusCapabilities) == 0) return {};
  auto next = ReadConfig<uint8_t>(kCapabilities);
  for (; next && (*next & ~3) != 0; next = ReadConfig<uint8_t>(capabilities_.back().offset + 1u)) {
    const auto offset = static_cast<uint16_t>(*next & ~3);
    if (offset < 0x40 || capabilities_.size() == (kConventionalSize - 0x40) / 4) {
      return Broken("its list of capabilities leads to {:#x} or in a circle", offset);
    }
    const auto id = ReadConfig<uint8_t>(offset);
    if (!id) return tl::unexpected(id.error());
    capabilities_.push_back({*id, offset});
  }
  return next ? Result<void>() : tl::unexpected(next.error());
}

// PCI Express Base 3.0, section 7.9.1.
Result<void> PciFunction::WalkExtendedCapabilities() {
  uint32_t offset = kConventionalSize;
  while (offset != 0 && config_size_ == 4096) {
    const auto header = ReadConfig<uint32_t>(offset);
    if (!header) return tl::unexpected(header.error());
    if (*header == 0 || *header == ~0u) return {};
    if (capabilities_.size() == kMaxCapabilities) {
      return Broken("its extended capabilities lead in a circle");
    }
    capabilities_.push_back(
        {static_cast<uint16_t>(*header & 0xffff), static_cast<uint16_t>(offset)});
    offset = *header >> 20 & 0xffc;
    if (offset != 0 && offset < kConventionalSize) {
      return Broken("its extended capabilities lead to {:#x}", offset);
    }
  }
  return {};
}

Result<void> PciFunction::ReadVectorCounts() {
  if (const auto msix = FindCapability(kCapMsix)) {
    const auto control = ReadConfig<uint16_t>(*msix + kVectorControl);
    if (!control) return tl::unexpected(control.error());
    msix_count_ = (*control & 0x7ffu) + 1;
  }
  if (const auto msi = FindCapability(kCapMsi)) {
    const auto control = ReadConfig<uint16_t>(*msi + kVectorControl);
    if (!control) return tl::unexpected(control.error());
    msi_count_ = 1u << std::min(*control >> 1 & 7, 5);
  }
  return {};
}

std::optional<uint16_t> PciFunction::FindCapability(uint16_t id) const {
  for (const PciCapability& capability : capabilities_) {
    if (capability.id == id && capability.offset < kConventionalSize) return capability.offset;
  }
  return std::nullopt;
}

std::optional<uint16_t> PciFunction::FindExtendedCapability(uint16_t id) const {
  for (const PciCapability& capability : capabilities_) {
    if (capability.id == id && capability.offset >= kConventionalSize) return capability.offset;
  }
  return std::nullopt;
}

Result<void> PciFunction::PlaceBars(PciApertures apertures) {
  if (const auto off = ChangeCommand(kCommandIo | kCommandMemory, 0); !off) return off;
  for (uint32_t i = 0; i < bars_.size(); ++i) {
    PciBar& bar = bars_[i];
    if (bar.kind == PciBar::Kind::kNone) continue;
    uint64_t& from = bar.kind == PciBar::Kind::kIo         ? apertures.io
                     : bar.kind == PciBar::Kind::kMemory64 ? apertures.memory64
                                                           : apertures.memory32;
    bar.address = (from + bar.size - 1) & ~(bar.size - 1);
    from = bar.address + bar.size;
    const uint64_t limit = bar.kind == PciBar::Kind::kIo         ? 0x1'0000
                           : bar.kind == PciBar::Kind::kMemory64 ? UINT64_MAX
                                                                 : 0x1'0000'0000;
    if (from > limit || from < bar.size) {
      return FailWith(ENOSPC, "BAR {} of {:#x} bytes finds no place at {:#x}", i, bar.size,
                      bar.address);
    }
    const uint32_t offset = kBar0 + 4 * i;
    if (const auto low = WriteConfig(offset, static_cast<uint32_t>(bar.address)); !low) return low;
    if (bar.kind != PciBar::Kind::kMemory64) continue;
    const auto high = WriteConfig(offset + 4, static_cast<uint32_t>(bar.address >> 32));
    if (!high) return high;
  }
  return {};
}

Result<void> PciFunction::ChangeCommand(uint16_t clear, uint16_t set) {
  const auto command = ReadConfig<uint16_t>(kCommand);
  if (!command) return tl::unexpected(command.error());
  return WriteConfig(kCommand, static_cast<uint16_t>((*command & ~clear) | set));
}

Result<void> PciFunction::Enable(bool bus_master) {
  uint16_t set = bus_master ? kCommandBusMaster : 0;
  for (const PciBar& bar : bars_) {
    if (bar.kind == PciBar::Kind::kNone) continue;
    set |= bar.kind == PciBar::Kind::kIo ? kCommandIo : kCommandMemory;
  }
  return ChangeCommand(0, set);
}

Result<void> PciFunction::Disable() {
  return ChangeCommand(kCommandIo | kCommandMemory | kCommandBusMaster, 0);
}

Result<void> PciFunction::SetMsix(bool enable) {
  const auto at = FindCapability(kCapMsix);
  if (!at) return FailWith(ENODEV, "the device has no MSI-X: use MSI or INTx");
  const auto control = ReadConfig<uint16_t>(*at + kVectorControl);
  if (!control) return tl::unexpected(control.error());
  const int value = enable ? *control | kMsixEnable : *control & ~kMsixEnable;
  return WriteConfig(*at + kVectorControl, static_cast<uint16_t>(value));
}

Result<void> PciFunction::SetMsi(bool enable, uint32_t log2_vectors) {
  const auto at = FindCapability(kCapMsi);
  if (!at) return FailWith(ENODEV, "the device has no MSI: use MSI-X or INTx");
  const auto control = ReadConfig<uint16_t>(*at + kVectorControl);
  if (!control) return tl::unexpected(control.error());
  const uint32_t value = (*control & ~0x71u) | (enable ? kMsiEnable : 0u) | (log2_vectors & 7) << 4;
  return WriteConfig(*at + kVectorControl, static_cast<uint16_t>(value));
}

}  // namespace farside
