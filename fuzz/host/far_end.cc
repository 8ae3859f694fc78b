#include "fuzz/host/far_end.h"

#include <utility>

namespace farside::fuzz {

FarEnd::FarEnd(HostileEnd& end, bool across_socket)
    : end_(end), across_socket_(across_socket), wake_(MakeEventfd().value()) {}

FarEnd::~FarEnd() { Stop(); }

ClientWire FarEnd::Connect(bool pieces, uint64_t timeout_ns, std::function<void()> turn) {
  Stop();
  if (!across_socket_) {
    return {.transport = end_.Connect(pieces), .pump = [this, turn = std::move(turn)](int) {
              turn();
              return Step();
            }};
  }
  ClientWire wire{.socket = end_.ConnectSocket(pieces), .timeout_ns = timeout_ns};
  stop_ = false;
  thread_ = std::thread([this] { Run(); });
  return wire;
}

bool FarEnd::Step() {
  const std::lock_guard lock(mutex_);
  return end_.Step();
}

void FarEnd::Stop() {
  if (!thread_.joinable()) return;
  Hold();
  stop_ = true;
  LetGo();
  thread_.join();
  Hold();
}

void FarEnd::LetGo() {
  if (!held_.owns_lock()) return;
  held_.unlock();
  // The user may have given the end something to do.
  if (thread_.joinable()) SignalEventfd(wake_.get());
}

void FarEnd::Hold() {
  if (!held_.owns_lock()) held_.lock();
}

void FarEnd::Run() {
  for (;;) {
    HostileEnd::Watch watch;
    {
      const std::lock_guard lock(mutex_);
      if (stop_) return;
      if (end_.Step()) continue;
      watch = end_.watch();
    }
    std::array<pollfd, 3> fds{watch[0], watch[1],
                              pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    poll(fds.data(), fds.size(), -1);
    if (fds[2].revents != 0) DrainEventfd(wake_.get());
  }
}

}  // namespace farside::fuzz
