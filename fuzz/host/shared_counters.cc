#include "fuzz/host/shared_counters.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"

// The linker's marks around the counters, one byte an edge.
extern "C" {
extern char __start___sancov_cntrs[] __attribute__((weak));
extern char __stop___sancov_cntrs[] __attribute__((weak));
}

namespace farside::fuzz {

size_t ShareCounters() {
  constexpr uintptr_t kPage = 4096;
  if (__start___sancov_cntrs == nullptr) return 0;
  const uintptr_t begin =
      (reinterpret_cast<uintptr_t>(__start___sancov_cntrs) + kPage - 1) / kPage * kPage;
  const uintptr_t end = reinterpret_cast<uintptr_t>(__stop___sancov_cntrs) / kPage * kPage;
  if (begin >= end) return 0;
  char* const counters = reinterpret_cast<char*>(begin);
  const std::vector<char> kept(counters, counters + (end - begin));
  void* const shared = mmap(counters, end - begin, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(shared == counters);
  std::copy(kept.begin(), kept.end(), counters);
  return end - begin;
}

}  // namespace farside::fuzz
