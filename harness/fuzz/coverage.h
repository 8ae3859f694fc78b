// Coverage of a corpus by file, from a build with clang's source-based coverage (preset
// `coverage`).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace farside::campaign {

struct Covered {
  uint64_t lines = 0;
  uint64_t lines_covered = 0;
  uint64_t branches = 0;
  uint64_t branches_covered = 0;
  std::vector<uint64_t> uncovered;  // Lines.

  void operator+=(const Covered& other);
};

// By the path below `root`. Files elsewhere are left out.
using Coverage = std::map<std::string, Covered>;
Coverage ParseLcov(std::string_view text, std::string_view root);

// A corpus of one target.
struct Corpus {
  std::string target;
  std::string directory;
};

// Runs the corpora with `program`, a farside-fuzz of the coverage build.
Result<Coverage> MeasureCoverage(const std::string& program, const std::vector<Corpus>& corpora);

// {"folders": [...], "files": [...]}, of protocol/ and devices/ only.
nlohmann::json ToJson(const Coverage& coverage);

// "3-5, 9".
std::string Ranges(const std::vector<uint64_t>& lines);

}  // namespace farside::campaign
