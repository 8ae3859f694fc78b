// Bytes of SCSI's structures, whose integers are big-endian.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace farside::scsi {

inline uint8_t Byte(ConstBytes bytes, size_t at) { return std::to_integer<uint8_t>(bytes[at]); }

// The integer in the first sizeof(T) bytes of `in`.
template <std::unsigned_integral T>
constexpr T LoadBe(ConstBytes in) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << (sizeof(T) > 1 ? 8 : 0) | std::to_integer<T>(in[i]));
  }
  return value;
}

// Stores `value` in the first sizeof(T) bytes of `out`.
template <std::unsigned_integral T>
constexpr void StoreBe(Bytes out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
  }
}

inline uint32_t LoadBe24(ConstBytes in) {
  return std::to_integer<uint32_t>(in[0]) << 16 | LoadBe<uint16_t>(in.subspan(1));
}

inline void StoreBe24(Bytes out, uint32_t value) {
  out[0] = static_cast<std::byte>(value >> 16);
  StoreBe(out.subspan(1), static_cast<uint16_t>(value));
}

}  // namespace farside::scsi
