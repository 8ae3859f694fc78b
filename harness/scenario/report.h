// What people and programs get to read of results.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/scenario/runner.h"

namespace farside::scenario {

// "ok    nvme/flush  [fd]  0.12 s", and for a failure what is known of it. Ends with a newline.
std::string ResultText(const ScenarioResult& result);
// "12 scenarios, 24 runs: all passed", or how many failed.
std::string SummaryText(std::span<const ScenarioResult> results);
// Some indented lines: where, what, the events before, the last output.
std::string FailureText(const RunFailure& failure);

// `text` as text or an attribute of XML 1.0: what that can't hold is replaced.
std::string EscapeXml(std::string_view text);

// JUnit's XML, a test case for each run.
std::string JunitReport(std::span<const ScenarioResult> results);
nlohmann::json JsonReport(std::span<const ScenarioResult> results);

// A scenario like `scenario` with these steps.
nlohmann::json FlatDocument(const Scenario& scenario, const std::vector<nlohmann::json>& steps);

}  // namespace farside::scenario
