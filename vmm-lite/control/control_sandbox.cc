#include "vmm-lite/control/control_sandbox.h"

#include <seccomp.h>

#include <cerrno>
#include <memory>
#include <string_view>

#include "vmm-lite/control/control_sandbox_table.h"

namespace farside::vmm {
namespace {

// An ioctl's type, bits 8 to 15 of its number (asm-generic/ioctl.h), and KVM's (linux/kvm.h).
constexpr scmp_datum_t kIoctlTypeMask = 0xff00;
constexpr scmp_datum_t kKvmType = 0xae00;

struct Release {
  void operator()(void* filter) const { seccomp_release(filter); }
};

int Fill(scmp_filter_ctx filter) {
  // Calls by another architecture's numbers would pass the rules below by.
  int error = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(EPERM));
  if (error == 0) error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
  if (error == 0) error = seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 1);
  if (error == 0) {
    error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_MASKED_EQ, kIoctlTypeMask, kKvmType));
  }
  for (const DeniedCall& call : kDeniedCalls) {
    if (error != 0) break;
    error = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call.number, 0);
  }
  return error;
}

}  // namespace

Result<void> InstallControlSandbox() {
  const std::unique_ptr<void, Release> filter(seccomp_init(SCMP_ACT_ALLOW));
  const int error = filter == nullptr ? -ENOMEM : Fill(filter.get());
  const int loaded = error != 0 ? error : seccomp_load(filter.get());
  if (loaded == 0) return {};
  return FailWith(-loaded,
                  "cannot install the seccomp filter of the control process: {}; is the "
                  "kernel built with CONFIG_SECCOMP_FILTER?",
                  ErrnoText(-loaded));
}

}  // namespace farside::vmm
