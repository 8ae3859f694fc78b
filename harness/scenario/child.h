// Child: a process that a scenario starts, watches and ends.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace farside::scenario {

// The program that `name` means: a path, or a name that is looked for in `bin_dir` (empty:
// nowhere), beside farside and in PATH.
Result<std::string> FindProgram(const std::string& name, const std::string& bin_dir);

// A fresh directory below TMPDIR, or /tmp; whoever asked removes it.
Result<std::string> MakeDirectory();

struct ChildOptions {
  std::string program;            // A path.
  std::vector<std::string> args;  // Without the program.
  std::string directory;          // Where it runs.
  uint64_t max_fds = 0;           // RLIMIT_NOFILE; 0: as it is.
  int inherit = -1;               // A descriptor it gets under the same number; -1: none.
  bool own_group = false;         // What a terminal sends to farside does not reach it.
};

// How a process ended.
struct ExitStatus {
  bool signalled = false;
  int code = 0;              // The status, or the signal.
  std::string Text() const;  // "exited with status 1", "was killed by signal 9".
};

// Its standard input is empty, its standard output and error are kept. It does not outlive the
// thread that started it, not even when farside is killed. Any thread may call.
class Child {
 public:
  // Bytes of output that are kept: the last ones.
  static constexpr size_t kMaxOutput = 4 << 20;

  static Result<std::unique_ptr<Child>> Start(std::string id, const ChildOptions& options);
  // Ends it with SIGKILL, if it still runs.
  ~Child();

  const std::string& id() const { return id_; }
  pid_t pid() const { return pid_; }
  // Readable when it has ended.
  int pidfd() const { return pidfd_.get(); }

  bool running();
  // Nothing if it still runs after `timeout_ns`.
  std::optional<ExitStatus> Wait(uint64_t timeout_ns);
  void Signal(int number);

  // What it has printed.
  std::string output() const;
  std::vector<std::string> LastLines(size_t count) const;
  // Waits for a line with a match of `pattern` (pattern.h), printed or to come; an Error when there
  // is none in time or no more to come.
  Result<std::string> WaitForLine(const std::string& pattern, uint64_t timeout_ns) const;

  // Of /proc.
  Result<uint64_t> CountFds() const;
  Result<uint64_t> PrivateBytes() const;

 private:
  Child(std::string id, pid_t pid, UniqueFd pidfd, UniqueFd output);
  void ReadOutput();

  const std::string id_;
  const pid_t pid_;
  const UniqueFd pidfd_;
  const UniqueFd pipe_;
  std::mutex wait_mutex_;  // Of status_.
  std::optional<ExitStatus> status_;
  mutable std::mutex mutex_;  // Of what follows.
  mutable std::condition_variable changed_;
  std::string output_;
  uint64_t dropped_ = 0;  // Bytes before output_.
  bool ended_ = false;    // No more output will come.
  std::thread reader_;
};

}  // namespace farside::scenario
