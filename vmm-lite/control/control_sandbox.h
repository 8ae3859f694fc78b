// What the control process gives up once it has started the CPU process.
#pragma once

#include "base/error.h"

namespace farside::vmm {

// From here on this process, all its threads and what they start are refused (EPERM) the calls of
// the table in control_sandbox.cc: KVM, and what reaches into other processes or the kernel. A list
// of what is denied, not of what is allowed, because device processes inherit it, which have their
// own, narrower filters.
Result<void> InstallControlSandbox();

}  // namespace farside::vmm
