// What the targets' tests share.
#pragma once

#include <vector>

#include "fuzz/mutator/mutator.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// A made-up session of so many events.
inline std::vector<std::byte> MadeUp(const Grammar& grammar, uint64_t seed, size_t events) {
  Store store;
  return Encode(MakeUp(grammar, seed, events, store));
}

}  // namespace farside::fuzz
