#include "vmm-lite/control/control_sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "vmm-lite/control/control_sandbox_table.h"

namespace farside::vmm {
namespace {

constexpr unsigned long kKvmGetApiVersion = 0xae00;  // linux/kvm.h
constexpr unsigned long kKvmCreateVcpu = 0xae41;
constexpr unsigned long kKvmSetUserMemoryRegion = 0x4020ae46;

// Runs `what` in a child of its own: the filter cannot be taken away again. 0 is success.
template <typename F>
int InChild(F what) {
  const pid_t pid = fork();
  if (pid == 0) _exit(what());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

int IoctlError(int fd, unsigned long request) { return ioctl(fd, request, 0) < 0 ? errno : 0; }

TEST(ControlSandboxTest, RefusesKvmOnAnyDescriptor) {
  EXPECT_EQ(InChild([] {
              // A host without KVM: the number is refused whatever the descriptor.
              int fd = open("/dev/kvm", O_RDWR);
              if (fd < 0) fd = open("/dev/null", O_RDWR);
              if (IoctlError(fd, kKvmGetApiVersion) == EPERM) return 1;
              if (!InstallControlSandbox()) return 2;
              for (const unsigned long request :
                   {kKvmGetApiVersion, kKvmCreateVcpu, kKvmSetUserMemoryRegion}) {
                if (IoctlError(fd, request) != EPERM) return 3;
              }
              // Others are not.
              int bytes = 0;
              int pipe_fds[2];
              return pipe(pipe_fds) == 0 && ioctl(pipe_fds[0], FIONREAD, &bytes) == 0 ? 0 : 4;
            }),
            0);
}

TEST(ControlSandboxTest, RefusesEachCallOfTheTable) {
  for (const DeniedCall& call : kDeniedCalls) {
    EXPECT_EQ(InChild([&] {
                if (!InstallControlSandbox()) return 1;
                return syscall(call.number, -1, -1, -1, -1, -1, -1) < 0 && errno == EPERM ? 0 : 2;
              }),
              0)
        << call.number << ": " << call.reason;
  }
}

TEST(ControlSandboxTest, RefusesTheSameCallsByX32Numbers) {
  constexpr long kX32 = 0x4000'0000;  // asm/unistd.h: __X32_SYSCALL_BIT
  EXPECT_EQ(InChild([] {
              if (!InstallControlSandbox()) return 1;
              return syscall(kX32 | SYS_kexec_load, -1, -1, -1, -1) < 0 && errno == EPERM ? 0 : 2;
            }),
            0);
}

TEST(ControlSandboxTest, HoldsForAllThreadsAndForWhatIsStarted) {
  EXPECT_EQ(InChild([] {
              int pipe_fds[2];
              if (pipe(pipe_fds) != 0) return 1;
              int error = 0;
              std::thread other([&] {
                char go;
                if (read(pipe_fds[0], &go, 1) == 1) error = IoctlError(0, kKvmGetApiVersion);
              });
              const bool installed = InstallControlSandbox().has_value();
              const bool told = write(pipe_fds[1], "x", 1) == 1;
              other.join();
              if (!installed || !told || error != EPERM) return 2;
              // A program that is started is filtered, and gains nothing by its file.
              const int status = std::system(
                  "grep -q '^Seccomp:.*2' /proc/self/status && "
                  "grep -q '^NoNewPrivs:.*1' /proc/self/status");
              return WEXITSTATUS(status) == 0 ? 0 : 3;
            }),
            0);
}

}  // namespace
}  // namespace farside::vmm
