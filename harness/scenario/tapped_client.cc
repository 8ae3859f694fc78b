#include "harness/scenario/tapped_client.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "harness/scenario/irq_words.h"
#include "harness/scenario/value.h"

namespace farside::scenario {

using namespace vfio_user;  // NOLINT: every name here is the protocol's.
using nlohmann::json;

namespace {

constexpr uint32_t kBars = 6;
constexpr uint32_t kConfig = 7;

json Number(uint64_t number) { return fmt::format("{:#x}", number); }

// "bar.read" with its bar, "config.read", or "region.read" with its region.
std::string AccessVerb(const GuestAccess& access, std::string_view what, json* params) {
  (*params)["offset"] = Number(access.offset);
  if (access.cpu != 0) (*params)["cpu"] = access.cpu;
  if (access.region < kBars) {
    (*params)["bar"] = access.region;
    return fmt::format("bar.{}", what);
  }
  if (access.region == kConfig) return fmt::format("config.{}", what);
  (*params)["region"] = access.region;
  return fmt::format("region.{}", what);
}

}  // namespace

void TappedClient::Note(std::string_view verb, json params) {
  if (log_.keeps_events()) memory_.LogChanges();
  params["device"] = device_;
  log_.AddGuestEvent(verb, std::move(params));
}

Result<DeviceInfo> TappedClient::GetInfo() {
  Note("device.info", json::object());
  return client_.GetInfo();
}

Result<ClientRegion> TappedClient::GetRegionInfo(uint32_t region) {
  Note("region.info", {{"region", region}});
  return client_.GetRegionInfo(region);
}

Result<ClientIoFds> TappedClient::GetRegionIoFds(uint32_t region) {
  Note("region.io_fds", {{"region", region}});
  return client_.GetRegionIoFds(region);
}

Result<IrqInfo> TappedClient::GetIrqInfo(IrqIndex index) {
  Note("irq.info", {{"index", IrqWord(index)}});
  return client_.GetIrqInfo(index);
}

Result<void> TappedClient::SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                                   std::span<const int> fds) {
  const auto index = IrqIndex{request.index};
  json params = {{"index", IrqWord(index)}};
  const bool all = request.count == 0 && (request.flags & kIrqDataNone) != 0;
  if (!all) {
    params["start"] = request.start;
    params["count"] = request.count;
  }
  if (!bools.empty()) params["selected"] = FormatHex(bools);
  const bool eventfds = (request.flags & kIrqDataEventfd) != 0;
  switch (request.flags & kIrqActionsMask) {
    case kIrqActionMask:
      Note("irq.mask", std::move(params));
      break;
    case kIrqActionUnmask:
      Note("irq.unmask", std::move(params));
      break;
    default:
      Note(all           ? "irq.disable"
           : !eventfds   ? "irq.trigger"
           : fds.empty() ? "irq.disarm"
                         : "irq.arm",
           std::move(params));
  }
  return client_.SetIrqs(request, bools, fds);
}

Result<void> TappedClient::DmaMap(const DmaWindow& window) {
  const bool read = (window.flags & kDmaMapRead) != 0;
  const bool write = (window.flags & kDmaMapWrite) != 0;
  Note("dma.map", {{"iova", Number(window.iova)},
                   {"size", Number(window.size)},
                   {"access", read && write ? "rw"
                              : read        ? "r"
                              : write       ? "w"
                                            : "none"}});
  return client_.DmaMap(window);
}

Result<void> TappedClient::DmaUnmap(uint64_t iova, uint64_t size) {
  Note("dma.unmap", {{"iova", Number(iova)}, {"size", Number(size)}});
  return client_.DmaUnmap(iova, size);
}

Result<void> TappedClient::DmaUnmapAll() {
  Note("dma.unmap_all", json::object());
  return client_.DmaUnmapAll();
}

Result<void> TappedClient::RegionRead(const GuestAccess& access, Bytes out) {
  json params = {{"size", out.size()}};
  const std::string verb = AccessVerb(access, "read", &params);
  Note(verb, std::move(params));
  const auto read = client_.RegionRead(access, out);
  if (read) log_.AddDeviceEvent(fmt::format("  = {}", log_.Hex(out)));
  return read;
}

void TappedClient::NoteWrite(const GuestAccess& access, ConstBytes in, bool posted) {
  json params = {{"size", in.size()}};
  if (in.size() <= sizeof(uint64_t)) {
    params["value"] = Number(LoadLePartial(in));
  } else {
    params["data"] = log_.Hex(in);
  }
  if (posted) params["posted"] = true;
  const std::string verb = AccessVerb(access, "write", &params);
  Note(verb, std::move(params));
}

Result<void> TappedClient::RegionWrite(const GuestAccess& access, ConstBytes in) {
  NoteWrite(access, in, false);
  return client_.RegionWrite(access, in);
}

Result<void> TappedClient::PostWrite(const GuestAccess& access, ConstBytes in) {
  NoteWrite(access, in, true);
  return client_.PostWrite(access, in);
}

Result<void> TappedClient::WriteMulti(uint32_t cpu, std::span<const WriteMultiEntry> writes,
                                      bool posted) {
  json list = json::array();
  for (const WriteMultiEntry& write : writes) {
    list.push_back({{"region", write.region},
                    {"offset", Number(write.offset)},
                    {"size", write.count},
                    {"value", Number(LoadLePartial(std::as_bytes(std::span(write.data))))}});
  }
  json params = {{"writes", std::move(list)}};
  if (posted) params["posted"] = true;
  if (cpu != 0) params["cpu"] = cpu;
  Note("region.write_multi", std::move(params));
  return client_.WriteMulti(cpu, writes, posted);
}

Result<DeviceClient::ReadTicket> TappedClient::BeginRead(const GuestAccess& access, Bytes out) {
  json params = {{"size", out.size()}};
  const std::string verb = AccessVerb(access, "read", &params);
  Note(verb, std::move(params));
  return client_.BeginRead(access, out);
}

Result<void> TappedClient::Reset() {
  Note("reset", json::object());
  return client_.Reset();
}

Result<size_t> TappedClient::FeatureGet(Feature feature, ConstBytes in, Bytes out) {
  Note("feature.get",
       {{"feature", static_cast<uint32_t>(feature)}, {"data", log_.Hex(in)}, {"size", out.size()}});
  return client_.FeatureGet(feature, in, out);
}

Result<void> TappedClient::FeatureSet(Feature feature, ConstBytes in) {
  Note("feature.set", {{"feature", static_cast<uint32_t>(feature)}, {"data", log_.Hex(in)}});
  return client_.FeatureSet(feature, in);
}

Result<void> TappedClient::FeatureProbe(Feature feature, uint32_t operations) {
  Note("feature.probe", {{"feature", static_cast<uint32_t>(feature)},
                         {"get", (operations & kFeatureGet) != 0},
                         {"set", (operations & kFeatureSet) != 0}});
  return client_.FeatureProbe(feature, operations);
}

Result<size_t> TappedClient::MigDataRead(Bytes out) {
  Note("mig.read", {{"size", out.size()}});
  return client_.MigDataRead(out);
}

Result<void> TappedClient::MigDataWrite(ConstBytes in) {
  Note("mig.write", {{"data", log_.Hex(in)}});
  return client_.MigDataWrite(in);
}

Result<bool> TappedClient::WaitReadable(int fd, uint64_t timeout_ns) {
  // A driver's wait for an interrupt is no event: what it waited for is checked in memory.
  if (fd < 0) Note("wait", {{"us", timeout_ns / 1000}});
  return client_.WaitReadable(fd, timeout_ns);
}

}  // namespace farside::scenario
