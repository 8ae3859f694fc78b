// Targets of parsers, and of the replay, whose libraries are large: a program that wants them links
// farside_fuzz_parsers and calls AddParserTargets().
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fuzz/targets/target.h"

namespace farside::fuzz {

std::span<const TargetDef> ParserTargets();
void AddParserTargets();

// The rows' functions.
std::unique_ptr<Target> MakeRecordNvmeTarget();
std::unique_ptr<Target> MakeRecordLsiTarget();
std::unique_ptr<Target> MakeQmpTarget();
std::vector<std::string> QmpWords();
std::vector<Seed> QmpSeeds(const std::string& source);
std::unique_ptr<Target> MakeScenarioTarget();
std::vector<std::string> ScenarioWords();
std::vector<Seed> ScenarioSeeds(const std::string& source);
std::unique_ptr<Target> MakeTraceTarget();
std::vector<std::string> TraceWords();
std::vector<Seed> TraceSeeds(const std::string& source);

// Files below `directory` that end as `extension` says, in order.
std::vector<std::string> FilesBelow(const std::string& directory, const std::string& extension);

}  // namespace farside::fuzz
