// AFL++'s custom mutator: the same Mutate and CrossOver as libFuzzer's, in a shared library that
// afl-fuzz loads (AFL_CUSTOM_MUTATOR_LIBRARY). FARSIDE_FUZZ_TARGET names the target.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/random.h"
#include "fuzz/mutator/mutator.h"

namespace {

using farside::Bytes;
using farside::ConstBytes;

// One of every so many inputs is made of two.
constexpr uint64_t kCrossEvery = 8;

struct Mutator {
  const farside::fuzz::Grammar& grammar;
  farside::Random random;
  std::vector<std::byte> out = std::vector<std::byte>(farside::fuzz::kMaxInput);
};

}  // namespace

// AFL++ has a header for these, which is not needed: docs/custom_mutators.md there.

extern "C" void* afl_custom_init(void*, unsigned seed) {
  const char* name = std::getenv("FARSIDE_FUZZ_TARGET");
  const farside::fuzz::Grammar* grammar = farside::fuzz::FindGrammar(name == nullptr ? "" : name);
  if (grammar == nullptr) {
    fmt::print(stderr, "FARSIDE_FUZZ_TARGET is \"{}\": it must be one of {}\n",
               name == nullptr ? "" : name, farside::fuzz::GrammarNames());
    return nullptr;  // afl-fuzz gives up.
  }
  return new Mutator{*grammar, farside::Random(farside::Mix64(seed))};
}

extern "C" size_t afl_custom_fuzz(void* data, uint8_t* input, size_t size, uint8_t** out,
                                  uint8_t* other, size_t other_size, size_t max_size) {
  auto& mutator = *static_cast<Mutator*>(data);
  const Bytes room = Bytes(mutator.out).first(std::min(mutator.out.size(), max_size));
  const ConstBytes from = std::as_bytes(std::span(input, std::min(size, room.size())));
  *out = reinterpret_cast<uint8_t*>(room.data());
  const uint64_t seed = mutator.random.Next();
  if (other != nullptr && other_size != 0 && mutator.random.OneIn(kCrossEvery)) {
    return farside::fuzz::CrossOver(mutator.grammar, from,
                                    std::as_bytes(std::span(other, other_size)), room, seed);
  }
  farside::Copy(room.first(from.size()), from);
  return farside::fuzz::Mutate(mutator.grammar, room, from.size(), seed);
}

extern "C" void afl_custom_deinit(void* data) { delete static_cast<Mutator*>(data); }
