// Floor: what two processes on this machine can do at best, with the system calls and the sizes of
// a register access and nothing else.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace farside::bench {

// Keeps a process (0: this one) on one CPU.
Result<void> Pin(pid_t pid, int cpu);

// A process that answers 32 bytes with 36, as REGION_READ of a 32-bit register is answered.
class PingPong {
 public:
  // The other process runs on `cpu`; with `spin` both ends look instead of sleeping.
  static Result<std::unique_ptr<PingPong>> Start(int cpu, bool spin);
  PingPong(const PingPong&) = delete;
  PingPong& operator=(const PingPong&) = delete;
  ~PingPong();

  // One round trip.
  Result<void> Call();

 private:
  PingPong(UniqueFd socket, pid_t pid, bool spin);

  UniqueFd socket_;
  const pid_t pid_;
  const int flags_;
};

}  // namespace farside::bench
