#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace farside {

void CheckFailed(const char* file, int line, std::string_view what) {
  std::fprintf(stderr, "%s:%d: %.*s failed: this is a bug in Farside\n", file, line,
               static_cast<int>(what.size()), what.data());
  std::abort();
}

}  // namespace farside
