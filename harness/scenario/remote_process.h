// RemoteProcess: a process that is given one end of a channel, as QEMU's remote is.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "harness/scenario/child.h"

namespace farside::scenario {

// Stands for the number of an inherited socket in the arguments of a program.
inline constexpr std::string_view kFdPlace = "%FD%";

// QEMU's remote answers before its own first reset, which undoes what was written before it: a
// client waits so long between its first read and its first write.
inline constexpr uint64_t kQemuSettleNs = 300'000'000;

// In each of `args`, `place` becomes `value`.
void ReplacePlace(std::string_view place, const std::string& value, std::vector<std::string>* args);

struct RemoteProcess {
  // Starts `program` (FindProgram) in the current directory with a socket, whose number takes the
  // place of kFdPlace in `args`.
  static Result<RemoteProcess> Start(const std::string& id, const std::string& program,
                                     std::vector<std::string> args, const std::string& bin_dir);

  // What it printed last, for errors.
  std::string LastWords() const;

  std::unique_ptr<Child> child;
  UniqueFd socket;  // The other end.
};

}  // namespace farside::scenario
