// Seeded random numbers: the same seed gives the same numbers on every machine and compiler, which
// the distributions of <random> do not promise.
#pragma once

#include <cstdint>

namespace farside {

// One step of SplitMix64 (Steele, Lea, Flood 2014): a bijection that mixes all 64 bits.
constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit constexpr Random(uint64_t seed) : state_(seed) {}

  constexpr uint64_t Next() {
    const uint64_t value = Mix64(state_);
    state_ += 0x9e3779b97f4a7c15;
    return value;
  }

  // Uniform in [0, bound); bound > 0. The bias for bounds below 2^32 is under 2^-32.
  constexpr uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
  }

  // True once in `n` on average.
  constexpr bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace farside
