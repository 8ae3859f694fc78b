// SignalWatcher: ends a recording at SIGTERM or SIGINT.
#pragma once

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <cerrno>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"

namespace farside::record {

// Stops the loop at SIGTERM or SIGINT.
class SignalWatcher final : public FdWatcher {
 public:
  explicit SignalWatcher(EpollLoop& loop) : loop_(loop) {}

  Result<void> Start() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
      return FailWith(errno, "cannot block signals: {}", ErrnoText(errno));
    }
    fd_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_) return FailWith(errno, "cannot wait for signals: {}", ErrnoText(errno));
    return watch_.Start(loop_, fd_.get(), EPOLLIN, *this);
  }

  void OnReady(uint32_t) override {
    watch_.Stop();
    loop_.Stop();
  }

 private:
  EpollLoop& loop_;
  UniqueFd fd_;
  FdWatch watch_;
};

}  // namespace farside::record
