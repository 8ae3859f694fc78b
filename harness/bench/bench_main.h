// farside bench: how fast a device process is, as ratios to this machine's own floor.
#pragma once

#include <string>
#include <vector>

#include "harness/bench/figures.h"

namespace farside::bench {

// The benches, each a table of figures.
Result<std::vector<Figure>> MeasureMmio(const Options& options);
Result<std::vector<Figure>> MeasureMpqemu(const Options& options);

// `args` are what follows "bench". The exit status: 0, 1 for a figure that misses its bound with
// --check, 2 for a wrong command line or a device process that can't be measured.
int BenchMain(const std::vector<std::string>& args);

}  // namespace farside::bench
