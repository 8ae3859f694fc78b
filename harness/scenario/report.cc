#include "harness/scenario/report.h"

#include <algorithm>

namespace farside::scenario {

using nlohmann::json;

namespace {

constexpr size_t kMaxStepText = 400;

std::string StepText(const json& step) {
  std::string text = step.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMaxStepText) text = text.substr(0, kMaxStepText) + "...";
  return text;
}

size_t CountRuns(std::span<const ScenarioResult> results, bool only_failed) {
  size_t count = 0;
  for (const ScenarioResult& result : results) {
    count += static_cast<size_t>(std::ranges::count_if(
        result.runs, [&](const RunResult& run) { return !only_failed || !run.passed(); }));
  }
  return count;
}

std::string Plural(size_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\n' || c == '\t' || (c >= ' ' && c <= '~')) {
      out += c;
    } else {
      out += '?';
    }
  }
  return out;
}

std::string FailureText(const RunFailure& run) {
  const Failure& failure = run.failure;
  std::string out;
  const std::string where = failure.path.empty() ? "before the first step" : failure.path;
  out += fmt::format("  {}: {}\n", where, failure.message);
  if (!failure.note.empty()) out += fmt::format("  note: {}\n", failure.note);
  if (!failure.step.is_null()) out += fmt::format("  step: {}\n", StepText(failure.step));
  if (!run.events.empty()) out += "  the last events:\n";
  for (const std::string& event : run.events) out += fmt::format("    {}\n", event);
  for (const auto& [process, lines] : run.output) {
    out += lines.empty() ? fmt::format("  {} printed nothing\n", process)
                         : fmt::format("  the last lines of {}:\n", process);
    for (const std::string& line : lines) out += fmt::format("    {}\n", line);
  }
  return out;
}

std::string ResultText(const ScenarioResult& result) {
  std::string out;
  for (const RunResult& run : result.runs) {
    out += fmt::format("{:<5} {} [{}] {:.2f} s\n", run.passed() ? "ok" : "FAIL",
                       result.scenario->name, run.mode, run.seconds);
    if (run.failure) {
      out += fmt::format("  {}\n", result.scenario->file);
      out += FailureText(*run.failure);
    }
  }
  return out;
}

std::string SummaryText(std::span<const ScenarioResult> results) {
  const auto failed = static_cast<size_t>(
      std::ranges::count_if(results, [](const ScenarioResult& r) { return !r.passed(); }));
  return fmt::format("{}, {}: {}\n", Plural(results.size(), "scenario"),
                     Plural(CountRuns(results, false), "run"),
                     failed == 0 ? "all passed" : fmt::format("{} FAILED", failed));
}

std::string JunitReport(std::span<const ScenarioResult> results) {
  double seconds = 0;
  std::string cases;
  for (const ScenarioResult& result : results) {
    for (const RunResult& run : result.runs) {
      seconds += run.seconds;
      cases += fmt::format(R"(  <testcase classname="{}" name="{}" file="{}" time="{:.3f}")",
                           EscapeXml(result.scenario->name), EscapeXml(run.mode),
                           EscapeXml(result.scenario->file), run.seconds);
      if (run.passed()) {
        cases += "/>\n";
        continue;
      }
      cases += fmt::format(">\n    <failure message=\"{}\">{}</failure>\n  </testcase>\n",
                           EscapeXml(run.failure->failure.message),
                           EscapeXml(FailureText(*run.failure)));
    }
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<testsuite name=\"farside run\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\" "
      "time=\"{:.3f}\">\n{}</testsuite>\n",
      CountRuns(results, false), CountRuns(results, true), seconds, cases);
}

json JsonReport(std::span<const ScenarioResult> results) {
  json list = json::array();
  for (const ScenarioResult& result : results) {
    json runs = json::array();
    for (const RunResult& run : result.runs) {
      json entry = {{"mode", run.mode}, {"passed", run.passed()}, {"seconds", run.seconds}};
      if (run.failure) {
        const Failure& failure = run.failure->failure;
        json output = json::object();
        for (const auto& [process, lines] : run.failure->output) output[process] = lines;
        entry["failure"] = {
            {"at", failure.path},         {"note", failure.note},          {"step", failure.step},
            {"message", failure.message}, {"events", run.failure->events}, {"output", output}};
      }
      runs.push_back(std::move(entry));
    }
    list.push_back({{"name", result.scenario->name},
                    {"file", result.scenario->file},
                    {"passed", result.passed()},
                    {"runs", std::move(runs)}});
  }
  const bool passed = std::ranges::all_of(results, &ScenarioResult::passed);
  return {{"passed", passed}, {"scenarios", std::move(list)}};
}

json FlatDocument(const Scenario& scenario, const std::vector<json>& steps) {
  json processes = json::array();
  for (const ProcessSpec& spec : scenario.processes) {
    json process = {
        {"id", spec.id}, {"exec", spec.program}, {"args", spec.args}, {"start", spec.start}};
    if (spec.max_fds != 0) process["max_fds"] = spec.max_fds;
    processes.push_back(std::move(process));
  }
  json devices = json::array();
  for (const DeviceSpec& spec : scenario.devices) {
    json device = {{"id", spec.id}, {"socket", spec.socket}, {"connect", spec.connect}};
    if (!spec.process.empty()) device["process"] = spec.process;
    devices.push_back(std::move(device));
  }
  json memory = json::array();
  for (const MemoryRange& range : scenario.memory) {
    memory.push_back({{"iova", fmt::format("{:#x}", range.iova)},
                      {"size", fmt::format("{:#x}", range.size)},
                      {"writable", range.writable}});
  }
  json modes = json::array();
  for (const Reach reach : scenario.modes) modes.push_back(std::string(ReachName(reach)));
  json out = {{"name", scenario.name},
              {"description", scenario.description},
              {"processes", std::move(processes)},
              {"devices", std::move(devices)},
              {"memory", std::move(memory)},
              {"modes", std::move(modes)},
              {"timeout_ms", scenario.timeout_ms},
              {"step_timeout_ms", scenario.step_timeout_ms},
              {"steps", steps}};
  if (!scenario.reason.empty()) out["reason"] = scenario.reason;
  if (scenario.irqs_vary) out["irqs_vary"] = "as the scenario says that this was made from";
  return out;
}

}  // namespace farside::scenario
