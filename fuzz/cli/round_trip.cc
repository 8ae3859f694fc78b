#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "base/check.h"
#include "fuzz/cli/cli.h"

namespace farside::fuzz {

double RoundTripSeconds() {
  constexpr int kRounds = 20'000;
  std::array<int, 2> ends;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  std::array<std::byte, 32> message{};
  if (child == 0) {
    close(ends[0]);
    while (read(ends[1], message.data(), message.size()) > 0) {
      if (write(ends[1], message.data(), message.size()) < 0) break;
    }
    _exit(0);
  }
  close(ends[1]);
  using SteadyClock = std::chrono::steady_clock;
  const auto begin = SteadyClock::now();
  for (int i = 0; i < kRounds; ++i) {
    CHECK(write(ends[0], message.data(), message.size()) > 0);
    CHECK(read(ends[0], message.data(), message.size()) > 0);
  }
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return seconds / kRounds;
}

}  // namespace farside::fuzz
