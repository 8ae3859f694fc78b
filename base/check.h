// CHECK: the answer to a bug in Farside itself. Never put a guest's, a peer's or the host's data in
// one: those have answers of their own (base/error.h, or what the specification says).
#pragma once

#include <string_view>

namespace farside {

// Prints where and what, then aborts.
[[noreturn]] void CheckFailed(const char* file, int line, std::string_view what);

}  // namespace farside

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) [[unlikely]] {                                       \
      ::farside::CheckFailed(__FILE__, __LINE__, "CHECK(" #condition ")"); \
    }                                                                      \
  } while (false)
