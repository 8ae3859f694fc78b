// CallFilter: a seccomp filter over the system calls of this process. The kernel's program is put
// together here, because libseccomp takes as long for one as the whole machine does to start.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

#include "base/error.h"

namespace farside::vmm {

// Rules are looked at in their order; the first that fits decides. Actions are SECCOMP_RET_...
class CallFilter {
 public:
  // `foreign` is for calls by another architecture's numbers, which rules would take for others.
  explicit CallFilter(uint32_t foreign);

  void Add(long call, uint32_t action);
  // Only where the low 32 bits of `argument`, which counts from 0, are `value` under `mask`.
  void Add(long call, uint32_t argument, uint32_t mask, uint32_t value, uint32_t action);

  // From here on all threads of this process, and what they start, are held to it; what no rule
  // names gets `otherwise`. It gains no privileges by what it executes, either.
  Result<void> Enter(uint32_t otherwise);

 private:
  void Load(uint32_t offset);  // Of a seccomp_data, into the accumulator.
  void SkipUnless(uint32_t value, uint8_t skipped);
  void Return(uint32_t action);

  std::vector<sock_filter> program_;
};

}  // namespace farside::vmm
