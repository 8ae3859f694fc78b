// Verbs: accesses to configuration space, BARs and other regions.
#include <algorithm>

#include "harness/scenario/args.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

constexpr uint32_t kConfigRegion = 7;
constexpr uint64_t kMaxSize = vfio_user::kDefaultMaxDataXferSize;

constexpr Param kBar = {"bar", Type::kNumber, "0 to 5", true, {}, 5};
constexpr Param kRegion = {
    "region", Type::kNumber, "vfio's index: 0 to 5 BARs, 6 ROM, 7 configuration space", true,
    {},       UINT32_MAX};
constexpr Param kOffset = {"offset", Type::kNumber, "bytes from its start", true};
constexpr Param kSize = {"size", Type::kNumber, "bytes", false, "4", kMaxSize};
constexpr Param kValue = {"value", Type::kNumber, "what to write, little-endian; up to 8 bytes"};
constexpr Param kWriteSize = {"size", Type::kNumber, "bytes of `value`", false, "4", 8};
constexpr Param kData = {"data", Type::kBytes, "what to write instead of `value`, of any size"};
constexpr Param kPosted = {"posted", Type::kBool,
                           "do not wait for the device to have taken it; refusals are lost"};

constexpr Param kBarRead[] = {kBar, kOffset, kSize, kCpuParam, kDeviceParam};
constexpr Param kConfigRead[] = {kOffset, kSize, kCpuParam, kDeviceParam};
constexpr Param kRegionRead[] = {kRegion, kOffset, kSize, kCpuParam, kDeviceParam};
constexpr Param kBarWrite[] = {kBar,  kOffset, kValue,    kWriteSize,
                               kData, kPosted, kCpuParam, kDeviceParam};
constexpr Param kConfigWrite[] = {kOffset, kValue,    kWriteSize,  kData,
                                  kPosted, kCpuParam, kDeviceParam};
constexpr Param kRegionWrite[] = {kRegion, kOffset, kValue,    kWriteSize,
                                  kData,   kPosted, kCpuParam, kDeviceParam};

constexpr Param kEntryFields[] = {kRegion, kOffset, kWriteSize, kValue};
constexpr Param kWriteMulti[] = {{.name = "writes",
                                  .type = Type::kRecords,
                                  .help = "the writes, in order",
                                  .required = true,
                                  .fields = kEntryFields},
                                 kPosted,
                                 kCpuParam,
                                 kDeviceParam};

constexpr Param kOnlyDevice[] = {kDeviceParam};
constexpr Param kRegionInfo[] = {kRegion, kDeviceParam};

constexpr Output kReadOutputs[] = {
    {"value", "the first 8 bytes at most, little-endian"},
    {"data", "all bytes, as hexadecimal digits", true},
};
constexpr Output kDeviceInfoOutputs[] = {
    {"flags", "1: RESET is there, 2: it is a PCI function"},
    {"regions", "how many"},
    {"irqs", "how many kinds of interrupts"},
};
constexpr Output kRegionInfoOutputs[] = {
    {"size", "bytes; 0: there is no such region"},
    {"flags", "1 readable, 2 writable, 4 mappable"},
    {"areas", "parts that may be mapped"},
};
constexpr Output kIoFdOutputs[] = {
    {"count", "doorbells that can be rung by eventfd"},
};

uint32_t RegionOf(const Args& args) {
  if (args.Has("bar")) return args.Narrow<uint32_t>("bar");
  return args.Has("region") ? args.Narrow<uint32_t>("region") : kConfigRegion;
}

Result<Outputs> Read(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> data(args.Number("size"));
  const auto read = (*link)->client->RegionRead({.region = RegionOf(args),
                                                 .offset = args.Number("offset"),
                                                 .cpu = args.Narrow<uint32_t>("cpu")},
                                                data);
  if (!read) return tl::unexpected(read.error());
  return Outputs{{"value", LoadLePartial(data)}, {"data", FormatHex(data)}};
}

// `value` in `size` bytes, or `data`.
Result<std::vector<std::byte>> ToWrite(const Args& args) {
  if (args.Has("data") == args.Has("value")) {
    return Fail("give either value or data, what is to be written");
  }
  if (args.Has("data")) {
    const ConstBytes data = args.Data("data");
    return std::vector<std::byte>(data.begin(), data.end());
  }
  const uint64_t size = args.Number("size");
  const uint64_t value = args.Number("value");
  if (size < 8 && value >> (8 * size) != 0) {
    return Fail("value {:#x} does not fit into {} bytes", value, size);
  }
  std::vector<std::byte> out(size);
  StoreLePartial(out, value);
  return out;
}

