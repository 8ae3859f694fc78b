// farside fuzz report: what a campaign reached and found, on one page.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/options.h"
#include "harness/fuzz/command.h"
#include "harness/fuzz/coverage.h"
#include "harness/fuzz/findings.h"
#include "harness/fuzz/page.h"
#include "harness/fuzz/programs.h"

namespace farside::campaign {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kTimeout = 3'600'000'000'000;
// Per cent of sessions; below them a target counts as absent.
constexpr double kDmaShare = 50;
constexpr double kInterruptShare = 30;
constexpr double kIoShare = 30;

Result<std::set<std::string>> TargetNames(const std::string& tool) {
  const auto ran = RunProgram(tool, {"list"}, 60'000'000'000);
  if (!ran) return tl::unexpected(ran.error());
  std::set<std::string> names;
  std::string_view rest = ran->output;
  while (!rest.empty()) {
    names.emplace(rest.substr(0, rest.find_first_of(" \n")));
    rest.remove_prefix(std::min(rest.find('\n'), rest.size() - 1) + 1);
  }
  return names;
}

// What an argument of --corpus or --findings means: TARGET=DIR; DIR with a folder for each target;
// or DIR that is named after its target or lies in a folder that is. `leaf` may stand between.
Result<std::vector<Corpus>> Resolve(const std::string& argument, const std::string& leaf,
                                    const std::set<std::string>& targets) {
  std::error_code error;
  const size_t equals = argument.find('=');
  if (equals != std::string::npos && targets.contains(argument.substr(0, equals))) {
    const std::string directory = argument.substr(equals + 1);
    if (!fs::is_directory(directory, error)) return Fail("{} is no directory", Quote(directory));
    return std::vector{Corpus{argument.substr(0, equals), directory}};
  }
  const fs::path path = (fs::absolute(argument, error) / "").lexically_normal().parent_path();
  if (!fs::is_directory(path, error)) return Fail("{} is no directory", Quote(argument));
  std::vector<Corpus> found;
  for (const std::string& target : targets) {
    for (const fs::path& folder : {path / target / leaf, path / target}) {
      if (!fs::is_directory(folder, error)) continue;
      found.push_back({target, folder.string()});
      break;
    }
  }
  if (!found.empty()) return found;
  for (const fs::path& name : {path.filename(), path.parent_path().filename()}) {
    if (targets.contains(name.string())) return std::vector{Corpus{name.string(), path.string()}};
  }
  return Fail("which target is {} of? Say TARGET={}; farside-fuzz list names the targets",
              Quote(argument), argument);
}

Result<std::vector<Corpus>> ResolveAll(const std::vector<std::string>& arguments,
                                       const std::string& leaf,
                                       const std::set<std::string>& targets) {
  std::vector<Corpus> all;
  for (const std::string& argument : arguments) {
    const auto some = Resolve(argument, leaf, targets);
    if (!some) return tl::unexpected(some.error());
    all.insert(all.end(), some->begin(), some->end());
  }
  return all;
}

// What is missing for a target to count, or nothing.
std::string Missing(const json& target) {
  const json& shares = target.at("shares");
  std::string why;
  const auto demand = [&](const char* name, double least, const char* what) {
    if (!shares.contains(name) || shares.at(name).get<double>() >= least) return;
    why += fmt::format("{}{} in fewer than {:.0f} %", why.empty() ? "" : ", ", what, least);
  };
  if (target.at("inputs") == 0) return "no inputs";
  demand("dma", kDmaShare, "DMA");
  demand("interrupts", kInterruptShare, "interrupts");
  demand("io", kIoShare, "disk commands");
  return why;
}

// Per cent.
json SharesOf(const json& tally) {
  const auto number = [&](const char* name) { return tally.at(name).get<double>(); };
  const double sessions = std::max(number("sessions"), 1.0);
  return {{"dma", 100 * number("with_dma") / sessions},
          {"interrupts", 100 * number("with_interrupts") / sessions},
          {"io", 100 * number("with_io") / sessions}};
}

Result<json> CensusOf(const std::string& tool, const Corpus& corpus) {
  const auto ran = RunProgram(tool, {"census", corpus.target, corpus.directory}, kTimeout);
  if (!ran) return tl::unexpected(ran.error());
  if (ran->failed) {
    return Fail(
        "farside-fuzz census {} {} {}; does an input in it end the target? `farside fuzz "
        "triage` tells",
        corpus.target, corpus.directory, ran->how);
  }
  auto census = ParseJson(ran->output);
  if (!census) return tl::unexpected(census.error());
  json target = *std::move(census);
  target["directory"] = corpus.directory;
  target["rate"] =
      target.at("inputs").get<double>() / std::max(target.at("seconds").get<double>(), 1e-6);
  target["shares"] = json::object();
  target["corpus_shares"] = json::object();
  if (target.at("has_io").get<bool>()) {
    target["shares"] = SharesOf(target.at("made_up"));
    target["corpus_shares"] = SharesOf(target);
  }
  target["why"] = Missing(target);
  target["present"] = target.at("why").get<std::string>().empty();
  return target;
}

Result<json> FindingsOf(const std::string& tool, const std::vector<Corpus>& folders) {
  json all = json::array();
  for (const Corpus& folder : folders) {
    Findings findings;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder.directory, error)) {
      if (!entry.is_regular_file(error)) continue;
      auto finding = Examine(tool, folder.target, entry.path().string());
      if (!finding) return tl::unexpected(finding.error());
      if (!finding->fault.kind.empty()) AddFinding(*std::move(finding), &findings);
    }
    json list = ToJson(findings);
    for (json& one : list) {
      one["target"] = folder.target;
      one["repro"] = findings.at(one.at("identity").get<std::string>()).repro;
      all.push_back(std::move(one));
    }
  }
  return all;
}

