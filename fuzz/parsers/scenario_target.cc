// The target "scenario": a scenario's JSON, read and checked, and not run. Jsonnet is left out: its
// evaluator bounds neither time nor memory, and is not ours.
#include <filesystem>
#include <set>

#include "base/options.h"
#include "fuzz/host/oracle.h"
#include "fuzz/parsers/parsers.h"
#include "harness/scenario/jsonnet.h"
#include "harness/scenario/scenario.h"

namespace farside::fuzz {
namespace {

// Beyond it an example says little that a smaller one does not.
constexpr size_t kMaxSeed = 32 << 10;
// Few: each takes seconds to evaluate under a sanitizer, and shares most with others.
constexpr const char* kExamples[] = {"nvme/flush", "nvme/intx",
                                     "scsi/cve-2021-3930-mode-sense-all"};

class ScenarioTarget final : public Target {
 public:
  void Run(ConstBytes input) override {
    ++tally_.sessions;
    const auto document = ParseJson({reinterpret_cast<const char*>(input.data()), input.size()});
    if (!document) return;
    const auto read = scenario::ParseScenario("input", *document);
    if (read) return;
    // A sentence about the input begins with its name.
    if (!read.error().message.starts_with("input: ")) {
      Violation("sentence", "an error names no file: {}", read.error().message);
    }
  }
};

void AddParams(std::span<const scenario::Param> params, std::set<std::string>* out) {
  for (const scenario::Param& param : params) {
    out->insert(fmt::format("\"{}\":", param.name));
    for (const std::string_view word : param.words) {
      if (!word.empty()) out->insert(fmt::format("\"{}\"", word));
    }
    AddParams(param.fields, out);
  }
}

}  // namespace

std::unique_ptr<Target> MakeScenarioTarget() { return std::make_unique<ScenarioTarget>(); }

std::vector<std::string> ScenarioWords() {
  std::set<std::string> words{"\"expect\":", "\"capture\":", "\"$", "{\"mask\":", "null", "true"};
  AddParams(scenario::ScenarioParams(), &words);
  for (const scenario::Verb* verb : scenario::AllVerbs()) {
    words.insert(fmt::format("{{\"{}\": {{", verb->name));
    AddParams(scenario::AllParams(*verb), &words);
    for (const scenario::Output& output : verb->outputs) {
      words.insert(fmt::format("\"{}\"", output.name));
    }
  }
  return {words.begin(), words.end()};
}

std::vector<Seed> ScenarioSeeds(const std::string& source) {
  std::vector<Seed> seeds;
  for (const char* example : kExamples) {
    const std::string file = fmt::format("{}/scenarios/{}.jsonnet", source, example);
    const auto text = scenario::EvaluateJsonnet(file);
    if (!text || text->size() > 8 * kMaxSeed) continue;  // Or one that takes arguments.
    const auto document = ParseJson(*text);
    if (!document) continue;
    const std::string compact = document->dump();
    if (compact.size() > kMaxSeed) continue;
    const auto bytes = std::as_bytes(std::span(compact));
    const std::filesystem::path path(file);
    seeds.push_back({path.parent_path().filename().string() + "-" + path.stem().string() + ".json",
                     {bytes.begin(), bytes.end()}});
  }
  return seeds;
}

}  // namespace farside::fuzz
