// farside trace: what is in a trace.
#pragma once

#include <string>
#include <vector>

namespace farside::trace {

// `args` are what follows "trace": show, stats or convert. The exit status: 0, or 2 with a sentence
// on standard error.
int TraceMain(const std::vector<std::string>& args);

}  // namespace farside::trace
