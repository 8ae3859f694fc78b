// Polls: tells reads that found the device earlier or later in its work than the recorded one from
// reads that were answered wrongly.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace farside::replay {

// A driver that waits for work reads a register until it changes, and the work takes another time
// in a replay than it took in the recording. So a reply that differs is not judged at once. It is
// lawful if the recorded driver went on reading until it saw what came now, and that was news
// (the device is earlier), or if the device gives what was recorded when it is asked again (later).
class Polls {
 public:
  // The first read of a run of equal ones whose reply differed.
  struct Open {
    uint32_t event = 0;  // Of its reply.
    uint64_t time_ns = 0;
    std::vector<std::byte> read;  // The command's payload.
    std::vector<std::byte> expected;
    std::vector<std::byte> got;
  };

  enum class Verdict { kFine, kOpen, kWrong };

  // `read` was answered with `expected` in the recording and with `got` now; `event` is the reply's
  // number. kWrong: open() is what was wrong, an earlier reply perhaps.
  Verdict OnReply(uint32_t event, uint64_t time_ns, ConstBytes read, ConstBytes expected,
                  ConstBytes got);

  const std::optional<Open>& open() const { return open_; }
  // True if the guest's next event, whose payload is `read` if it is a read, goes on with the run.
  bool Continues(ConstBytes read) const;
  // The device was asked again, and gave what was expected.
  void Close();
  // Runs that were lawful.
  uint64_t count() const { return count_; }

 private:
  std::optional<Open> open_;
  std::map<std::vector<std::byte>, std::vector<std::byte>> last_;  // Replies, by read.
  uint64_t count_ = 0;
};

}  // namespace farside::replay
