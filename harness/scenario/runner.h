// Runner: scenarios, each in its modes, and what came of them.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "harness/scenario/interpreter.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/session.h"

namespace farside::scenario {

// What a failed run leaves to look at.
struct RunFailure {
  Failure failure;
  std::vector<std::string> events;  // The last ones that crossed the boundary.
  // The last lines that each process printed, by its id.
  std::vector<std::pair<std::string, std::vector<std::string>>> output;
};

// One mode of one scenario. After "fd" and "message" comes "compare" where they ended differently.
struct RunResult {
  std::string mode;
  double seconds = 0;
  std::optional<RunFailure> failure;

  bool passed() const { return !failure; }
};

struct ScenarioResult {
  const Scenario* scenario = nullptr;
  std::vector<RunResult> runs;

  bool passed() const;
};

struct RunnerOptions {
  std::string bin_dir;  // Where programs are looked for first.
  size_t jobs = 1;      // Scenarios at once.
  Interruption* interruption = nullptr;
  // Called in the order of the scenarios, by the thread that called RunScenarios.
  std::function<void(const ScenarioResult&)> on_result;
  // The same, at the beginning and whenever a scenario ends: how many have ended.
  std::function<void(size_t)> on_progress;
};

// Runs all. `scenarios` outlive the results.
std::vector<ScenarioResult> RunScenarios(std::span<const Scenario> scenarios,
                                         const RunnerOptions& options);

// Runs a scenario and gives it as raw verbs only: a scenario again. An Error: it failed.
Result<nlohmann::json> ExpandScenario(const Scenario& scenario, const RunnerOptions& options);

}  // namespace farside::scenario
