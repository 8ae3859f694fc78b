// What HostileDevice answers where nothing is spoiled.
#include <algorithm>
#include <cerrno>
#include <string_view>

#include "base/check.h"
#include "devices/core/pci_registers.h"
#include "fuzz/host/hostile_device.h"
#include "fuzz/host/oracle.h"
#include "protocol/test_support.h"

namespace farside::fuzz {

using namespace vfio_user;  // NOLINT: this file is the protocol's structures.

namespace {

constexpr std::string_view kVersionText =
    R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"write_multiple":true}})";
constexpr std::string_view kTwinVersionText =
    R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"write_multiple":true,)"
    R"("twin_socket":{"supported":true,"fd_index":0}}})";
constexpr uint32_t kMappedRegion = 2;    // Which has areas to map, and an fd.
constexpr uint32_t kDoorbellRegion = 0;  // Which has io fds.
constexpr uint32_t kPieceOfState = 100;  // Bytes of it that come at once.

// Bits of BARs 0 to 5 that a guest can write, and those that are always set.
constexpr uint32_t kBarWritable[] = {0xffff'c000, 0xffff'ffff, 0xffff'e000, 0, 0, 0};
constexpr uint32_t kBarFixed[] = {0x4, 0, 0, 0, 0, 0};

}  // namespace

