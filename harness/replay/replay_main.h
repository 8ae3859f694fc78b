// farside replay: the command line of the replayer.
#pragma once

#include <string>
#include <vector>

namespace farside::replay {

// `args` are what follows "replay". The exit status: 0 for no divergence, 1 for one, 2 for a wrong
// command line, a trace that can't be read or a device that can't be reached.
int ReplayMain(const std::vector<std::string>& args);

}  // namespace farside::replay
