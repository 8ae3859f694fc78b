// farside run: scenarios, their schema, and what came of them.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/program_options.hpp>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "base/option_error.h"
#include "base/options.h"
#include "harness/cli/command.h"
#include "harness/cli/signals.h"
#include "harness/scenario/report.h"
#include "harness/scenario/runner.h"
#include "harness/scenario/schema.h"

namespace farside::cli {
namespace {

namespace fs = std::filesystem;
namespace po = boost::program_options;
using scenario::Scenario;
using scenario::ScenarioResult;

constexpr size_t kMaxJobs = 64;

struct RunOptions {
  std::vector<std::string> files;
  std::string bin_dir;
  std::string junit;
  std::string json;
  size_t jobs = 1;
  bool expand = false;
  bool check = false;
  bool schema = false;
  bool help = false;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("bin-dir", po::value<std::string>()->value_name("DIR"),
      "look for the scenarios' programs here first; then beside farside, then in PATH");
  add("jobs,j", po::value<size_t>()->value_name("N"), "scenarios at once; default 1");
  add("junit", po::value<std::string>()->value_name("FILE"), "write the results as JUnit's XML");
  add("json", po::value<std::string>()->value_name("FILE"), "write the results as JSON");
  add("expand", "run one scenario by message and print it as raw verbs only");
  add("check", "read the scenarios, say what is wrong with them, run nothing");
  add("schema", "print the JSON Schema of scenarios");
  add("help,h", "print this text");
  return all;
}

Result<RunOptions> Parse(const Arguments& args) {
  po::options_description all = Described();
  all.add_options()("file", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("file", -1);
  constexpr int kStyle =
      po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(po::command_line_parser(args).options(all).positional(positional).style(kStyle).run(),
              given);
  } catch (const po::error& error) {
    return Fail("{}; `farside run --help` lists what there is", OptionErrorText(error, args));
  }
  RunOptions out;
  const auto text = [&](const char* name) {
    return given.count(name) != 0 ? given[name].as<std::string>() : std::string();
  };
  if (given.count("file") != 0) out.files = given["file"].as<std::vector<std::string>>();
  out.bin_dir = text("bin-dir");
  out.junit = text("junit");
  out.json = text("json");
  if (given.count("jobs") != 0) out.jobs = given["jobs"].as<size_t>();
  out.expand = given.count("expand") != 0;
  out.check = given.count("check") != 0;
  out.schema = given.count("schema") != 0;
  out.help = given.count("help") != 0;
  if (out.jobs == 0 || out.jobs > kMaxJobs) {
    return Fail("--jobs is {}: 1 to {} are possible", out.jobs, kMaxJobs);
  }
  if (!out.bin_dir.empty() && !fs::is_directory(out.bin_dir)) {
    return Fail("--bin-dir {} is no directory", out.bin_dir);
  }
  return out;
}

bool IsScenarioFile(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".jsonnet") || (name.ends_with(".json") && !name.ends_with(".schema.json"));
}

// A directory stands for the scenarios in it, in the order of their names.
Result<std::vector<std::string>> FindFiles(const std::vector<std::string>& given) {
  std::vector<std::string> out;
  for (const std::string& path : given) {
    if (!fs::is_directory(path)) {
      out.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    std::error_code error;
    for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->is_regular_file() && IsScenarioFile(entry->path())) {
        found.push_back(entry->path().string());
      }
    }
    if (error) return Fail("{}: {}", path, error.message());
    if (found.empty()) return Fail("there is no .json or .jsonnet file in {}", path);
    std::ranges::sort(found);
    out.insert(out.end(), found.begin(), found.end());
  }
  return out;
}

// In so many threads: what a Jsonnet file says takes as long as many a scenario itself.
Result<std::vector<Scenario>> LoadAll(const std::vector<std::string>& files, size_t jobs) {
  std::vector<Result<Scenario>> loaded(files.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      loaded[i] = scenario::LoadScenario(files[i]);
    }
  };
  std::vector<std::thread> workers;
  for (size_t i = 1; i < std::min(jobs, files.size()); ++i) workers.emplace_back(work);
  work();
  for (std::thread& worker : workers) worker.join();

  std::vector<Scenario> out;
  std::set<std::string> names;
  for (size_t i = 0; i < files.size(); ++i) {
    if (!loaded[i]) return tl::unexpected(loaded[i].error());
    if (!names.insert(loaded[i]->name).second) {
      return Fail("{}: there are two scenarios with the name {}: rename one", files[i],
                  Quote(loaded[i]->name));
    }
    out.push_back(std::move(*loaded[i]));
  }
  return out;
}

