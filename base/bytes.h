// Bytes and endianness: the only place that knows about either.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace farside {

static_assert(std::endian::native == std::endian::little,
              "vfio-user is host-endian and Farside's formats are little-endian");

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

// Loads a little-endian integer from the start of `in`, which holds at least sizeof(T) bytes.
template <std::integral T>
T LoadLe(ConstBytes in) {
  T value;
  std::memcpy(&value, in.data(), sizeof value);
  return value;
}

// Stores `value` little-endian at the start of `out`, which holds at least sizeof(T) bytes.
template <std::integral T>
void StoreLe(Bytes out, T value) {
  std::memcpy(out.data(), &value, sizeof value);
}

// The bytes of 1 to 8, zero-extended.
inline uint64_t LoadLePartial(ConstBytes in) {
  uint64_t value = 0;
  std::memcpy(&value, in.data(), std::min<size_t>(in.size(), 8));
  return value;
}

inline void StoreLePartial(Bytes out, uint64_t value) {
  std::memcpy(out.data(), &value, std::min<size_t>(out.size(), 8));
}

// The bytes of a trivially copyable object, as they lie in memory.
template <typename T>
ConstBytes AsBytes(const T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span(&object, 1));
}

template <typename T>
Bytes AsWritableBytes(T& object) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_writable_bytes(std::span(&object, 1));
}

inline void Fill(Bytes out, uint8_t value) { std::memset(out.data(), value, out.size()); }

// memcpy for spans of equal size; sizes of zero are lawful whatever the pointers.
inline void Copy(Bytes to, ConstBytes from) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

// True when [offset, offset + size) lies inside [0, limit), without overflow.
constexpr bool InRange(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

}  // namespace farside
