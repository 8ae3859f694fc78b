// EventfdSet: eventfds that somebody else signals, looked at together.
#pragma once

#include <poll.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/fd.h"

namespace farside::fuzz {

template <size_t N>
class EventfdSet {
 public:
  EventfdSet() {
    for (UniqueFd& fd : fds_) fd = MakeEventfd().value();
  }

  int fd(size_t i) const { return fds_[i].get(); }

  // What each was signalled with since the last call. Most looks find nothing: one system call.
  std::array<uint64_t, N> Take() {
    std::array<pollfd, N> polls;
    for (size_t i = 0; i < N; ++i) polls[i] = {.fd = fd(i), .events = POLLIN, .revents = 0};
    std::array<uint64_t, N> signals{};
    if (poll(polls.data(), polls.size(), 0) <= 0) return signals;
    for (size_t i = 0; i < N; ++i) {
      if (polls[i].revents != 0) signals[i] = DrainEventfd(fd(i));
    }
    return signals;
  }

 private:
  std::array<UniqueFd, N> fds_;
};

}  // namespace farside::fuzz
