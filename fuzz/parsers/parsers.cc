#include "fuzz/parsers/parsers.h"

#include <algorithm>
#include <filesystem>

namespace farside::fuzz {

std::span<const TargetDef> ParserTargets() {
  static constexpr TargetDef kRows[] = {
      {.name = "record_nvme",
       .help = "the NVMe controller, recorded and replayed",
       .make = &MakeRecordNvmeTarget,
       .grammar = &NvmeGrammar},
      {.name = "record_lsi",
       .help = "the LSI53C895A, recorded and replayed",
       .make = &MakeRecordLsiTarget,
       .grammar = &LsiGrammar},
      {.name = "qmp",
       .help = "what a QMP client sends to vmm-lite",
       .make = &MakeQmpTarget,
       .facts = {&QmpWords, &QmpSeeds}},
      {.name = "scenario",
       .help = "a scenario's JSON, read and checked",
       .make = &MakeScenarioTarget,
       .facts = {&ScenarioWords, &ScenarioSeeds}},
      {.name = "trace",
       .help = "a trace, or the pcapng inside one, read twice",
       .make = &MakeTraceTarget,
       .facts = {&TraceWords, &TraceSeeds}},
  };
  return kRows;
}

void AddParserTargets() { AddTargets(ParserTargets()); }

std::vector<std::string> FilesBelow(const std::string& directory, const std::string& extension) {
  std::vector<std::string> files;
  std::error_code error;  // A folder that is not there has no files.
  for (std::filesystem::recursive_directory_iterator at(directory, error), end; !error && at != end;
       at.increment(error)) {
    if (at->is_regular_file() && at->path().extension() == extension) files.push_back(at->path());
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace farside::fuzz
