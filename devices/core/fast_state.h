// FastState: a device's state as a copy of memory, for fuzzing, which goes back to one state after
// each input. It never leaves the process and has no format: what it holds is good for the object
// that wrote it and for nothing else. State that travels is devices/core/state.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"

namespace farside {

// Takes copies, one behind the other. Its memory is kept from one save to the next.
class FastState {
 public:
  void Clear() { bytes_.clear(); }
  size_t size() const { return bytes_.size(); }

  // `value` itself, not what it points to.
  template <typename T>
  void Put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    Append(AsBytes(value));
  }
  // The number of `values`, then they themselves.
  template <typename T>
  void PutArray(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    Put(values.size());
    Append(std::as_bytes(values));
  }
  template <typename T>
  void PutArray(const std::vector<T>& values) {
    PutArray(std::span<const T>(values));
  }

 private:
  friend class FastReader;

  void Append(ConstBytes bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }

  std::vector<std::byte> bytes_;
};

// Gives back what was put, in the same order; anything else is a bug of the device's.
class FastReader {
 public:
  // `state` outlives the reader and stays as it is.
  explicit FastReader(const FastState& state) : left_(state.bytes_) {}

  template <typename T>
  void Get(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    Copy(AsWritableBytes(value), Take(sizeof(T)));
  }
  template <typename T>
  T Get() {
    T value{};
    Get(value);
    return value;
  }
  // Of as many values as there are in `values`.
  template <typename T>
  void GetArray(std::span<T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    CHECK(Get<size_t>() == values.size());
    Copy(std::as_writable_bytes(values), Take(values.size_bytes()));
  }
  // Of any number.
  template <typename T>
  void GetArray(std::vector<T>& values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto count = Get<size_t>();
    CHECK(count <= left_.size() / sizeof(T));
    values.resize(count);
    Copy(std::as_writable_bytes(std::span(values)), Take(count * sizeof(T)));
  }

  // All of it was read.
  bool done() const { return left_.empty(); }

 private:
  ConstBytes Take(size_t size) {
    CHECK(size <= left_.size());
    const ConstBytes taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }

  ConstBytes left_;
};

}  // namespace farside
