// The custom mutator: works on events, not on bytes. One source for libFuzzer and AFL++.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

// Changes the session in the first `size` bytes of `data` in place and returns its new size, which
// fits data.size(). The same seed does the same.
size_t Mutate(const Grammar& grammar, Bytes data, size_t size, uint64_t seed);

// Puts a session into `out` that begins as `a` and goes on with events of `b`.
size_t CrossOver(const Grammar& grammar, ConstBytes a, ConstBytes b, Bytes out, uint64_t seed);

// A session of `events` events, grown piece by piece. The same seed gives the same.
Session MakeUp(const Grammar& grammar, uint64_t seed, size_t events, Store& store);

}  // namespace farside::fuzz