Result<void> WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (file) return {};
  return Fail("cannot write {}: does its directory exist, and is there room?", path);
}

int Expand(const Scenario& only, const scenario::RunnerOptions& options) {
  const auto flat = scenario::ExpandScenario(only, options);
  if (!flat) {
    fmt::print(stderr, "farside: {} failed, so it can't be expanded:\n{}", only.name,
               flat.error().message);
    return kFailed;
  }
  fmt::print("{}\n", flat->dump(1));
  return kOk;
}

int Report(const std::vector<ScenarioResult>& results, const RunOptions& options) {
  fmt::print("{}", scenario::SummaryText(results));
  if (!options.junit.empty()) {
    const auto written = WriteFile(options.junit, scenario::JunitReport(results));
    if (!written) return BadUsage(written.error());
  }
  if (!options.json.empty()) {
    const std::string text =
        scenario::JsonReport(results).dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (const auto written = WriteFile(options.json, text + "\n"); !written) {
      return BadUsage(written.error());
    }
  }
  return std::ranges::all_of(results, &ScenarioResult::passed) ? kOk : kFailed;
}

int Run(const std::vector<Scenario>& scenarios, const RunOptions& options) {
  Signals signals;
  scenario::RunnerOptions runner{.bin_dir = options.bin_dir,
                                 .jobs = options.jobs,
                                 .interruption = &signals.interruption(),
                                 .on_result = {},
                                 .on_progress = {}};
  if (options.expand) return Expand(scenarios.front(), runner);
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  const char* const clear = terminal ? "\r\033[K" : "";
  runner.on_result = [&](const ScenarioResult& result) {
    fmt::print("{}{}", clear, scenario::ResultText(result));
    std::fflush(stdout);
  };
  if (terminal) {
    runner.on_progress = [&](size_t ended) {
      fmt::print("\r{} of {} scenarios\033[K", ended, scenarios.size());
      std::fflush(stdout);
    };
  }
  const auto results = scenario::RunScenarios(scenarios, runner);
  fmt::print("{}", clear);
  const int status = Report(results, options);
  return signals.interruption().triggered() ? kInterrupted : status;
}

}  // namespace

int RunCommand(const Arguments& args) {
  const auto options = Parse(args);
  if (!options) return BadUsage(options.error());
  if (options->help) {
    std::ostringstream text;
    text << "Usage: farside run [OPTIONS] SCENARIO...\n\n"
         << "Runs scenarios: .json and .jsonnet files, or directories of them. Each is run twice,\n"
         << "with the guest's memory reached by fd and by message, and must end the same.\n"
         << "docs/scenarios.md tells how to write one; `farside help VERB` what a step can say.\n\n"
         << Described() << "\nExit status: 0 all passed, 1 a scenario failed, 2 bad usage or a bad "
         << "scenario.\n";
    fmt::print("{}", text.str());
    return kOk;
  }
  if (options->schema) {
    fmt::print("{}\n", scenario::ScenarioSchema().dump(1));
    return kOk;
  }
  if (options->files.empty()) {
    return BadUsage({"name a scenario: farside run FILE.jsonnet; --help lists the options", 0});
  }
  const auto files = FindFiles(options->files);
  if (!files) return BadUsage(files.error());
  const auto scenarios = LoadAll(*files, options->jobs);
  if (!scenarios) return BadUsage(scenarios.error());
  if (options->expand && scenarios->size() != 1) {
    return BadUsage({fmt::format("--expand takes one scenario, not {}", scenarios->size()), 0});
  }
  if (options->check) {
    fmt::print("{} scenarios are well-formed\n", scenarios->size());
    return kOk;
  }
  return Run(*scenarios, *options);
}

}  // namespace farside::cli
