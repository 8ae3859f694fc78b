// What was found: inputs, each with its fault.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "harness/fuzz/fault.h"

namespace farside::campaign {

struct Finding {
  Fault fault = {};
  std::string file;        // The first input that does it.
  uint64_t events = 0;     // Up to the fault.
  uint64_t count = 0;      // Inputs with the same fault.
  std::string repro = {};  // What repro printed: the events, and the report.
};

// By identity.
using Findings = std::map<std::string, Finding>;

// Runs `file` by farside-fuzz (`tool`). No fault: its kind is empty.
Result<Finding> Examine(const std::string& tool, const std::string& target,
                        const std::string& file);
// In what repro or a fuzzer printed: up to the last one that it tells of.
uint64_t CountEvents(std::string_view output);
// Adds it, or counts it if there is one like it. True if it is new.
bool AddFinding(Finding finding, Findings* findings);

// A table for people; empty if there are none.
std::string Table(const Findings& findings);
nlohmann::json ToJson(const Findings& findings);
// JUnit's XML: a test case that passes if nothing was found, else one that fails for each.
std::string Junit(std::string_view target, const Findings& findings);

Result<std::string> ReadText(const std::string& path);
// A file and what it is to hold; the error is a sentence.
Result<void> WriteText(const std::string& path, std::string_view text);

}  // namespace farside::campaign
