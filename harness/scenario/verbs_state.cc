// Verbs: DEVICE_FEATURE and saved state.
#include "harness/scenario/args.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

using vfio_user::Feature;

constexpr uint64_t kMaxSize = vfio_user::kDefaultMaxDataXferSize;

// By vfio_user::Feature.
constexpr std::string_view kFeatureWords[] = {"", "migration", "state",    "",          "",
                                              "", "log_start", "log_stop", "log_report"};
static_assert(kFeatureWords[static_cast<size_t>(Feature::kDmaLoggingReport)] == "log_report");

constexpr Param kFeature = {.name = "feature",
                            .type = Type::kCode,
                            .help = "which",
                            .required = true,
                            .max = vfio_user::kFeatureIndexMask,
                            .words = kFeatureWords};

constexpr Param kGet[] = {kFeature,
                          {"data", Type::kBytes, "the feature's own structure, where it takes one"},
                          {"size", Type::kNumber, "bytes to leave room for", false, "8", kMaxSize},
                          kDeviceParam};
constexpr Param kSet[] = {kFeature,
                          {"data", Type::kBytes, "the feature's own structure, where it takes one"},
                          kDeviceParam};
constexpr Param kProbe[] = {kFeature,
                            {"get", Type::kBool, "ask for GET"},
                            {"set", Type::kBool, "ask for SET"},
                            kDeviceParam};
constexpr Param kMigRead[] = {{"size", Type::kNumber, "bytes at most", false, "1M", kMaxSize},
                              kDeviceParam};
constexpr Param kMigWrite[] = {
    {"data", Type::kBytes, "the bytes", true},
    {"skip", Type::kNumber, "leave out so many bytes at the beginning", false, "0"},
    {"size", Type::kNumber, "and what is beyond so many; default: nothing"},
    {"flip", Type::kNumber, "change this bit: byte flip / 8, bit flip % 8, before `skip`"},
    kDeviceParam};

constexpr Output kDataOutputs[] = {
    {"value", "the first 8 bytes at most, little-endian"},
    {"data", "all bytes, as hexadecimal digits", true},
    {"size", "bytes that came"},
};
constexpr Output kSavedOutputs[] = {
    {"data", "what came, as hexadecimal digits", true},
    {"size", "bytes that came; less than were asked for at the end"},
};

ConstBytes DataOf(const Args& args) { return args.Has("data") ? args.Data("data") : ConstBytes(); }

Result<Outputs> Get(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> out(args.Number("size"));
  const auto got =
      (*link)->client->FeatureGet(Feature{args.Narrow<uint32_t>("feature")}, DataOf(args), out);
  if (!got) return tl::unexpected(got.error());
  const auto data = ConstBytes(out).first(*got);
  return Outputs{{"value", LoadLePartial(data)}, {"data", FormatHex(data)}, {"size", *got}};
}

Result<Outputs> Set(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto set =
      (*link)->client->FeatureSet(Feature{args.Narrow<uint32_t>("feature")}, DataOf(args));
  if (!set) return tl::unexpected(set.error());
  return Outputs{};
}

Result<Outputs> Probe(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const uint32_t operations = (args.Flag("get") ? vfio_user::kFeatureGet : 0) |
                              (args.Flag("set") ? vfio_user::kFeatureSet : 0);
  const auto probed =
      (*link)->client->FeatureProbe(Feature{args.Narrow<uint32_t>("feature")}, operations);
  if (!probed) return tl::unexpected(probed.error());
  return Outputs{};
}

Result<Outputs> MigRead(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> out(args.Number("size"));
  const auto got = (*link)->client->MigDataRead(out);
  if (!got) return tl::unexpected(got.error());
  return Outputs{{"data", FormatHex(ConstBytes(out).first(*got))}, {"size", *got}};
}

Result<Outputs> MigWrite(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> data(args.Data("data").begin(), args.Data("data").end());
  if (args.Has("flip")) {
    const uint64_t bit = args.Number("flip");
    if (bit / 8 >= data.size()) return Fail("bit {} lies beyond {} bytes", bit, data.size());
    data[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  const uint64_t skip = std::min<uint64_t>(args.Number("skip"), data.size());
  const uint64_t size = std::min<uint64_t>(args.Number("size", UINT64_MAX), data.size() - skip);
  const auto written = (*link)->client->MigDataWrite(ConstBytes(data).subspan(skip, size));
  if (!written) return tl::unexpected(written.error());
  return Outputs{};
}

constexpr Verb kVerbs[] = {
    {"feature.get", "Gets a DEVICE_FEATURE.", Kind::kRaw, kGet, kDataOutputs, &Get},
    {"feature.set", "Sets a DEVICE_FEATURE.", Kind::kRaw, kSet, {}, &Set},
    {"feature.probe", "Asks whether a DEVICE_FEATURE is there.", Kind::kRaw, kProbe, {}, &Probe},
    {"mig.read", "Reads saved state, in state STOP_COPY.", Kind::kRaw, kMigRead, kSavedOutputs,
     &MigRead},
    {"mig.write", "Writes saved state, in state RESUMING.", Kind::kRaw, kMigWrite, {}, &MigWrite},
};

}  // namespace

std::span<const Verb> StateVerbs() { return kVerbs; }

}  // namespace farside::scenario
