// The CPU process: owns the machine and its guest.
#pragma once

namespace farside::vmm {

// Runs the CPU process: takes its orders from the control process at the other end of the inherited
// socket `fd` (vmm-lite/control/cpu_channel.h). Returns the exit status.
int CpuProcessMain(int fd);

}  // namespace farside::vmm
