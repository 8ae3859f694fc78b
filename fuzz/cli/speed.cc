// farside-fuzz speed: how fast a target's sessions are, as JSON, for `farside fuzz report`.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <vector>

#include "fuzz/cli/cli.h"
#include "fuzz/mutator/mutator.h"

namespace farside::fuzz {
namespace {

constexpr size_t kEvents = 32;
constexpr uint64_t kBatch = 16;
// The best of a few counts: what else the machine has to do only makes them worse.
constexpr int kTimes = 5;
constexpr double kSeconds = 0.4;
// Memory is to be there before the time counts.
constexpr double kWarmUpSeconds = 0.3;

// Of CPU, until `least` has passed, in batches; sessions are made up outside of it.
struct Timed {
  uint64_t sessions = 0;
  double seconds = 0;
};
Timed RunFor(const Grammar& grammar, Target& target, double least, uint64_t* seed) {
  Timed timed;
  std::vector<std::vector<std::byte>> inputs;
  while (timed.seconds < least) {
    inputs.clear();
    for (uint64_t i = 0; i < kBatch; ++i) {
      Store store;
      inputs.push_back(Encode(MakeUp(grammar, Mix64((*seed)++), kEvents, store)));
    }
    const double begin = CpuSeconds();
    for (const auto& input : inputs) target.Run(input);
    timed.seconds += CpuSeconds() - begin;
    timed.sessions += kBatch;
  }
  return timed;
}

}  // namespace

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

int MeasureSpeed(const TargetDef& def) {
  if (def.grammar == nullptr) {
    return BadUsage(fmt::format("inputs of {} can't be made up: it has no grammar", def.name));
  }
  const auto target = def.make();
  uint64_t seed = 0;
  RunFor(def.grammar(), *target, kWarmUpSeconds, &seed);
  double rate = 0;
  std::vector<double> of_round_trips;
  for (int i = 0; i < kTimes; ++i) {
    const Tally before = target->tally();
    const Timed timed = RunFor(def.grammar(), *target, kSeconds, &seed);
    const Tally& after = target->tally();
    const uint64_t trips = after.round_trips - before.round_trips;
    // This end of such a target mostly waits.
    const double seconds = trips == 0 ? timed.seconds : after.seconds - before.seconds;
    rate = std::max(rate, static_cast<double>(timed.sessions) / seconds);
    if (trips == 0) continue;
    of_round_trips.push_back(static_cast<double>(trips) * RoundTripSeconds() / seconds);
  }
  nlohmann::json speed = {{"target", def.name}, {"rate", rate}};
  if (!of_round_trips.empty()) {
    std::ranges::nth_element(of_round_trips, of_round_trips.begin() + kTimes / 2);
    speed["of_round_trips"] = of_round_trips[kTimes / 2];
  }
  if (const auto load = target->MeasureLoad()) speed["load_of_memcpy"] = *load;
  fmt::print("{}\n", speed.dump(1));
  return kOk;
}

}  // namespace farside::fuzz
