#include "harness/trace/device_view.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "devices/lsi53c895a/registers.h"
#include "harness/trace/lsi_view.h"
#include "protocol/vfio_user_codec.h"

namespace farside::trace {

using vfio_user::Command;

namespace {

constexpr uint32_t kConfig = 7;
constexpr uint32_t kNvmeClass = 0x010802;

}  // namespace

std::string RegionText(uint32_t region) {
  constexpr std::array<std::string_view, 9> kNames = {"BAR0", "BAR1", "BAR2",   "BAR3", "BAR4",
                                                      "BAR5", "ROM",  "config", "VGA"};
  return region < kNames.size() ? std::string(kNames[region]) : fmt::format("region {}", region);
}

std::string IrqText(uint32_t index) {
  constexpr std::array<std::string_view, 5> kNames = {"INTx", "MSI", "MSI-X", "error", "request"};
  return index < kNames.size() ? std::string(kNames[index]) : fmt::format("index {}", index);
}

bool DeviceView::is_nvme() const {
  return model_ == "nvme" || (model_.empty() && config_.class_code() == kNvmeClass);
}

bool DeviceView::is_lsi() const {
  constexpr uint32_t kId = uint32_t{lsi53c895a::kDeviceId} << 16 | lsi53c895a::kVendorId;
  return model_ == "lsi53c895a" || (model_.empty() && config_.id() == kId);
}

void DeviceView::LearnWrite(uint32_t region, uint64_t offset, ConstBytes data) {
  if (region == nvme::kRegisterBar && is_nvme()) nvme_.WriteRegister(offset, data);
}

DeviceView::Seen DeviceView::Learn(const Event& event) {
  Seen seen;
  if (!event.is_message()) return seen;
  const bool reply = event.is_reply();
  if ((event.header().flags & vfio_user::kFlagError) != 0) return seen;
  switch (event.command()) {
    case Command::kRegionRead: {
      const auto access = event.fields<vfio_user::RegionAccess>();
      if (reply && access.region == kConfig) {
        config_.Learn(access.offset, event.data_after<vfio_user::RegionAccess>());
      }
      break;
    }
    case Command::kRegionWrite: {
      if (reply) break;
      const auto access = event.fields<vfio_user::RegionAccess>();
      LearnWrite(access.region, access.offset, event.data_after<vfio_user::RegionAccess>());
      break;
    }
    case Command::kRegionWriteMulti: {
      if (reply) break;
      const vfio_user::RegionWriteMultiRequest multi{event.data_after<vfio_user::WriteMulti>()};
      for (size_t i = 0; i < multi.count(); ++i) {
        const vfio_user::WriteMultiEntry entry = multi.entry(i);
        const auto size = std::min<size_t>(entry.count, sizeof entry.data);
        LearnWrite(entry.region, entry.offset, std::as_bytes(std::span(entry.data)).first(size));
      }
      break;
    }
    case Command::kDmaRead:
      if (reply && is_nvme()) {
        seen.submissions = nvme_.ReadMemory(event.fields<vfio_user::DmaAccess>().iova,
                                            event.data_after<vfio_user::DmaAccess>());
      }
      break;
    case Command::kDmaWrite:
      if (!reply && is_nvme()) {
        seen.completions = nvme_.WriteMemory(event.fields<vfio_user::DmaAccess>().iova,
                                             event.data_after<vfio_user::DmaAccess>());
      }
      break;
    case Command::kDeviceReset:
      if (reply) nvme_.Reset();
      break;
    default:
      break;
  }
  return seen;
}

std::string DeviceView::PlaceName(uint32_t region, uint64_t offset) const {
  std::string name;
  if (region == kConfig) name = config_.NameAt(offset);
  if (region == nvme::kRegisterBar && is_nvme()) name = nvme::RegisterName(offset);
  if (is_lsi() && region != kConfig) name = LsiPlaceName(region, offset);
  return name.empty() ? fmt::format("{}+{:#x}", RegionText(region), offset)
                      : fmt::format("{} {}", RegionText(region), name);
}

DeviceView::Group DeviceView::PlaceGroup(uint32_t region, uint64_t offset) const {
  if (is_lsi() && region == lsi53c895a::kRamBar) return {0, RegionText(region) + " SCRIPTS RAM"};
  return {offset, PlaceName(region, offset)};
}

std::string DeviceView::FieldsText(uint32_t region, uint64_t offset, ConstBytes data) const {
  if (is_lsi()) return LsiFieldsText(region, offset, data);
  if (region != nvme::kRegisterBar || !is_nvme() || data.size() > sizeof(uint64_t)) return {};
  return NvmeView::FieldsText(offset, data.size(), LoadLePartial(data));
}

std::string DeviceView::MemoryName(uint64_t iova, uint64_t size) const {
  if (!is_nvme()) return {};
  const std::string name = nvme_.QueueAt(iova, size);
  return name.empty() ? name : " " + name;
}

}  // namespace farside::trace
