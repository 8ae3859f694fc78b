#include "fuzz/host/oracle.h"

#include <cstdio>
#include <cstdlib>

namespace farside::fuzz {

void Violate(std::string_view oracle, const std::string& sentence) {
  fmt::print(stderr, "farside-fuzz: ORACLE {}: {}\n", oracle, sentence);
  std::fflush(stderr);
  std::abort();
}

}  // namespace farside::fuzz
