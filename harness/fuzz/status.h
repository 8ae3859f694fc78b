// What libFuzzer prints while it runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace farside::campaign {

struct Status {
  uint64_t runs = 0;
  uint64_t edges = 0;
  uint64_t features = 0;
  uint64_t corpus = 0;  // Inputs.
  uint64_t rate = 0;    // Runs a second.
};

// "#4096  NEW    cov: 1234 ft: 5678 corp: 90/12Kb lim: 4096 exec/s: 512 rss: 100Mb L: 9/9 MS: 1".
std::optional<Status> ParseStatus(std::string_view line);
// The last one in `output`.
std::optional<Status> LastStatus(std::string_view output);
// The corpus was read, and fuzzing began.
bool HasBegun(std::string_view output);
// Where the input that ended the fuzzer was put: "Test unit written to PATH".
std::optional<std::string> ArtifactOf(std::string_view output);

}  // namespace farside::campaign