std::string NotBuilt(const std::string& program, const std::string& preset) {
  return fmt::format(
      "there is no {0}; build it: cmake --preset {1} && cmake --build --preset {1} -t farside-fuzz",
      program, preset);
}

// farside-fuzz of another preset, beside the build that `tool` is of.
std::string ToolOf(const std::string& tool, const std::string& preset) {
  return (fs::path(tool).parent_path() / "../.." / preset / "bin/farside-fuzz")
      .lexically_normal()
      .string();
}

// How fast the targets are whose inputs are sessions: without sanitizers, with them, and as they
// are fuzzed.
json SpeedOf(const std::string& tool, const json& targets) {
  json speed = {{"targets", json::array()}, {"why", json::array()}};
  for (const std::string preset : {"release", "debug", "fuzz"}) {
    const std::string program = ToolOf(tool, preset);
    if (access(program.c_str(), X_OK) != 0) {
      speed["why"].push_back(NotBuilt(program, preset));
      continue;
    }
    for (const json& target : targets) {
      if (target.at("kinds").empty()) continue;
      const auto name = target.at("target").get<std::string>();
      const auto ran = RunProgram(program, {"speed", name}, kTimeout);
      auto measured = ran && !ran->failed ? ParseJson(ran->output) : json();
      if (!measured || !measured->is_object()) {
        speed["why"].push_back(
            fmt::format("{} speed {} {}", program, name, ran ? ran->how : ran.error().message));
        continue;
      }
      (*measured)["build"] = preset;
      speed["targets"].push_back(*std::move(measured));
    }
  }
  return speed;
}

json CoverageOf(const Given& given, const std::string& tool, const std::vector<Corpus>& corpora) {
  const std::string program = given.text("coverage-bin", ToolOf(tool, "coverage"));
  if (access(program.c_str(), X_OK) != 0) {
    return {{"why", NotBuilt(program, "coverage")}};
  }
  const auto coverage = MeasureCoverage(program, corpora);
  return coverage ? ToJson(*coverage) : json{{"why", coverage.error().message}};
}

Result<int> Report(const Given& given) {
  const std::string output = given.text("output");
  if (output.empty() || !given.has("corpus")) {
    return Fail("name a corpus and the page: --corpus DIR -o report.html");
  }
  const auto tool = FindTool(given.text("bin-dir"));
  if (!tool) return tl::unexpected(tool.error());
  const auto targets = TargetNames(*tool);
  if (!targets) return tl::unexpected(targets.error());
  const auto corpora = ResolveAll(given.all("corpus"), "corpus", *targets);
  if (!corpora) return tl::unexpected(corpora.error());
  const auto folders = ResolveAll(given.all("findings"), "findings", *targets);
  if (!folders) return tl::unexpected(folders.error());
  SetSanitizerOptions();
  const std::time_t now = std::time(nullptr);
  json report = {{"made", fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(now))},
                 {"targets", json::array()}};
  for (const Corpus& corpus : *corpora) {
    auto target = CensusOf(*tool, corpus);
    if (!target) return tl::unexpected(target.error());
    report["targets"].push_back(*std::move(target));
  }
  report["without"] = json::array();
  for (const std::string& target : *targets) {
    const auto of_it = [&](const Corpus& corpus) { return corpus.target == target; };
    if (std::ranges::none_of(*corpora, of_it)) report["without"].push_back(target);
  }
  auto findings = FindingsOf(*tool, *folders);
  if (!findings) return tl::unexpected(findings.error());
  report["findings"] = *std::move(findings);
  if (given.has("speed")) report["speed"] = SpeedOf(*tool, report.at("targets"));
  report["coverage"] = CoverageOf(given, *tool, *corpora);
  if (const std::string file = given.text("mutants"); !file.empty()) {
    const auto text = ReadText(file);
    if (!text) return tl::unexpected(text.error());
    const auto mutants = ParseJson(*text);
    if (!mutants || !mutants->is_object() || !mutants->contains("mutants")) {
      return Fail("{} is no {{\"mutants\": [...]}}", Quote(file));
    }
    report["mutants"] = mutants->at("mutants");
  }
  if (auto wrote = WriteText(output, Page(report)); !wrote) return tl::unexpected(wrote.error());
  if (const std::string file = given.text("json"); !file.empty()) {
    const std::string text = report.dump(1, ' ', false, json::error_handler_t::replace);
    if (auto wrote = WriteText(file, text + "\n"); !wrote) return tl::unexpected(wrote.error());
  }
  fmt::print("{}: {} targets, {} findings\n", output, report["targets"].size(),
             report["findings"].size());
  return report["findings"].empty() ? 0 : kFound;
}

constexpr Option kOptions[] = {
    {"corpus", "DIR", "of one target (TARGET=DIR), or a folder for each in it; may be repeated"},
    {"findings", "DIR", "likewise"},
    {"output", "FILE", "the page", 'o'},
    {"json", "FILE", "what is on the page, as JSON"},
    {"mutants", "FILE", "results of seeded bugs: fuzz/mutants/results.json"},
    {"coverage-bin", "FILE", "farside-fuzz of the coverage build; default: beside this build"},
    {"speed", "", "measure how fast sessions are, in the builds release, debug and fuzz beside"},
    {"bin-dir", "DIR", "look for the programs here first"},
};

}  // namespace

extern const Subcommand kReportCommand{"report", "", "writes a page on what was reached and found",
                                       kOptions, &Report};

}  // namespace farside::campaign