Result<Outputs> Write(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto data = ToWrite(args);
  if (!data) return tl::unexpected(data.error());
  const GuestAccess access{.region = RegionOf(args),
                           .offset = args.Number("offset"),
                           .cpu = args.Narrow<uint32_t>("cpu")};
  DeviceClient& client = *(*link)->client;
  const auto written =
      args.Flag("posted") ? client.PostWrite(access, *data) : client.RegionWrite(access, *data);
  if (!written) return tl::unexpected(written.error());
  return Outputs{};
}

Result<Outputs> WriteMulti(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<vfio_user::WriteMultiEntry> entries;
  for (const Args& write : args.Records("writes")) {
    const auto data = ToWrite(write);
    if (!data) return tl::unexpected(data.error());
    vfio_user::WriteMultiEntry entry{.offset = write.Number("offset"),
                                     .region = write.Narrow<uint32_t>("region"),
                                     .count = static_cast<uint32_t>(data->size())};
    Copy(std::as_writable_bytes(std::span(entry.data)).first(data->size()), *data);
    entries.push_back(entry);
  }
  const auto written =
      (*link)->client->WriteMulti(args.Narrow<uint32_t>("cpu"), entries, args.Flag("posted"));
  if (!written) return tl::unexpected(written.error());
  return Outputs{};
}

Result<Outputs> GetDeviceInfo(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto info = (*link)->client->GetInfo();
  if (!info) return tl::unexpected(info.error());
  return Outputs{{"flags", uint64_t{info->flags}},
                 {"regions", uint64_t{info->num_regions}},
                 {"irqs", uint64_t{info->num_irqs}}};
}

Result<Outputs> GetRegionInfo(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto region = (*link)->client->GetRegionInfo(args.Narrow<uint32_t>("region"));
  if (!region) return tl::unexpected(region.error());
  return Outputs{{"size", region->info.size},
                 {"flags", uint64_t{region->info.flags}},
                 {"areas", uint64_t{region->areas.size()}}};
}

Result<Outputs> GetRegionIoFds(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto fds = (*link)->client->GetRegionIoFds(args.Narrow<uint32_t>("region"));
  if (!fds) return tl::unexpected(fds.error());
  return Outputs{{"count", uint64_t{fds->entries.size()}}};
}

Result<Outputs> Reset(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto reset = (*link)->client->Reset();
  if (!reset) return tl::unexpected(reset.error());
  session.DropDriver(**link);
  return Outputs{};
}

constexpr Verb kVerbs[] = {
    {"bar.read", "Reads a BAR.", Kind::kRaw, kBarRead, kReadOutputs, &Read},
    {"bar.write", "Writes a BAR.", Kind::kRaw, kBarWrite, {}, &Write},
    {"config.read", "Reads configuration space.", Kind::kRaw, kConfigRead, kReadOutputs, &Read},
    {"config.write", "Writes configuration space.", Kind::kRaw, kConfigWrite, {}, &Write},
    {"region.read", "Reads any region.", Kind::kRaw, kRegionRead, kReadOutputs, &Read},
    {"region.write", "Writes any region.", Kind::kRaw, kRegionWrite, {}, &Write},
    {"region.write_multi",
     "Does many small writes with one message.",
     Kind::kRaw,
     kWriteMulti,
     {},
     &WriteMulti},
    {"device.info", "Asks what the device is.", Kind::kRaw, kOnlyDevice, kDeviceInfoOutputs,
     &GetDeviceInfo},
    {"region.info", "Asks what a region is.", Kind::kRaw, kRegionInfo, kRegionInfoOutputs,
     &GetRegionInfo},
    {"region.io_fds", "Asks for the doorbells that can be rung by eventfd.", Kind::kRaw,
     kRegionInfo, kIoFdOutputs, &GetRegionIoFds},
    {"reset",
     "Resets the function. Drivers are forgotten: enable them again.",
     Kind::kRaw,
     kOnlyDevice,
     {},
     &Reset},
};

}  // namespace

std::span<const Verb> RegionVerbs() { return kVerbs; }

}  // namespace farside::scenario
