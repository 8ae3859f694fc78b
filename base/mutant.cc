#include "base/mutant.h"

#ifdef FARSIDE_MUTANTS

#include <cstdlib>
#include <string>

namespace farside {
namespace {

std::string FromEnvironment() {
  const char* const id = std::getenv("FARSIDE_MUTANT");  // NOLINT(concurrency-mt-unsafe)
  return id != nullptr ? id : "";
}

std::string& Active() {
  static std::string active = FromEnvironment();
  return active;
}

}  // namespace

bool IsMutant(std::string_view id) { return Active() == id; }
void SetMutant(std::string_view id) { Active() = id.empty() ? FromEnvironment() : id; }

}  // namespace farside

#endif
