#include "harness/cli/signals.h"

#include <signal.h>

#include "base/check.h"

namespace farside::cli {
namespace {

sigset_t Watched() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) sigaddset(&signals, number);
  return signals;
}

}  // namespace

Signals::Signals() {
  auto eventfd = MakeEventfd();
  CHECK(eventfd.has_value());
  eventfd_ = std::move(*eventfd);
  const sigset_t signals = Watched();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Watch(); });
}

// The thread's own signal tells it to look at stop_.
Signals::~Signals() {
  stop_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void Signals::Watch() {
  const sigset_t signals = Watched();
  while (!stop_) {
    int number = 0;
    sigwait(&signals, &number);
    if (number == SIGUSR1) continue;
    interruption_.Trigger();
    SignalEventfd(eventfd_.get());
  }
}

}  // namespace farside::cli
