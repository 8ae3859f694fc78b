// What a session may not leave behind in this process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace farside::fuzz {

// Looks at the process when it is made, and again when it is asked. Oracles: "fd-growth" (another
// number of open fds; slow, so only where `counts_fds`), "memory" (more than kMaxGrowth bytes more:
// somebody allocates by a number that the peer sent).
class ProcessWatch {
 public:
  static constexpr uint64_t kMaxGrowth = 24 << 20;
  // Sessions whose fds are counted.
  static constexpr uint64_t kCountEvery = 64;

  explicit ProcessWatch(bool counts_fds);

  // While the subject is still there.
  void CheckMemory() const;
  // When it is gone.
  void CheckFds() const;

 private:
  const bool counts_fds_;
  const ptrdiff_t fds_;
  const uint64_t heap_;  // In bytes.
};

}  // namespace farside::fuzz
