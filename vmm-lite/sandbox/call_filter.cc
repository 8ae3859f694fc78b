#include "vmm-lite/sandbox/call_filter.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace farside::vmm {
namespace {

// Of the x32 ABI, which has the architecture of the others (asm/unistd.h: __X32_SYSCALL_BIT).
constexpr uint32_t kFirstX32Call = 0x4000'0000;

}  // namespace

CallFilter::CallFilter(uint32_t foreign) {
  Load(offsetof(seccomp_data, arch));
  program_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  Return(foreign);
  Load(offsetof(seccomp_data, nr));
  program_.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kFirstX32Call, 0, 1));
  Return(foreign);
}

void CallFilter::Load(uint32_t offset) {
  program_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

void CallFilter::SkipUnless(uint32_t value, uint8_t skipped) {
  program_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skipped));
}

void CallFilter::Return(uint32_t action) { program_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }

// Between rules the call's number is in the accumulator.
void CallFilter::Add(long call, uint32_t action) {
  SkipUnless(static_cast<uint32_t>(call), 1);
  Return(action);
}

void CallFilter::Add(long call, uint32_t argument, uint32_t mask, uint32_t value, uint32_t action) {
  SkipUnless(static_cast<uint32_t>(call), 5);
  Load(static_cast<uint32_t>(offsetof(seccomp_data, args)) + argument * 8);
  program_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
  SkipUnless(value, 1);
  Return(action);
  Load(offsetof(seccomp_data, nr));
}

Result<void> CallFilter::Enter(uint32_t otherwise) {
  Return(otherwise);
  const sock_fprog program{.len = static_cast<uint16_t>(program_.size()),
                           .filter = program_.data()};
  long failed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (failed == 0) {
    failed = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  }
  if (failed == 0) return {};
  const int error = failed > 0 ? EBUSY : errno;  // A thread that has a filter of its own.
  return FailWith(error,
                  "cannot install a seccomp filter: {}; is the kernel built with "
                  "CONFIG_SECCOMP_FILTER?",
                  ErrnoText(error));
}

}  // namespace farside::vmm
