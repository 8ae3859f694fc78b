// Jsonnet to JSON, by libjsonnet.
#pragma once

#include <string>

#include "base/error.h"

namespace farside::scenario {

// Evaluates the file `path`; imports are relative to the file that imports. The error is
// Jsonnet's own, with the place in the file.
Result<std::string> EvaluateJsonnet(const std::string& path);

}  // namespace farside::scenario
