// farside fuzz triage, repro, tmin and min: what is done with inputs.
#include <fmt/format.h>

#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/options.h"
#include "harness/fuzz/command.h"
#include "harness/fuzz/findings.h"
#include "harness/fuzz/programs.h"

namespace farside::campaign {
namespace {

namespace fs = std::filesystem;

constexpr Option kBinDir[] = {{"bin-dir", "DIR", "look for the programs here first"}};

// Files, and those of directories.
Result<std::vector<std::string>> ListInputs(std::span<const std::string> paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) {
      files.push_back(path);
      continue;
    }
    fs::directory_iterator entries(path, error);
    for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
      if (entries->is_regular_file(error)) files.push_back(entries->path().string());
    }
    if (error) return Fail("can't read {}: {}", Quote(path), error.message());
  }
  std::ranges::sort(files);
  return files;
}

Result<int> Triage(const Given& given) {
  const auto tool = FindTool(given.text("bin-dir"));
  if (!tool) return tl::unexpected(tool.error());
  const auto files = ListInputs(std::span(given.rest()).subspan(1));
  if (!files) return tl::unexpected(files.error());
  SetSanitizerOptions();
  const bool terminal = isatty(STDERR_FILENO) != 0;
  Findings findings;
  size_t harmless = 0;
  for (size_t i = 0; i < files->size(); ++i) {
    if (terminal) fmt::print(stderr, "\r\033[K{} of {}", i, files->size());
    auto finding = Examine(*tool, given.rest(0), (*files)[i]);
    if (!finding) return tl::unexpected(finding.error());
    if (finding->fault.kind.empty()) {
      ++harmless;
    } else {
      AddFinding(*std::move(finding), &findings);
    }
  }
  if (terminal) fmt::print(stderr, "\r\033[K");
  fmt::print("{}", Table(findings));
  fmt::print("{} inputs: {} faults, {} inputs do nothing\n", files->size(), findings.size(),
             harmless);
  if (const std::string file = given.text("json"); !file.empty()) {
    const nlohmann::json json = {{"target", given.rest(0)},
                                 {"inputs", files->size()},
                                 {"harmless", harmless},
                                 {"findings", ToJson(findings)}};
    if (auto wrote = WriteText(file, json.dump(1) + "\n"); !wrote) {
      return tl::unexpected(wrote.error());
    }
  }
  return findings.empty() ? 0 : kFound;
}

// Whose input it is: of a target, or with --connect of the server on a socket.
struct Whose {
  std::string target;  // Empty: the server.
  std::string socket;
  bool generic = false;
  std::string input;
};
Result<Whose> WhoseOf(const Given& given) {
  Whose whose{.target = {},
              .socket = given.text("connect"),
              .generic = given.has("generic"),
              .input = given.rest().back()};
  if ((given.rest().size() == 2) != whose.socket.empty()) {
    return Fail("name a target and an input, or with --connect SOCKET an input only");
  }
  if (whose.socket.empty() && whose.generic) return Fail("--generic goes with --connect");
  if (whose.socket.empty()) whose.target = given.rest(0);
  return whose;
}

Result<int> Repro(const Given& given) {
  const auto tool = FindTool(given.text("bin-dir"));
  if (!tool) return tl::unexpected(tool.error());
  const auto whose = WhoseOf(given);
  if (!whose) return tl::unexpected(whose.error());
  SetSanitizerOptions();
  if (whose->socket.empty()) return RunInForeground(*tool, {"repro", whose->target, whose->input});
  std::vector<std::string> args = {"play", whose->socket, whose->input};
  if (whose->generic) args.emplace_back("--generic");
  return RunInForeground(*tool, args);
}

