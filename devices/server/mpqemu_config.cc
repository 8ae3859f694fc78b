#include "devices/server/mpqemu_config.h"

#include "devices/core/pci_registers.h"

namespace farside {

using mpqemu::kConfigSize;

namespace {

constexpr int kMaxCapabilities = 48;  // More do not fit in 192 bytes.

}  // namespace

MpqemuConfig::MpqemuConfig(Device& device) : device_(device) {
  shown_.fill(0xff);
  forced_.fill(0);
  Narrow64BitBars();
  HideVectors();
  Refresh();
}

uint32_t MpqemuConfig::DeviceRead(uint32_t address, size_t size) const {
  std::array<std::byte, 4> bytes{};
  device_.ReadRegion(Region::kConfig, address, Bytes(bytes).first(size));
  return LoadLe<uint32_t>(bytes);
}

void MpqemuConfig::Narrow64BitBars() {
  for (uint32_t bar = 0; bar < kBarCount; ++bar) {
    const uint32_t at = pci::kBar0 + 4 * bar;
    const uint32_t value = DeviceRead(at, 4);
    if ((value & pci::kBarIo) != 0 || (value & pci::kBar64) == 0) continue;
    shown_[at] &= static_cast<uint8_t>(~pci::kBar64);
    for (uint32_t i = 4; i < 8; ++i) shown_[at + i] = 0;
    ++bar;
  }
}

void MpqemuConfig::HideVectors() {
  if ((DeviceRead(pci::kStatus, 2) & pci::kStatusCapabilities) == 0) return;
  uint32_t link = pci::kCapabilities;
  for (int i = 0; i < kMaxCapabilities; ++i) {
    const uint32_t at = DeviceRead(link, 1) & 0xfc;
    if (at < pci::kFirstCapability) return;
    const uint32_t id = DeviceRead(at, 1);
    if (id == pci::kCapMsi) {
      HideCapability(link, at, pci::kMsiSize);
    } else if (id == pci::kCapMsix) {
      HideCapability(link, at, pci::kMsixSize);
    }
    // The link of a hidden one is followed, too; what pointed to it points behind it.
    link = at + 1;
  }
}

// `link` is where the pointer to it lies; if that is hidden itself, the one before was rewritten
// already and is found by its value.
void MpqemuConfig::HideCapability(uint32_t link, uint32_t at, uint32_t size) {
  const auto next = static_cast<uint8_t>(DeviceRead(at + 1, 1));
  for (uint32_t i = pci::kCapabilities; i < kConfigSize; ++i) {
    const bool points = i == link ? shown_[i] == 0xff : shown_[i] == 0 && forced_[i] == at;
    if (!points) continue;
    shown_[i] = 0;
    forced_[i] = next;
  }
  for (uint32_t i = at; i < at + size && i < kConfigSize; ++i) {
    shown_[i] = 0;
    forced_[i] = 0;
  }
}

void MpqemuConfig::Read(uint32_t address, Bytes out) const {
  Fill(out, 0xff);
  if (address >= kConfigSize) return;
  const size_t size = std::min<size_t>(out.size(), kConfigSize - address);
  device_.ReadRegion(Region::kConfig, address, out.first(size));
  for (size_t i = 0; i < size; ++i) {
    out[i] = (out[i] & std::byte{shown_[address + i]}) | std::byte{forced_[address + i]};
  }
}

void MpqemuConfig::Write(uint32_t address, ConstBytes in) {
  // In runs of bytes that the device has.
  size_t begin = 0;
  while (begin < in.size() && address + begin < kConfigSize) {
    size_t end = begin;
    while (end < in.size() && address + end < kConfigSize && shown_[address + end] != 0) ++end;
    if (end > begin) {
      device_.WriteRegion(Region::kConfig, address + begin, in.subspan(begin, end - begin));
    }
    begin = end + 1;
  }
  Refresh();
}

void MpqemuConfig::Refresh() {
  const uint32_t command = DeviceRead(pci::kCommand, 2);
  for (uint32_t bar = 0; bar < kBarCount; ++bar) {
    const uint32_t at = pci::kBar0 + 4 * bar;
    const uint32_t value = DeviceRead(at, 4);
    const bool io = (value & pci::kBarIo) != 0;
    const bool decoded = (command & (io ? pci::kCommandIo : pci::kCommandMemory)) != 0;
    const uint32_t address = value & ~(io ? pci::kBarIoFlags : pci::kBarMemoryFlags);
    const bool there = decoded && address != 0 && shown_[at] != 0;
    bars_[bar] = {.memory = !io,
                  .address = address,
                  .size = there ? device_.info().region(Region{bar}).size : 0};
  }
}

std::optional<MpqemuConfig::Place> MpqemuConfig::Decode(uint64_t address, uint64_t size,
                                                        bool memory) const {
  for (uint32_t i = 0; i < kBarCount; ++i) {
    const Bar& bar = bars_[i];
    if (bar.size == 0 || bar.memory != memory || address < bar.address) continue;
    if (InRange(address - bar.address, size, bar.size)) {
      return Place{Region{i}, address - bar.address};
    }
  }
  return std::nullopt;
}

}  // namespace farside
