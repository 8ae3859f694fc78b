#include "fuzz/host/socket_pump.h"

#include <poll.h>
#include <sched.h>

#include <thread>
#include <utility>

namespace farside::fuzz {
namespace {

using SteadyClock = std::chrono::steady_clock;

// A client counts a reply as missing after some waits of this length (fuzz/host/client.cc).
constexpr std::chrono::microseconds kReply = std::chrono::milliseconds(2500);

// About what waking a process takes.
constexpr std::chrono::microseconds kSpin{100};

bool HasCpusToSpare() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) > 1;
}

}  // namespace

SocketPump::SocketPump(std::chrono::microseconds stray) : stray_(stray), spins_(HasCpusToSpare()) {}

std::unique_ptr<Transport> ConnectTo(const std::string& path, std::chrono::milliseconds patience) {
  const auto deadline = SteadyClock::now() + patience;
  for (;;) {
    if (auto socket = ConnectUnix(path)) {
      auto transport = SocketTransport::Create(*std::move(socket));
      return transport ? *std::move(transport) : nullptr;
    }
    if (SteadyClock::now() >= deadline) return nullptr;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

bool SocketPump::Step() {
  if (client_ == nullptr || !client_->connected() || client_->closed()) return false;
  pollfd ready{.fd = fd_, .events = POLLIN, .revents = 0};
  std::chrono::microseconds patience{0};
  if (client_->expects_reply()) {
    patience = kReply;
  } else if (client_->broke_framing()) {
    patience = stray_;
  }
  // To look again and again is cheaper than to sleep and be woken where the answer is near; where
  // two processes share a CPU, it only keeps the other one from it.
  if (patience.count() != 0 && spins_) {
    const auto end = SteadyClock::now() + kSpin;
    const timespec now{};
    do {
      if (ppoll(&ready, 1, &now, nullptr) > 0) return true;
    } while (SteadyClock::now() < end);
  }
  const timespec timeout{.tv_sec = patience.count() / 1'000'000,
                         .tv_nsec = patience.count() % 1'000'000 * 1000};
  return ppoll(&ready, 1, &timeout, nullptr) > 0;
}

}  // namespace farside::fuzz
