#include "harness/record/mpqemu_view.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "devices/core/pci_registers.h"
#include "protocol/vfio_user_codec.h"

namespace farside::record {

using trace::Direction;
using vfio_user::RegionAccess;

namespace {

constexpr uint32_t kConfigRegion = 7;
constexpr uint32_t kMaxAccess = 8;

uint32_t FlagsOf(bool io) { return io ? pci::kBarIoFlags : pci::kBarMemoryFlags; }

}  // namespace

vfio_user::Header MpqemuView::Command(vfio_user::Command command, size_t size, uint32_t flags) {
  return vfio_user::CommandHeader(next_id_++, command, size, flags);
}

void MpqemuView::OnRequest(const mpqemu::Request& request, std::span<const UniqueFd> fds) {
  std::visit([&](const auto& command) { On(command, fds); }, request);
}

void MpqemuView::On(const mpqemu::SyncSysmemRequest& request, std::span<const UniqueFd> fds) {
  // It replaces all that was there.
  const vfio_user::DmaUnmap unmap{.argsz = sizeof unmap, .flags = vfio_user::kDmaUnmapAll};
  recording_.Message(Direction::kIn,
                     Command(vfio_user::Command::kDmaUnmap, sizeof unmap, vfio_user::kFlagNoReply),
                     AsBytes(unmap));
  for (size_t i = 0; i < std::min(fds.size(), mpqemu::kMaxRegions); ++i) {
    const vfio_user::DmaMap map{.argsz = sizeof map,
                                .flags = vfio_user::kDmaMapRead | vfio_user::kDmaMapWrite,
                                .offset = request.offsets[i],
                                .iova = request.gpas[i],
                                .size = request.sizes[i]};
    recording_.Message(Direction::kIn,
                       Command(vfio_user::Command::kDmaMap, sizeof map, vfio_user::kFlagNoReply),
                       AsBytes(map), fds.subspan(i, 1));
  }
}

void MpqemuView::Region(const std::optional<RegionAccess>& access, bool read, uint64_t value) {
  Asked& asked = asked_.emplace_back();
  if (!access) return;
  std::vector<std::byte> payload(sizeof *access + (read ? 0 : access->count));
  Copy(payload, AsBytes(*access));
  if (!read) StoreLePartial(Bytes(payload).subspan(sizeof *access), value);
  asked = {
      .header = Command(read ? vfio_user::Command::kRegionRead : vfio_user::Command::kRegionWrite,
                        payload.size()),
      .access = *access,
      .is_region = true,
      .is_read = read};
  recording_.Message(Direction::kIn, *asked.header, payload);
}

void MpqemuView::On(const mpqemu::ConfigWriteRequest& request, std::span<const UniqueFd>) {
  const auto size = static_cast<uint32_t>(std::clamp(request.size, 1, 4));
  LearnConfigWrite(request.address, request.value, size);
  Region(RegionAccess{.offset = request.address, .region = kConfigRegion, .count = size}, false,
         request.value);
}

void MpqemuView::On(const mpqemu::ConfigReadRequest& request, std::span<const UniqueFd>) {
  const auto size = static_cast<uint32_t>(std::clamp(request.size, 1, 4));
  Region(RegionAccess{.offset = request.address, .region = kConfigRegion, .count = size}, true, 0);
}

void MpqemuView::On(const mpqemu::BarWriteRequest& request, std::span<const UniqueFd>) {
  Region(Decode(request), false, request.value);
}

void MpqemuView::On(const mpqemu::BarReadRequest& request, std::span<const UniqueFd>) {
  Region(Decode(request), true, 0);
}

void MpqemuView::On(const mpqemu::SetIrqfdRequest&, std::span<const UniqueFd> fds) {
  const vfio_user::SetIrqs irqs{.argsz = sizeof irqs,
                                .flags = vfio_user::kIrqDataEventfd | vfio_user::kIrqActionTrigger,
                                .index = static_cast<uint32_t>(vfio_user::IrqIndex::kIntx),
                                .start = 0,
                                .count = 1};
  recording_.Message(
      Direction::kIn,
      Command(vfio_user::Command::kDeviceSetIrqs, sizeof irqs, vfio_user::kFlagNoReply),
      AsBytes(irqs), fds.first(std::min<size_t>(fds.size(), 1)));
}

void MpqemuView::On(const mpqemu::ResetRequest&, std::span<const UniqueFd>) {
  for (Bar& bar : bars_) bar.written = 0;
  Asked& asked = asked_.emplace_back();
  asked.header = Command(vfio_user::Command::kDeviceReset, 0);
  recording_.Message(Direction::kIn, *asked.header, {});
}

void MpqemuView::OnReply(uint64_t value) {
  if (asked_.empty()) return;
  const Asked asked = std::exchange(asked_.front(), {});
  asked_.pop_front();
  if (!asked.header) return;
  std::vector<std::byte> payload;
  if (asked.is_region) {
    payload.resize(sizeof asked.access + (asked.is_read ? asked.access.count : 0));
    Copy(payload, AsBytes(asked.access));
    if (asked.is_read) StoreLePartial(Bytes(payload).subspan(sizeof asked.access), value);
  }
  if (asked.is_read && asked.access.region == kConfigRegion && asked.access.count == 4) {
    LearnConfigRead(static_cast<uint32_t>(asked.access.offset), value);
  }
  recording_.Message(Direction::kOut, vfio_user::ReplyHeader(*asked.header, payload.size()),
                     payload);
}

void MpqemuView::LearnConfigWrite(uint32_t address, uint32_t value, uint32_t size) {
  for (uint32_t i = 0; i < size; ++i) {
    const uint64_t at = uint64_t{address} + i;
    if (at < pci::kBar0 || at >= pci::kBar0 + 4 * bars_.size()) continue;
    const uint32_t shift = 8 * static_cast<uint32_t>(at % 4);
    uint32_t& written = bars_[(at - pci::kBar0) / 4].written;
    written = (written & ~(0xffu << shift)) | (value >> (8 * i) & 0xff) << shift;
  }
}

// What a BAR reads as with all ones in it is its size.
void MpqemuView::LearnConfigRead(uint32_t address, uint64_t value) {
  if (address < pci::kBar0 || address >= pci::kBar0 + 4 * bars_.size() || address % 4 != 0) return;
  Bar& bar = bars_[(address - pci::kBar0) / 4];
  if (bar.written != 0xffff'ffff) return;
  bar.io = (value & pci::kBarIo) != 0;
  const uint32_t mask = static_cast<uint32_t>(value) & ~FlagsOf(bar.io);
  bar.size = mask == 0 ? 0 : mask & ~(mask - 1);
}

std::optional<RegionAccess> MpqemuView::Decode(const mpqemu::BarAccess& access) {
  for (uint32_t i = 0; i < bars_.size() && access.size <= kMaxAccess; ++i) {
    const Bar& bar = bars_[i];
    const uint32_t base = bar.written & ~FlagsOf(bar.io);
    const bool there = bar.size != 0 && base != 0 && bar.written != 0xffff'ffff;
    if (!there || bar.io == (access.memory != 0) || access.address < base) continue;
    if (InRange(access.address - base, access.size, bar.size)) {
      return RegionAccess{.offset = access.address - base, .region = i, .count = access.size};
    }
  }
  ++undecoded_;
  return std::nullopt;
}

}  // namespace farside::record
