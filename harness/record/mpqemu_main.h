// `farside record --protocol mpqemu`.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace farside::record {

struct MpqemuOptions {
  std::string output;
  std::string id;
  std::string model;
  std::string client;                // The proxy's command line, words split at blanks.
  std::vector<std::string> program;  // The server's.
};

// Starts both, with %FD% in their arguments an end of a channel, and records until the client ends,
// or SIGINT or SIGTERM.
Result<void> RecordMpqemu(const MpqemuOptions& options);

}  // namespace farside::record
