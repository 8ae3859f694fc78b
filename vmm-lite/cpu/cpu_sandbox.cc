#include "vmm-lite/cpu/cpu_sandbox.h"

#include <linux/kvm.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include <cerrno>
#include <memory>

namespace farside::vmm {
namespace {

// Each with who needs it.
constexpr int kAllowed[] = {
    // The loop, channels, eventfds, the console.
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pread64),
    SCMP_SYS(close),
    SCMP_SYS(eventfd2),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(accept4),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(shutdown),
    SCMP_SYS(getpeername),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(lseek),
    SCMP_SYS(socketpair),
    // Memory of devices and of the guest, the heap.
    SCMP_SYS(munmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(mremap),
    SCMP_SYS(memfd_create),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate),
    // Threads, and the signal that stops vCPUs.
    SCMP_SYS(futex),
    SCMP_SYS(clone3),
    SCMP_SYS(clone),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(tgkill),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(prctl),
    // Time.
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(getrandom),
};

bool closed = false;

using Filter = std::unique_ptr<void, decltype(&seccomp_release)>;

}  // namespace

// LeakSanitizer asks. Its check stops the threads by a helper, which the filter kills; then it
// waits for ever.
extern "C" int __lsan_is_turned_off();
int __lsan_is_turned_off() { return closed ? 1 : 0; }

Result<void> EnterCpuSandbox() {
  const Filter filter(seccomp_init(SCMP_ACT_KILL_PROCESS), seccomp_release);
  if (!filter) return Fail("cannot make a seccomp filter: out of memory");
  int result = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  const auto allow = [&](int call, auto... conditions) {
    if (result == 0) {
      result = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call,
                                static_cast<unsigned>(sizeof...(conditions)), conditions...);
    }
  };
  for (const int call : kAllowed) allow(call);
  // KVM's requests, and how much a channel holds; of terminals nothing.
  allow(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00u, unsigned{KVMIO} << 8));
  allow(SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FIONREAD));
  // Duplicates and flags; seals are read, never set by then but on what was just made.
  allow(SCMP_SYS(fcntl));
  // Never code.
  allow(SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, 4u /* PROT_EXEC */, 0u));
#ifdef __SANITIZE_ADDRESS__
  // What the sanitizers' reports need, and UBSan's look at memory.
  for (const int call : {SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(readlink), SCMP_SYS(stat),
                         SCMP_SYS(pipe), SCMP_SYS(pipe2), SCMP_SYS(prlimit64)}) {
    allow(call);
  }
#endif
  if (result == 0) result = seccomp_load(filter.get());
  closed = true;
  if (result != 0) return FailWith(-result, "cannot close the CPU process: {}", ErrnoText(-result));
  return {};
}

}  // namespace farside::vmm
