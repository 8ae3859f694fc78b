#include "fuzz/host/process_watch.h"

#include <malloc.h>

#include "fuzz/host/oracle.h"
#include "protocol/test_support.h"

// AddressSanitizer's; mallinfo2 knows nothing of its allocator.
extern "C" __attribute__((weak)) size_t __sanitizer_get_current_allocated_bytes();

namespace farside::fuzz {
namespace {

uint64_t HeapBytes() {
  if (&__sanitizer_get_current_allocated_bytes != nullptr) {
    return __sanitizer_get_current_allocated_bytes();
  }
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace

ProcessWatch::ProcessWatch(bool counts_fds)
    : counts_fds_(counts_fds), fds_(counts_fds ? CountOpenFds() : 0), heap_(HeapBytes()) {}

void ProcessWatch::CheckMemory() const {
  const uint64_t now = HeapBytes();
  if (now <= heap_ + kMaxGrowth) return;
  Violation("memory", "a session of a few messages holds {} MiB", (now - heap_) >> 20);
}

void ProcessWatch::CheckFds() const {
  if (!counts_fds_) return;
  const ptrdiff_t now = CountOpenFds();
  if (now == fds_) return;
  Violation("fd-growth", "{} fds were open before the session, {} are after it", fds_, now);
}

}  // namespace farside::fuzz
