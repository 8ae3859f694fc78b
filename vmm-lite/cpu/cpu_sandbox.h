// What the CPU process may ask of its kernel once the machine is built.
#pragma once

#include "base/error.h"

namespace farside::vmm {

// A seccomp filter over all threads (DESIGN section 8): the process can open, execute and connect
// to nothing any more. Whatever it is given by fd it can use.
Result<void> EnterCpuSandbox();

}  // namespace farside::vmm
