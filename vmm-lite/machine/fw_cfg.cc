#include "vmm-lite/machine/fw_cfg.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "vmm-lite/acpi/acpi.h"
#include "vmm-lite/boot/formats.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint16_t kSignature = 0x00;
constexpr uint16_t kId = 0x01;
constexpr uint16_t kCpus = 0x05;
constexpr uint16_t kMaxCpus = 0x0f;
constexpr uint16_t kDirectory = 0x19;
constexpr uint16_t kFirstFile = 0x20;
constexpr uint32_t kPortInterface = 1;  // Without DMA's bit.

// A number of files, big-endian, then for each one: size, key, 2 bytes, name.
constexpr size_t kDirectoryHeader = 4;
constexpr size_t kEntrySize = 64;
constexpr size_t kNameAt = 8;
constexpr size_t kNameSize = 56;  // With its final 0.

// One command of etc/table-loader, little-endian: its number, then here a file, alignment, zone.
constexpr size_t kCommandSize = 128;
constexpr uint32_t kAllocate = 1;
constexpr size_t kAllocateFileAt = 4;
constexpr size_t kAllocateAlignAt = kAllocateFileAt + kNameSize;
constexpr size_t kAllocateZoneAt = kAllocateAlignAt + 4;
constexpr uint8_t kZoneF = 2;  // 0xf0000, where guests look for the RSDP.

template <typename T>
void StoreBe(Bytes out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) {
    out[i] = static_cast<std::byte>(value >> 8 * (sizeof value - 1 - i));
  }
}

std::vector<std::byte> Copied(ConstBytes bytes) { return {bytes.begin(), bytes.end()}; }

ConstBytes Characters(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

FwCfg::FwCfg(uint32_t cpus) {
  const auto count = static_cast<uint16_t>(cpus);
  items_[kSignature] = Copied(Characters("QEMU"));
  items_[kId] = Copied(AsBytes(kPortInterface));
  items_[kCpus] = items_[kMaxCpus] = Copied(AsBytes(count));
  items_[kDirectory].resize(kDirectoryHeader);
}

void FwCfg::SetFile(std::string_view name, ConstBytes content) {
  CHECK(name.size() < kNameSize);
  const std::lock_guard lock(mutex_);
  std::vector<std::byte>& directory = items_[kDirectory];
  const size_t count = (directory.size() - kDirectoryHeader) / kEntrySize;
  size_t found = 0;
  for (; found < count; ++found) {
    const std::byte* const at = &directory[kDirectoryHeader + found * kEntrySize + kNameAt];
    if (name == reinterpret_cast<const char*>(at)) break;
  }
  if (found == count) directory.resize(directory.size() + kEntrySize);
  const auto key = static_cast<uint16_t>(kFirstFile + found);
  StoreBe(directory, static_cast<uint32_t>(std::max(count, found + 1)));
  const Bytes entry = Bytes(directory).subspan(kDirectoryHeader + found * kEntrySize, kEntrySize);
  StoreBe(entry, static_cast<uint32_t>(content.size()));
  StoreBe(entry.subspan(4), key);
  Copy(entry.subspan(kNameAt), Characters(name));
  items_[key] = Copied(content);
}

Result<void> FwCfg::Describe(GuestRam& ram, uint32_t cpus) {
  constexpr std::string_view kRsdp = "etc/acpi/rsdp";
  static_assert(kAcpiMaxSize <= kFirmwareTablesSize);
  const uint64_t tables = ram.low_end() - kFirmwareTablesSize;
  const auto rsdp_at = WriteAcpi(ram, {.cpus = cpus, .at = tables});
  if (!rsdp_at) return tl::unexpected(rsdp_at.error());
  std::array<std::byte, kRsdpSize> rsdp;
  if (auto read = ram.Read(*rsdp_at, rsdp); !read) return read;
  SetFile(kRsdp, rsdp);

  std::array<std::byte, kCommandSize> command{};
  StoreLe(command, kAllocate);
  Copy(Bytes(command).subspan(kAllocateFileAt), Characters(kRsdp));
  StoreLe(Bytes(command).subspan(kAllocateAlignAt), uint32_t{16});
  StoreLe(Bytes(command).subspan(kAllocateZoneAt), kZoneF);
  SetFile("etc/table-loader", command);

  std::vector<E820Entry> map{{0, tables, kE820Ram},
                             {tables, kFirmwareTablesSize, kE820Reserved},
                             {kEcamBase, kEcamSize, kE820Reserved},
                             {kIdentityMap, kTssEnd - kIdentityMap, kE820Reserved}};
  for (const GuestRam::Block& block : ram.blocks().subspan(1)) {
    map.push_back({block.gpa, block.size, kE820Ram});
  }
  SetFile("etc/e820", std::as_bytes(std::span(map)));
  return {};
}

void FwCfg::Read(uint32_t, uint64_t offset, Bytes out) {
  Fill(out, 0);
  if (offset != 1) return;
  const std::lock_guard lock(mutex_);
  const auto item = items_.find(selected_);
  if (item != items_.end() && next_ < item->second.size()) out[0] = item->second[next_++];
}

void FwCfg::Write(uint32_t, uint64_t offset, ConstBytes in) {
  if (offset != 0 || in.size() != sizeof selected_) return;
  const std::lock_guard lock(mutex_);
  selected_ = LoadLe<uint16_t>(in);
  next_ = 0;
}

}  // namespace farside::vmm
