// The table of verbs, and those that are the interpreter's own.
#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "harness/scenario/args.h"
#include "harness/scenario/expect.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

constexpr Param kCommon[] = {
    {"refused", Type::kErrno, "the step must fail, with this errno"},
    {"timeout_ms",
     Type::kNumber,
     "for this step, in ms; default: the scenario's step_timeout_ms",
     false,
     {},
     24ull * 3600 * 1000},
};

constexpr Param kRepeat[] = {
    {"steps", Type::kSteps, "what is repeated", true},
    {"times", Type::kNumber, "how often; with `until`: at most", false, "1000", 1'000'000},
    {.name = "until",
     .type = Type::kUntil,
     .help = "stop when this holds; it is looked at after "
             "each round. Default: never",
     .fields = kUntilParams}};
constexpr Param kWait[] = {{"us", Type::kNumber, "microseconds", true, {}, 60'000'000},
                           kDeviceParam};

Result<Outputs> Wait(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto waited = (*link)->client->WaitReadable(-1, args.Number("us") * 1000);
  if (!waited) return tl::unexpected(waited.error());
  return Outputs{};
}

constexpr Verb kVerbs[] = {
    {"repeat", "Does steps again and again.", Kind::kControl, kRepeat, {}, nullptr},
    {"wait",
     "Answers the device's DMA for a while. Where something can be waited for, do that.",
     Kind::kRaw,
     kWait,
     {},
     &Wait},
};

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

constexpr std::span<const Verb> (*kGroups[])() = {
    &RegionVerbs,  &MemoryVerbs, &IrqVerbs, &StateVerbs,   &FrameVerbs,
    &ProcessVerbs, &NvmeVerbs,   &LsiVerbs, &ControlVerbs,
};

}  // namespace

std::span<const Param> CommonParams() { return kCommon; }

std::span<const Verb> ControlVerbs() { return kVerbs; }

std::vector<const Verb*> AllVerbs() {
  std::vector<const Verb*> out;
  for (const auto group : kGroups) {
    for (const Verb& verb : group()) out.push_back(&verb);
  }
  return out;
}

const Verb* FindVerb(std::string_view name) {
  for (const auto group : kGroups) {
    const auto verbs = group();
    const auto found = std::ranges::find(verbs, name, &Verb::name);
    if (found != verbs.end()) return &*found;
  }
  return nullptr;
}

Error NoSuchVerb(std::string_view name) {
  const auto verbs = AllVerbs();
  const std::string_view tried = name.substr(0, 64);
  const auto nearest = std::ranges::min_element(
      verbs, {}, [tried](const Verb* verb) { return EditDistance(verb->name, tried); });
  return {fmt::format("there is no verb '{}': did you mean '{}'? `farside help` lists all", tried,
                      (*nearest)->name),
          0};
}

}  // namespace farside::scenario
