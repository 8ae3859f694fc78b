// The programs that `farside fuzz` runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace farside::campaign {

// fuzz_TARGET: in `bin_dir` (empty: nowhere), beside farside, or in the fuzz build beside the build
// that farside is of.
Result<std::string> FindFuzzer(const std::string& target, const std::string& bin_dir);
// farside-fuzz, likewise. Of the same build as `fuzzer` if that is a path.
Result<std::string> FindTool(const std::string& bin_dir, const std::string& fuzzer = {});

// Sanitizers' reports as we read them. Before the first program is started.
void SetSanitizerOptions();

struct Ran {
  std::string output;  // Standard output and error.
  bool in_time = true;
  bool failed = false;
  std::string how;  // "exited with status 1".
};
Result<Ran> RunProgram(const std::string& program, const std::vector<std::string>& args,
                       uint64_t timeout_ns);

// With our own standard input, output and error. Gives the exit status, kFound for a signal.
Result<int> RunInForeground(const std::string& program, const std::vector<std::string>& args);

}  // namespace farside::campaign
