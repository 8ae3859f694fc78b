// Ranges of addresses by begin and size. Whether one lies inside another: InRange in base/bytes.h.
#pragma once

#include <cstdint>

namespace farside {

// Part of [begin, begin + size) lies beyond the last address. It may end there.
constexpr bool Wraps(uint64_t begin, uint64_t size) {
  return size != 0 && size - 1 > UINT64_MAX - begin;
}

// Both have an address. Neither is empty, and neither wraps.
constexpr bool Overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b ? b - a < a_size : a - b < b_size;
}

}  // namespace farside
