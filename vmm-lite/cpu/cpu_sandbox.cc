#include "vmm-lite/cpu/cpu_sandbox.h"

#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cstdint>

#include "vmm-lite/sandbox/call_filter.h"

namespace farside::vmm {
namespace {

// Each with who needs it.
constexpr int kAllowed[] = {
    // The loop, channels, eventfds, the console.
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_epoll_ctl,
    SYS_poll,
    SYS_ppoll,
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_preadv2,
    SYS_pread64,
    SYS_close,
    SYS_eventfd2,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_sendto,
    SYS_accept4,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_getpeername,
    SYS_fstat,
    SYS_newfstatat,
    SYS_lseek,
    SYS_socketpair,
    // Memory of devices and of the guest, the heap.
    SYS_munmap,
    SYS_mprotect,
    SYS_madvise,
    SYS_brk,
    SYS_mremap,
    SYS_memfd_create,
    SYS_ftruncate,
    SYS_fallocate,
    // Duplicates and flags; seals are read, never set by then but on what was just made.
    SYS_fcntl,
    // Threads, and the signal that stops vCPUs.
    SYS_futex,
    SYS_clone3,
    SYS_clone,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_exit,
    SYS_exit_group,
    SYS_gettid,
    SYS_getpid,
    SYS_tgkill,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_yield,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_sched_getaffinity,
    SYS_prctl,
    // Time.
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_getrandom,
};

bool closed = false;

}  // namespace

// LeakSanitizer asks. Its check stops the threads by a helper, which the filter kills; then it
// waits for ever.
extern "C" int __lsan_is_turned_off();
int __lsan_is_turned_off() { return closed ? 1 : 0; }

Result<void> EnterCpuSandbox() {
  CallFilter filter(SECCOMP_RET_KILL_PROCESS);
  // KVM's requests, and how much a channel holds; of terminals nothing. First, because the kernel
  // runs the filter for each of these, while it remembers that others are always allowed.
  filter.Add(SYS_ioctl, 1, 0xff00, uint32_t{KVMIO} << 8, SECCOMP_RET_ALLOW);
  filter.Add(SYS_ioctl, 1, UINT32_MAX, FIONREAD, SECCOMP_RET_ALLOW);
  // Never code.
  filter.Add(SYS_mmap, 2, PROT_EXEC, 0, SECCOMP_RET_ALLOW);
  for (const int call : kAllowed) filter.Add(call, SECCOMP_RET_ALLOW);
#ifdef __SANITIZE_ADDRESS__
  // What the sanitizers' reports need, and UBSan's look at memory.
  for (const int call :
       {SYS_open, SYS_openat, SYS_readlink, SYS_stat, SYS_pipe, SYS_pipe2, SYS_prlimit64}) {
    filter.Add(call, SECCOMP_RET_ALLOW);
  }
#endif
  auto entered = filter.Enter(SECCOMP_RET_KILL_PROCESS);
  closed = true;
  if (entered) return {};
  return FailWith(entered.error().code, "the CPU process: {}", entered.error().message);
}

}  // namespace farside::vmm
