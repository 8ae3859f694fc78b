#include "protocol/vfio_user_replies.h"

#include <algorithm>
#include <cerrno>

namespace farside::vfio_user {
namespace {

// More regions or interrupt kinds than any PCI device has.
constexpr uint32_t kMaxIndexes = 64;
// The most vectors of MSI-X.
constexpr uint32_t kMaxVectors = 2048;
// libvfio-user's entries have a shadow fd and offset before datamatch.
constexpr size_t kShadowEntrySize = 48;
constexpr size_t kShadowDatamatch = 40;

template <typename... Args>
tl::unexpected<Error> Broken(fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected(
      Error{"the server breaks the protocol: " + fmt::format(format, std::forward<Args>(args)...),
            EPROTO});
}

template <typename T>
bool ReadAt(ConstBytes payload, uint64_t offset, T* out) {
  if (!InRange(offset, sizeof(T), payload.size())) return false;
  Copy(AsWritableBytes(*out), payload.subspan(offset, sizeof(T)));
  return true;
}

Result<void> ReadSparseMmap(ConstBytes payload, uint64_t at, RegionDescription* out) {
  SparseMmap sparse;
  if (!ReadAt(payload, at, &sparse)) return Broken("a sparse mmap capability is cut");
  const ConstBytes areas = payload.subspan(at + sizeof sparse);
  if (sparse.area_count > areas.size() / sizeof(MmapArea)) {
    return Broken("{} areas to map do not fit in a reply of {} bytes", sparse.area_count,
                  payload.size());
  }
  for (uint32_t i = 0; i < sparse.area_count; ++i) {
    MmapArea area;
    ReadAt(areas, i * sizeof area, &area);
    if (!InRange(area.offset, area.size, out->info.size)) {
      return Broken("an area to map, {:#x} bytes at {:#x}, lies outside region {} of {:#x} bytes",
                    area.size, area.offset, out->info.index, out->info.size);
    }
    out->areas.push_back(area);
  }
  return {};
}

// Walks the capabilities. Each lies behind the one before, so the walk ends.
Result<bool> ReadCapabilities(ConstBytes payload, RegionDescription* out) {
  bool sparse = false;
  uint64_t at = out->info.cap_offset;
  uint64_t least = sizeof(RegionInfo);
  while (at != 0) {
    RegionCapability capability;
    if (at < least || !ReadAt(payload, at, &capability)) {
      return Broken("region {} has a capability at {}, outside the reply or in a circle",
                    out->info.index, at);
    }
    if (capability.id == kRegionCapSparseMmap && capability.version == 1 && !sparse) {
      if (const auto read = ReadSparseMmap(payload, at, out); !read) {
        return tl::unexpected(read.error());
      }
      sparse = true;
    }
    least = at + sizeof capability;
    at = capability.next;
  }
  return sparse;
}

}  // namespace

Result<VersionRequest> DecodeVersionReply(ConstBytes payload) {
  Frame frame{.header = CommandHeader(0, Command::kVersion, payload.size()), .payload = payload};
  const auto decoded = DecodeRequest(frame);
  if (!decoded) return Broken("{}", decoded.error().message);
  return std::get<VersionRequest>(*decoded);
}

Result<DeviceInfo> DecodeDeviceInfo(ConstBytes payload) {
  DeviceInfo info;
  if (payload.size() != sizeof info || !ReadAt(payload, 0, &info) || info.argsz < sizeof info) {
    return Broken("DEVICE_GET_INFO's reply has {} bytes and argsz {}", payload.size(), info.argsz);
  }
  if ((info.flags & kDeviceFlagPci) == 0) return Broken("the device is not a PCI device");
  if (info.num_regions > kMaxIndexes || info.num_irqs > kMaxIndexes) {
    return Broken("the device claims {} regions and {} kinds of interrupts", info.num_regions,
                  info.num_irqs);
  }
  return info;
}

Result<RegionDescription> DecodeRegionInfo(ConstBytes payload, uint32_t index, size_t fd_count) {
  RegionDescription out;
  if (!ReadAt(payload, 0, &out.info) || out.info.argsz < sizeof(RegionInfo)) {
    return Broken("DEVICE_GET_REGION_INFO's reply has {} bytes and argsz {}", payload.size(),
                  out.info.argsz);
  }
  if (out.info.index != index) {
    return Broken("asked for region {} it describes region {}", index, out.info.index);
  }
  if (fd_count > 1) return Broken("region {} comes with {} fds", index, fd_count);
  if (!InRange(out.info.offset, out.info.size, INT64_MAX)) {
    return Broken("region {} has {:#x} bytes at {:#x} of its file", index, out.info.size,
                  out.info.offset);
  }
  if (out.info.argsz > payload.size()) {
    out.incomplete = true;
    return out;
  }
  bool sparse = false;
  if ((out.info.flags & kRegionFlagCaps) != 0) {
    const auto read = ReadCapabilities(payload, &out);
    if (!read) return tl::unexpected(read.error());
    sparse = *read;
  }
  if ((out.info.flags & kRegionFlagMmap) == 0) {
    out.areas.clear();
  } else if (!sparse) {
    out.areas.push_back({.offset = 0, .size = out.info.size});
  }
  return out;
}

Result<std::vector<IoFdEntry>> DecodeRegionIoFds(ConstBytes payload, uint32_t index,
                                                 size_t fd_count, uint32_t* argsz) {
  RegionIoFds fixed;
  if (!ReadAt(payload, 0, &fixed) || fixed.argsz < sizeof fixed || fixed.index != index) {
    return Broken(
        "DEVICE_GET_REGION_IO_FDS's reply for region {} has {} bytes, argsz {}, region {}", index,
        payload.size(), fixed.argsz, fixed.index);
  }
  *argsz = fixed.argsz;
  std::vector<IoFdEntry> out;
  const ConstBytes entries = payload.subspan(sizeof fixed);
  if (entries.empty() || fixed.count == 0) return out;
  const size_t size = entries.size() / fixed.count;
  if (entries.size() % fixed.count != 0 ||
      (size != sizeof(IoFdEntry) && size != kShadowEntrySize)) {
    return Broken("{} io fds of region {} take {} bytes", fixed.count, index, entries.size());
  }
  for (uint32_t i = 0; i < fixed.count; ++i) {
    IoFdEntry entry;
    ReadAt(entries, i * size, &entry);
    if (size == kShadowEntrySize) ReadAt(entries, i * size + kShadowDatamatch, &entry.datamatch);
    if (entry.fd_index >= fd_count) {
      return Broken("io fd {} of region {} names fd {} of {}", i, index, entry.fd_index, fd_count);
    }
    out.push_back(entry);
  }
  return out;
}

Result<IrqInfo> DecodeIrqInfo(ConstBytes payload, uint32_t index) {
  IrqInfo info;
  if (payload.size() != sizeof info || !ReadAt(payload, 0, &info) || info.argsz < sizeof info) {
    return Broken("DEVICE_GET_IRQ_INFO's reply has {} bytes and argsz {}", payload.size(),
                  info.argsz);
  }
  if (info.index != index) {
    return Broken("asked for interrupts of kind {} it describes kind {}", index, info.index);
  }
  if (info.count > kMaxVectors) {
    return Broken("interrupts of kind {} are said to be {}", index, info.count);
  }
  return info;
}

}  // namespace farside::vfio_user
