// Interpreter: does the steps of a scenario, or a single one for the shell.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {

// The step that failed, and why.
struct Failure {
  std::string path;  // "steps[3].repeat.steps[1] in round 2"; empty: before the first step.
  std::string note;  // The step's own.
  nlohmann::json step;
  std::string message;
};

// One step, whose references have values: CheckStep has seen it. `outputs`, if given, gets what its
// verb gave back.
std::optional<Failure> RunStep(Session& session, const std::string& path,
                               const nlohmann::json& step, Outputs* outputs = nullptr);

// The scenario's steps, until one fails.
std::optional<Failure> RunSteps(Session& session);

}  // namespace farside::scenario
