#include "vmm-lite/control/control_sandbox.h"

#include <linux/seccomp.h>

#include <cerrno>

#include "vmm-lite/control/control_sandbox_table.h"
#include "vmm-lite/sandbox/call_filter.h"

namespace farside::vmm {

Result<void> InstallControlSandbox() {
  // An ioctl's type, bits 8 to 15 of its number (asm-generic/ioctl.h), and KVM's (linux/kvm.h).
  constexpr uint32_t kIoctlTypeMask = 0xff00;
  constexpr uint32_t kKvmType = 0xae00;
  constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;
  CallFilter filter(kRefuse);
  filter.Add(SYS_ioctl, 1, kIoctlTypeMask, kKvmType, kRefuse);
  for (const DeniedCall& call : kDeniedCalls) filter.Add(call.number, kRefuse);
  auto entered = filter.Enter(SECCOMP_RET_ALLOW);
  if (entered) return {};
  return FailWith(entered.error().code, "the control process: {}", entered.error().message);
}

}  // namespace farside::vmm