// An NVMe controller's, with MSI-X, PCI Express, and an extended capability.
void HostileDevice::ResetConfig(Bytes config) {
  Fill(config, 0);
  const auto put = [&]<typename T>(size_t at, T value) { StoreLe(config.subspan(at), value); };
  put(0, uint32_t{0x0010'1b36});
  put(pci::kStatus, uint16_t{pci::kStatusCapabilities});
  put(8, uint32_t{0x0108'0201});
  put(pci::kBar0, kBarFixed[0]);
  put(0x2c, uint32_t{0x1100'1af4});
  put(pci::kCapabilities, uint8_t{0x40});
  put(pci::kInterruptPin, uint8_t{1});
  put(0x40, uint32_t{(kVectors - 1) << 16 | 0x6000 | pci::kCapMsix});
  put(0x44, uint32_t{0x2000});
  put(0x48, uint32_t{0x3000});
  put(0x60, uint32_t{0x0002'0010});
  put(0x100, uint32_t{0x1401'0003});
  put(0x140, uint32_t{0x0001'000e});
}

void HostileDevice::AnswerRequest(Frame& frame) {
  const auto request = DecodeRequest(frame);
  const auto reply = [&](const auto&... parts) { Reply(frame, Pack(parts...), 0, 0); };
  if (!request) {
    Reply(frame, {}, 0, request.error().code);
  } else if (std::holds_alternative<VersionRequest>(*request)) {
    AnswerVersion(frame);
  } else if (std::holds_alternative<DeviceGetInfoRequest>(*request)) {
    reply(DeviceInfo{.argsz = sizeof(DeviceInfo),
                     .flags = kDeviceFlagReset | kDeviceFlagPci,
                     .num_regions = kRegions,
                     .num_irqs = kIrqIndexCount});
  } else if (const auto* region = std::get_if<DeviceGetRegionInfoRequest>(&*request)) {
    AnswerRegionInfo(frame, region->index, region->argsz);
  } else if (const auto* io_fds = std::get_if<DeviceGetRegionIoFdsRequest>(&*request)) {
    AnswerIoFds(frame, io_fds->index, io_fds->argsz);
  } else if (const auto* irq = std::get_if<DeviceGetIrqInfoRequest>(&*request)) {
    if (irq->index >= kIrqIndexCount) return Reply(frame, {}, 0, EINVAL);
    reply(IrqInfo{.argsz = sizeof(IrqInfo),
                  .flags = kIrqFlagEventfd,
                  .index = irq->index,
                  .count = irq->index == static_cast<uint32_t>(IrqIndex::kMsix) ? kVectors : 1});
  } else if (const auto* irqs = std::get_if<DeviceSetIrqsRequest>(&*request)) {
    const uint32_t count = irqs->index == static_cast<uint32_t>(IrqIndex::kMsix) ? kVectors : 1;
    const bool there = irqs->index < kIrqIndexCount && InRange(irqs->start, irqs->count, count);
    Reply(frame, {}, 0, there ? 0 : EINVAL);
  } else if (const auto* unmap = std::get_if<DmaUnmapRequest>(&*request)) {
    reply(static_cast<const DmaUnmap&>(*unmap));
  } else if (const auto* read = std::get_if<RegionReadRequest>(&*request)) {
    AnswerRead(frame, *read);
  } else if (const auto* write = std::get_if<RegionWriteRequest>(&*request)) {
    const int error = Write(write->region, write->offset, write->data);
    Reply(frame, Pack(static_cast<const RegionAccess&>(*write)), 0, error);
  } else if (const auto* multi = std::get_if<RegionWriteMultiRequest>(&*request)) {
    AnswerWriteMulti(frame, *multi);
  } else if (const auto* feature = std::get_if<DeviceFeatureRequest>(&*request)) {
    AnswerFeature(frame, *feature);
  } else if (const auto* state = std::get_if<MigDataReadRequest>(&*request)) {
    const uint32_t size = std::min(state->size, kPieceOfState);
    std::vector<std::byte> payload =
        Pack(MigData{.argsz = static_cast<uint32_t>(sizeof(MigData)) + size, .size = size});
    payload.resize(payload.size() + size, std::byte{0x33});
    Reply(frame, payload, 0, 0);
  } else {
    Reply(frame, {}, 0, 0);  // DMA_MAP, DEVICE_RESET, MIG_DATA_WRITE.
  }
}

void HostileDevice::AnswerVersion(const Frame& frame) {
  std::vector<std::byte> payload = Pack(Version{});
  const auto text = std::as_bytes(std::span(offers_twin_ ? kTwinVersionText : kVersionText));
  payload.insert(payload.end(), text.begin(), text.end());
  payload.push_back(std::byte{0});
  if (!offers_twin_) return Reply(frame, payload, 0, 0);
  offers_twin_ = false;
  Reply(frame, payload, 0, 0, twin_.ConnectSocket(false));
  // Whether the client takes it from an answer that was spoiled is not followed.
  if (answered_.back().outcome == Outcome::kAsIs) return;
  unsure_ = broken_ = true;
  twin_.Close();
}

void HostileDevice::AnswerRegionInfo(const Frame& frame, uint32_t index, uint32_t argsz) {
  if (index >= kRegions) return Reply(frame, {}, 0, EINVAL);
  RegionInfo info{.argsz = sizeof(RegionInfo),
                  .flags = kRegionFlagRead | kRegionFlagWrite,
                  .index = index,
                  .size = kRegionSizes[index]};
  if (index != kMappedRegion) return Reply(frame, Pack(info), 0, 0);
  const SparseMmap sparse{.header = {.id = kRegionCapSparseMmap, .version = 1, .next = 0},
                          .area_count = 2};
  info.flags |= kRegionFlagMmap | kRegionFlagCaps;
  info.cap_offset = sizeof info;
  info.argsz = sizeof info + sizeof sparse + 2 * sizeof(MmapArea);
  if (argsz < info.argsz) return Reply(frame, Pack(info), 0, 0);
  Reply(frame,
        Pack(info, sparse, MmapArea{.offset = 0, .size = 0x800},
             MmapArea{.offset = 0x1000, .size = 0x1000}),
        1, 0);
}

void HostileDevice::AnswerIoFds(const Frame& frame, uint32_t index, uint32_t argsz) {
  if (index >= kRegions) return Reply(frame, {}, 0, EINVAL);
  RegionIoFds fixed{.argsz = sizeof(RegionIoFds), .index = index};
  if (index != kDoorbellRegion) return Reply(frame, Pack(fixed), 0, 0);
  fixed.count = 2;
  fixed.argsz = sizeof fixed + 2 * sizeof(IoFdEntry);
  if (argsz < fixed.argsz) return Reply(frame, Pack(fixed), 0, 0);
  Reply(frame,
        Pack(fixed, IoFdEntry{.offset = 0x1000, .size = 4, .fd_index = 0},
             IoFdEntry{.offset = 0x1008, .size = 4, .fd_index = 1}),
        2, 0);
}

void HostileDevice::AnswerRead(const Frame& frame, const RegionAccess& read) {
  if (read.region >= kRegions || !InRange(read.offset, read.count, kRegionSizes[read.region])) {
    return Reply(frame, {}, 0, EINVAL);
  }
  const ConstBytes data = ConstBytes(regions_[read.region]).subspan(read.offset, read.count);
  std::vector<std::byte> payload = Pack(read);
  payload.insert(payload.end(), data.begin(), data.end());
  Reply(frame, payload, 0, 0);
}

int HostileDevice::Write(uint32_t region, uint64_t offset, ConstBytes data) {
  if (region >= kRegions || !InRange(offset, data.size(), kRegionSizes[region])) return EINVAL;
  const Bytes bytes = regions_[region];
  Copy(bytes.subspan(offset, data.size()), data);
  if (region != kConfig) return 0;
  for (uint32_t i = 0; i < std::size(kBarWritable); ++i) {
    const Bytes bar = bytes.subspan(pci::kBar0 + 4 * i);
    StoreLe(bar, (LoadLe<uint32_t>(bar) & kBarWritable[i]) | kBarFixed[i]);
  }
  return 0;
}

void HostileDevice::AnswerWriteMulti(const Frame& frame, const RegionWriteMultiRequest& multi) {
  uint64_t done = 0;
  for (; done < multi.count(); ++done) {
    const WriteMultiEntry entry = multi.entry(done);
    const ConstBytes data = std::as_bytes(std::span(entry.data)).first(entry.count);
    if (Write(entry.region, entry.offset, data) != 0) break;
  }
  Reply(frame, Pack(WriteMulti{.count = done}), 0, 0);
}

void HostileDevice::AnswerFeature(const Frame& frame, const DeviceFeatureRequest& request) {
  std::vector<std::byte> payload = Pack(static_cast<const DeviceFeature&>(request));
  for (const std::byte byte : request.data) payload.push_back(byte ^ std::byte{0xff});
  Reply(frame, payload, 0, 0);
}

}  // namespace farside::fuzz
