#include "harness/bench/floor.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace farside::bench {
namespace {

// One message, whole; false when the other end is gone.
bool Send(int fd, size_t size) {
  static std::array<std::byte, 64> bytes;
  iovec part{bytes.data(), size};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return sendmsg(fd, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

bool Receive(int fd, int flags) {
  static std::array<std::byte, 4096> bytes;
  iovec part{bytes.data(), bytes.size()};
  for (;;) {
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const ssize_t got = recvmsg(fd, &message, flags);
    if (got > 0) return true;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) return false;
  }
}

[[noreturn]] void Answer(int fd, size_t reply, int flags) {
  while (Receive(fd, flags) && Send(fd, reply)) {
  }
  _exit(0);
}

}  // namespace

Result<void> Pin(pid_t pid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(pid, sizeof set, &set) == 0) return {};
  return FailWith(errno, "cannot pin process {} to CPU {}: {}", pid, cpu, ErrnoText(errno));
}

Result<std::unique_ptr<PingPong>> PingPong::Start(MessageSizes sizes, int cpu, bool spin) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return FailWith(errno, "cannot make a socket pair: {}", ErrnoText(errno));
  }
  UniqueFd own(fds[0]);
  const UniqueFd other(fds[1]);
  const pid_t pid = fork();
  if (pid < 0) return FailWith(errno, "cannot start a process: {}", ErrnoText(errno));
  if (pid == 0) {
    own.reset();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!Pin(0, cpu)) _exit(1);
    Answer(other.get(), sizes.reply, spin ? MSG_DONTWAIT : 0);
  }
  return std::unique_ptr<PingPong>(new PingPong(sizes, std::move(own), pid, spin));
}

PingPong::PingPong(MessageSizes sizes, UniqueFd socket, pid_t pid, bool spin)
    : sizes_(sizes), socket_(std::move(socket)), pid_(pid), flags_(spin ? MSG_DONTWAIT : 0) {}

PingPong::~PingPong() {
  socket_.reset();
  waitpid(pid_, nullptr, 0);
}

Result<void> PingPong::Call() {
  if (Send(socket_.get(), sizes_.request) && Receive(socket_.get(), flags_)) return {};
  return Fail("the floor's other process is gone: is CPU affinity restricted here?");
}

}  // namespace farside::bench
