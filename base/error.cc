#include "base/error.h"

#include <cstring>

namespace farside {

std::string ErrnoText(int code) {
  char buffer[128];
  return strerror_r(code, buffer, sizeof buffer);
}

}  // namespace farside
