#include "vmm-lite/cpu/cpu_sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace farside::vmm {
namespace {

// Runs `what` in a child of its own behind the filter, which cannot be taken away again. Its exit
// status, or minus the signal that killed it.
template <typename F>
int Behind(F what) {
  const pid_t pid = fork();
  if (pid == 0) {
    if (!EnterCpuSandbox()) _exit(100);
    _exit(what());
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(CpuSandboxTest, LetsPassWhatTheMachineDoes) {
  EXPECT_EQ(Behind([] {
              // No KVM here: the number passes, and the descriptor is none of KVM's.
              if (ioctl(0, KVM_RUN, 0) == 0 || errno == EPERM) return 1;
              int ends[2];
              if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 2;
              int waiting = 0;
              if (write(ends[0], "x", 1) != 1 || ioctl(ends[1], FIONREAD, &waiting) != 0) return 3;
              const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
              if (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return 4;
              return fcntl(ends[0], F_DUPFD_CLOEXEC, 0) >= 0 && waiting == 1 ? 0 : 5;
            }),
            0);
}

TEST(CpuSandboxTest, KillsWhatAGuestThatGotOutWouldDo) {
  const auto execute = [] { return static_cast<int>(syscall(SYS_execve, "/bin/true", 0, 0)); };
  const auto connect = [] { return socket(AF_UNIX, SOCK_STREAM, 0); };
  const auto trace = [] { return static_cast<int>(syscall(SYS_ptrace, 0, 0, 0, 0)); };
  const auto type_into_the_terminal = [] { return ioctl(0, TIOCSTI, "x"); };
  const auto make_code = [] {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    return mmap(nullptr, 4096, PROT_READ | PROT_EXEC, flags, -1, 0) == MAP_FAILED ? 1 : 0;
  };
  const auto read_by_x32 = [] {
    return static_cast<int>(syscall(0x4000'0000 | SYS_read, 0, 0, 0));
  };
  EXPECT_EQ(Behind(execute), -SIGSYS);
  EXPECT_EQ(Behind(connect), -SIGSYS);
  EXPECT_EQ(Behind(trace), -SIGSYS);
  EXPECT_EQ(Behind(type_into_the_terminal), -SIGSYS);
  EXPECT_EQ(Behind(make_code), -SIGSYS);
  EXPECT_EQ(Behind(read_by_x32), -SIGSYS);
#ifndef __SANITIZE_ADDRESS__  // Its reports need files.
  EXPECT_EQ(Behind([] { return open("/dev/null", O_RDONLY); }), -SIGSYS);
#endif
}

}  // namespace
}  // namespace farside::vmm
