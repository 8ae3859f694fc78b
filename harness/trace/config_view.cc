#include "harness/trace/config_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace farside::trace {
namespace {

struct Name {
  uint32_t offset;
  uint32_t size;
  std::string_view name;
};

// PCI Local Bus 3.0, section 6.1.
constexpr Name kHeader[] = {
    {pci::kVendorId, 2, "Vendor ID"},
    {pci::kDeviceId, 2, "Device ID"},
    {pci::kCommand, 2, "Command"},
    {pci::kStatus, 2, "Status"},
    {pci::kRevision, 1, "Revision ID"},
    {pci::kClassCode, 3, "Class Code"},
    {pci::kCacheLineSize, 1, "Cache Line Size"},
    {pci::kLatencyTimer, 1, "Latency Timer"},
    {pci::kHeaderType, 1, "Header Type"},
    {0x0f, 1, "BIST"},
    {pci::kBar0, 4, "BAR0"},
    {pci::kBar0 + 4, 4, "BAR1"},
    {pci::kBar0 + 8, 4, "BAR2"},
    {pci::kBar0 + 12, 4, "BAR3"},
    {pci::kBar0 + 16, 4, "BAR4"},
    {pci::kBar0 + 20, 4, "BAR5"},
    {0x28, 4, "CardBus CIS Pointer"},
    {pci::kSubsystemVendorId, 2, "Subsystem Vendor ID"},
    {pci::kSubsystemId, 2, "Subsystem ID"},
    {pci::kRomAddress, 4, "Expansion ROM Base Address"},
    {pci::kCapabilities, 1, "Capabilities Pointer"},
    {pci::kInterruptLine, 1, "Interrupt Line"},
    {pci::kInterruptPin, 1, "Interrupt Pin"},
    {0x3e, 1, "Min_Gnt"},
    {0x3f, 1, "Max_Lat"},
};

// Offsets from the capability.
constexpr Name kPowerManagement[] = {{2, 2, "Capabilities"}, {pci::kPmcsr, 2, "Control/Status"}};
constexpr Name kMsi[] = {
    {pci::kMsiControl, 2, "Message Control"},
    {pci::kMsiAddress, 4, "Message Address"},
    {pci::kMsiAddress + 4, 4, "Message Upper Address"},
    {pci::kMsiData, 2, "Message Data"},
    {pci::kMsiMask, 4, "Mask Bits"},
    {pci::kMsiPending, 4, "Pending Bits"},
};
constexpr Name kMsix[] = {
    {pci::kMsixControl, 2, "Message Control"},
    {pci::kMsixTable, 4, "Table Offset"},
    {pci::kMsixPba, 4, "PBA Offset"},
};
constexpr Name kPcie[] = {
    {pci::kPcieCapabilities, 2, "Capabilities"},
    {pci::kPcieDeviceCapabilities, 4, "Device Capabilities"},
    {pci::kPcieDeviceControl, 2, "Device Control"},
    {pci::kPcieDeviceControl + 2, 2, "Device Status"},
    {pci::kPcieLinkCapabilities, 4, "Link Capabilities"},
    {16, 2, "Link Control"},
    {pci::kPcieLinkStatus, 2, "Link Status"},
    {pci::kPcieDeviceCapabilities2, 4, "Device Capabilities 2"},
    {pci::kPcieDeviceControl2, 2, "Device Control 2"},
    {42, 2, "Device Status 2"},
    {44, 4, "Link Capabilities 2"},
    {48, 2, "Link Control 2"},
    {50, 2, "Link Status 2"},
};

struct Capability {
  uint8_t id;
  std::string_view name;
  uint32_t size;
  std::span<const Name> registers;
};

constexpr Capability kCapabilities[] = {
    {pci::kCapPowerManagement, "Power Management", 8, kPowerManagement},
    {pci::kCapMsi, "MSI", pci::kMsiSize, kMsi},
    {pci::kCapMsix, "MSI-X", pci::kMsixSize, kMsix},
    {pci::kCapPcie, "PCI Express", pci::kPcieSize, kPcie},
};

std::string_view FindName(std::span<const Name> names, uint64_t offset) {
  for (const Name& row : names) {
    if (offset >= row.offset && offset - row.offset < row.size) return row.name;
  }
  return {};
}

std::string NameIn(const Capability& capability, uint64_t offset) {
  if (offset == 0) return fmt::format("{} ID", capability.name);
  if (offset == 1) return fmt::format("{} Next", capability.name);
  const std::string_view name = FindName(capability.registers, offset);
  if (name.empty()) return fmt::format("{}+{:#x}", capability.name, offset);
  return fmt::format("{} {}", capability.name, name);
}

}  // namespace

void ConfigView::Learn(uint64_t offset, ConstBytes data) {
  if (offset >= bytes_.size()) return;
  const size_t size = std::min(data.size(), bytes_.size() - offset);
  Copy(Bytes(bytes_).subspan(offset, size), data.first(size));
}

uint32_t ConfigView::class_code() const {
  return static_cast<uint32_t>(ByteAt(pci::kClassCode) | ByteAt(pci::kClassCode + 1) << 8 |
                               ByteAt(pci::kClassCode + 2) << 16);
}

uint32_t ConfigView::id() const { return LoadLe<uint32_t>(bytes_); }

std::string ConfigView::NameAt(uint64_t offset) const {
  if (offset < pci::kFirstCapability) return std::string(FindName(kHeader, offset));
  // A list that runs in a circle must not hold us.
  size_t at = ByteAt(pci::kCapabilities) & ~3u;
  for (int left = 48; left != 0 && at >= pci::kFirstCapability; --left) {
    const auto row = std::ranges::find(kCapabilities, ByteAt(at), &Capability::id);
    if (row != std::end(kCapabilities) && offset >= at && offset - at < row->size) {
      return NameIn(*row, offset - at);
    }
    at = ByteAt(at + 1) & ~3u;
  }
  return {};
}

}  // namespace farside::trace
