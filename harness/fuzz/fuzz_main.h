// farside fuzz: what people call to fuzz a target and to make something of what was found. It runs
// fuzz_TARGET (libFuzzer) and farside-fuzz, and knows nothing of their inside.
#pragma once

#include <string>
#include <vector>

namespace farside::campaign {

// `args` are what follows "fuzz". The exit status: 0, 1 if something was found, 2 for a wrong
// command line or file or a program that is not there.
int FuzzMain(const std::vector<std::string>& args);

}  // namespace farside::campaign
