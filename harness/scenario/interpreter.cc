#include "harness/scenario/interpreter.h"

#include <utility>

#include "base/check.h"
#include "harness/scenario/args.h"
#include "harness/scenario/expect.h"
#include "harness/scenario/scenario.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

// A verb's outcome as the step wanted it: with "refused" an Error is success.
Result<Outputs> JudgeRefusal(const Verb& verb, const Args& args, Result<Outputs> outcome) {
  if (!args.Has("refused")) return outcome;
  const uint64_t wanted = args.Number("refused");
  if (outcome) return Fail("{} succeeded, expected {}", verb.name, ErrnoName(wanted));
  if (static_cast<uint64_t>(outcome.error().code) == wanted) return Outputs{};
  return Fail("{}; expected {}", outcome.error().message, ErrnoName(wanted));
}

class Interpreter {
 public:
  explicit Interpreter(Session& session) : session_(session) {}

  std::optional<Failure> Run(const std::string& path, const json& given, Outputs* outputs) {
    const auto step = ReadStep(given);
    CHECK(step.has_value());
    const auto failed = [&](const Error& error) {
      return Failure{path, std::string(step->note), given, error.message};
    };
    if (session_.interrupted()) return failed({"interrupted", 0});
    if (session_.expired()) {
      return failed(
          {fmt::format("the scenario's {} ms are over", session_.scenario().timeout_ms), 0});
    }
    json own;
    const auto extras = SplitExtras(*step->verb, *step->params, &own);
    CHECK(extras.has_value());
    const auto args =
        ReadArgs(step->verb->name, AllParams(*step->verb), own, session_.captures(), Resolve::kNow);
    if (!args) return failed(args.error());
    if (step->verb->kind == Kind::kControl) return Repeat(path, *args, failed);

    session_.BeginStep(args->Number("timeout_ms", session_.scenario().step_timeout_ms));
    session_.log().set_driving(step->verb->kind == Kind::kDriver);
    auto outcome = JudgeRefusal(*step->verb, *args, step->verb->run(session_, *args));
    LogFlat(*step, own);
    if (!outcome) return failed(outcome.error());
    if (!args->Has("refused")) {
      const auto met = extras->Check(*outcome, session_.captures());
      if (!met) return failed(met.error());
      extras->Capture(*outcome, &session_.captures());
    }
    if (outputs != nullptr) *outputs = std::move(*outcome);
    return std::nullopt;
  }

 private:
  // A raw verb's step is its own event. A driver's last events are what its device did.
  void LogFlat(const Step& step, const json& own) {
    EventLog& log = session_.log();
    if (!log.flat()) return;
    if (step.verb->kind == Kind::kDriver) return session_.tapped_memory().LogChanges();
    // What it captured is in the steps behind it already; what it expects is checked again.
    json params = own;
    if (const auto expect = step.params->find("expect"); expect != step.params->end()) {
      params["expect"] = *expect;
    }
    json event = {{std::string(step.verb->name), ReplaceReferences(params, session_.captures())}};
    if (!step.note.empty()) event["note"] = step.note;
    log.AddStep(std::move(event));
    session_.tapped_memory().SkipChanges();
  }

  template <typename Failed>
  std::optional<Failure> Repeat(const std::string& path, const Args& args, const Failed& failed) {
    const uint64_t times = args.Number("times");
    std::string unmet;
    for (uint64_t round = 1; round <= times; ++round) {
      size_t index = 0;
      for (const json& step : args.Given("steps")) {
        const std::string inner =
            fmt::format("{}.repeat.steps[{}] in round {}", path, index++, round);
        if (auto failure = Run(inner, step, nullptr)) return failure;
      }
      if (!args.Has("until")) continue;
      const auto until =
          ReadArgs("until", kUntilParams, args.Given("until"), session_.captures(), Resolve::kNow);
      if (!until) return failed(until.error());
      unmet = Unmet(*until, until->Number("of"));
      if (unmet.empty()) return std::nullopt;
      unmet = fmt::format("it is {:#x}, expected {}", until->Number("of"), unmet);
    }
    if (unmet.empty()) return std::nullopt;
    return failed({fmt::format("given up after {} rounds: {}", times, unmet), 0});
  }

  Session& session_;
};

}  // namespace

std::optional<Failure> RunStep(Session& session, const std::string& path, const json& step,
                               Outputs* outputs) {
  return Interpreter(session).Run(path, step, outputs);
}

std::optional<Failure> RunSteps(Session& session) {
  size_t index = 0;
  for (const json& step : session.scenario().steps) {
    auto failure = RunStep(session, fmt::format("steps[{}]", index++), step);
    if (failure) return failure;
  }
  return std::nullopt;
}

}  // namespace farside::scenario
