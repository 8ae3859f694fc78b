// ServedProcess: a device process that a command starts for itself, outside of any scenario.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "harness/scenario/child.h"

namespace farside::scenario {

class ServedProcess {
 public:
  // Starts `program` (FindProgram) in the current directory; kSocketPlace in `args` becomes
  // socket().
  static Result<std::unique_ptr<ServedProcess>> Start(const std::string& program,
                                                      std::vector<std::string> args,
                                                      const std::string& bin_dir);
  ServedProcess(const ServedProcess&) = delete;
  ServedProcess& operator=(const ServedProcess&) = delete;
  // Ends it with SIGKILL, if it still runs.
  ~ServedProcess();

  // In a directory of its own.
  std::string socket() const { return directory_ + "/device.sock"; }
  Child& child() { return *child_; }

  // Gives connect(socket()), tried again until it succeeds or the process has ended.
  template <typename Function>
  auto Connect(const Function& connect) -> decltype(connect(std::string())) {
    const MonotonicClock clock;
    const uint64_t deadline = clock.now_ns() + kStartTimeoutNs;
    for (;;) {
      const bool runs = child_->running();
      auto connected = connect(socket());
      if (connected) return connected;
      if (!runs || clock.now_ns() > deadline) return tl::unexpected(NotServed(runs));
      usleep(kRetryUs);
    }
  }

  // Ends it with SIGTERM; an Error if it does not end well.
  Result<void> Finish();

 private:
  static constexpr uint64_t kStartTimeoutNs = 10'000'000'000;
  static constexpr unsigned kRetryUs = 500;

  ServedProcess() = default;
  Error NotServed(bool runs) const;
  std::string LastWords() const;

  std::string directory_;
  std::unique_ptr<Child> child_;
};

}  // namespace farside::scenario