Result<int> Tmin(const Given& given) {
  const auto tool = FindTool(given.text("bin-dir"));
  if (!tool) return tl::unexpected(tool.error());
  const auto whose = WhoseOf(given);
  if (!whose) return tl::unexpected(whose.error());
  const auto seconds = given.number("seconds", 300, 1, 604'800);
  if (!seconds) return tl::unexpected(seconds.error());
  std::vector<std::string> args = {"tmin", whose->target};
  if (!whose->socket.empty()) args = {"tmin", "--connect", whose->socket};
  args.insert(args.end(), {whose->input, given.text("output", whose->input + ".min"),
                           std::to_string(*seconds)});
  if (whose->generic) args.emplace_back("--generic");
  return RunInForeground(*tool, args);
}

// Into a directory beside the corpus, which then takes its place: nothing is lost on the way.
Result<int> Min(const Given& given) {
  const auto fuzzer = FindFuzzer(given.rest(0), given.text("bin-dir"));
  if (!fuzzer) return tl::unexpected(fuzzer.error());
  const fs::path corpus = fs::path(given.rest(1) + "/").parent_path();
  std::error_code error;
  if (!fs::is_directory(corpus, error)) {
    return Fail("{} is no directory: name a corpus", Quote(given.rest(1)));
  }
  const std::string output = given.text("output");
  const fs::path merged = output.empty() ? fs::path(corpus.string() + ".min") : fs::path(output);
  if (fs::exists(merged, error) && !fs::is_empty(merged, error)) {
    return Fail("{} is in the way: it is to be empty", Quote(merged.string()));
  }
  fs::create_directories(merged, error);
  if (error) return Fail("cannot make directory {}: {}", Quote(merged.string()), error.message());
  SetSanitizerOptions();
  const auto ran = RunProgram(*fuzzer,
                              {"-merge=1", "-max_len=65536", "-timeout=20", "-rss_limit_mb=2048",
                               "-handle_bus=0", merged.string(), corpus.string()},
                              UINT64_MAX);
  if (!ran) return tl::unexpected(ran.error());
  if (ran->failed) {
    return Fail("{} {}: {}", *fuzzer, ran->how,
                ran->output.substr(ran->output.size() - std::min<size_t>(ran->output.size(), 400)));
  }
  const auto count = [&](const fs::path& path) {
    return std::distance(fs::directory_iterator(path, error), fs::directory_iterator());
  };
  fmt::print("{}: {} inputs of {} reach all that is reached\n", given.rest(0), count(merged),
             count(corpus));
  if (!output.empty()) return 0;
  const fs::path old(corpus.string() + ".old");
  fs::rename(corpus, old, error);
  if (!error) fs::rename(merged, corpus, error);
  if (error) return Fail("cannot put {} in its place: {}", merged.string(), error.message());
  fs::remove_all(old, error);
  return 0;
}

constexpr Option kTriageOptions[] = {kBinDir[0], {"json", "FILE", "write the table as JSON, too"}};
constexpr Option kConnect = {"connect", "SOCKET",
                             "of run --connect: of the server that listens there, or that "
                             "'exec:PROGRAM ...' starts"};
constexpr Option kGeneric = {"generic", "",
                             "with --connect: any PCI device, not one whose registers are known"};
constexpr Option kReproOptions[] = {kConnect, kGeneric, kBinDir[0]};
constexpr Option kTminOptions[] = {
    {"output", "FILE", "the smaller input; default INPUT.min", 'o'},
    {"seconds", "N", "try no longer than this; default 300"},
    kConnect,
    kGeneric,
    kBinDir[0],
};
constexpr Option kMinOptions[] = {
    {"output", "DIR", "an empty directory for what stays; default: in place", 'o'},
    kBinDir[0],
};

}  // namespace

extern const Subcommand kTriageCommand{"triage", "TARGET FILE|DIR...",
                                       "runs inputs and says which end with the same fault",
                                       kTriageOptions, &Triage};
extern const Subcommand kReproCommand{"repro", "[TARGET] INPUT",
                                      "prints each event before it happens, and the fault",
                                      kReproOptions, &Repro};
extern const Subcommand kTminCommand{"tmin", "[TARGET] INPUT",
                                     "makes an input smaller that ends with the same fault",
                                     kTminOptions, &Tmin};
extern const Subcommand kMinCommand{"min", "TARGET CORPUS",
                                    "leaves the inputs that together reach what all reach",
                                    kMinOptions, &Min};

}  // namespace farside::campaign
