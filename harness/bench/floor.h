// Floor: what two processes on this machine can do at best, with the system calls and the sizes of
// a register access and nothing else.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <memory>

#include "base/error.h"
#include "base/fd.h"

namespace farside::bench {

// Keeps a process (0: this one) on one CPU.
Result<void> Pin(pid_t pid, int cpu);

// Bytes of a question and of its answer.
struct MessageSizes {
  size_t request;
  size_t reply;
};
// A read of a 32-bit register: vfio-user's REGION_READ, mpqemu's BAR_READ.
inline constexpr MessageSizes kVfioUserRead{32, 36};
inline constexpr MessageSizes kMpqemuRead{40, 24};

// A process that answers messages of one size with messages of another.
class PingPong {
 public:
  // The other process runs on `cpu`; with `spin` both ends look instead of sleeping.
  static Result<std::unique_ptr<PingPong>> Start(MessageSizes sizes, int cpu, bool spin);
  PingPong(const PingPong&) = delete;
  PingPong& operator=(const PingPong&) = delete;
  ~PingPong();

  // One round trip.
  Result<void> Call();

 private:
  PingPong(MessageSizes sizes, UniqueFd socket, pid_t pid, bool spin);

  const MessageSizes sizes_;
  UniqueFd socket_;
  const pid_t pid_;
  const int flags_;
};

}  // namespace farside::bench
