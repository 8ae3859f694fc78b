// farside diff: the command line of the comparison.
#pragma once

#include <string>
#include <vector>

namespace farside::diff {

// `args` are what follows "diff". The exit status: 0 for no difference, 1 for one, 2 for a wrong
// command line, a file that can't be read or a device that can't be reached.
int DiffMain(const std::vector<std::string>& args);

}  // namespace farside::diff
