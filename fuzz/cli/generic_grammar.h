// GenericGrammar: a PCI device of which nothing is known but what its regions are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

struct RegionFacts {
  uint32_t index = 0;
  uint64_t size = 0;
  bool readable = true;
  bool writable = true;
};

std::unique_ptr<Grammar> MakeGenericGrammar(std::vector<RegionFacts> regions);

}  // namespace farside::fuzz
