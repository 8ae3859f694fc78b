// SIGBUS: what a peer does to us by truncating a file that we have mapped.
#pragma once

#include <atomic>
#include <cstddef>

#include "base/error.h"

namespace farside {

// A mapping that another process can take the pages from. While it lives, a SIGBUS in it (after
// InstallSigbusHandler) replaces the mapping by private zeroes and marks it dead, and the access
// that hit it goes on. The only global state in Farside: a signal handler has no argument.
class GuardedRange {
 public:
  // `data` and `size` are a whole mapping, page-aligned, which outlives this.
  GuardedRange(std::byte* data, size_t size);
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;
  ~GuardedRange();

  bool dead() const { return dead_.load(std::memory_order_relaxed); }

 private:
  friend struct SigbusHandler;
  std::byte* const data_;
  const size_t size_;
  std::atomic<bool> dead_ = false;
  GuardedRange* next_ = nullptr;
  GuardedRange* previous_ = nullptr;
};

// Installs the handler for this process. A SIGBUS elsewhere ends the process as before.
Result<void> InstallSigbusHandler();

}  // namespace farside
