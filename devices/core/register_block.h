// Registers as the specification's table: reset values, masks, merging of accesses, names for
// traces and saved state all come from one constexpr array of rows.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/bytes.h"

namespace farside {

// One row of a register map. Names and bit positions are the specification's own. A bit that is in
// none of the masks is read-only.
struct RegisterDef {
  uint32_t offset = 0;    // In bytes, from the start of the map.
  uint32_t width = 4;     // In bytes: 1, 2, 4 or 8.
  std::string_view name;  // Used by traces, logs and saved state.
  uint64_t reset = 0;
  uint64_t writable = 0;  // RW bits.
  uint64_t set = 0;       // RW1S bits: writing 1 sets.
  uint64_t clear = 0;     // RW1C bits: writing 1 clears.
};

constexpr uint64_t WidthMask(uint32_t width) {
  return width >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * width)) - 1;
}

// Rows ascend without overlap, are aligned to their width, and each bit is of one kind and fits.
constexpr bool IsWellFormed(std::span<const RegisterDef> rows) {
  uint64_t end = 0;
  for (const RegisterDef& row : rows) {
    if (row.width != 1 && row.width != 2 && row.width != 4 && row.width != 8) return false;
    if (row.offset < end || row.offset % row.width != 0 || row.name.empty()) return false;
    if ((row.writable & row.set) | (row.writable & row.clear) | (row.set & row.clear)) return false;
    if ((row.reset | row.writable | row.set | row.clear) & ~WidthMask(row.width)) return false;
    end = uint64_t{row.offset} + row.width;
  }
  return true;
}

// The values of a register map and the only code that merges bytes into registers. Accesses of any
// size and alignment: what no row covers reads as zero and ignores writes.
template <size_t kCount>
class RegisterBlock {
 public:
  explicit RegisterBlock(const RegisterDef (&rows)[kCount]) : rows_(rows) {
    for (size_t word = 0, row = 0; word < kWords; ++word) {
      while (row < kCount && EndOf(row) <= 4 * word) ++row;
      first_[word] = static_cast<uint8_t>(row);
    }
    Reset();
  }

  void Reset() {
    for (size_t row = 0; row < kCount; ++row) values_[row] = rows_[row].reset;
  }

  uint64_t operator[](size_t row) const { return values_[row]; }
  // For the device itself, which may set read-only bits.
  void Set(size_t row, uint64_t value) { values_[row] = value & WidthMask(rows_[row].width); }

  void Read(uint64_t offset, Bytes out) const {
    Fill(out, 0);
    for (size_t row = First(offset); row < kCount && rows_[row].offset < offset + out.size();
         ++row) {
      const Overlap part = Intersect(row, offset, out.size());
      const uint64_t value = values_[row] >> 8 * part.in_register;
      // Faster than a copy whose size is known only now.
      for (size_t i = 0; i < part.size; ++i) {
        out[part.in_access + i] = static_cast<std::byte>(value >> 8 * i);
      }
    }
  }

  // Applies the masks, then calls on_write(row, old value, bytes written as a mask) for each row
  // the access touched, in ascending order.
  template <std::invocable<size_t, uint64_t, uint64_t> OnWrite>
  void Write(uint64_t offset, ConstBytes in, OnWrite&& on_write) {
    for (size_t row = First(offset); row < kCount && rows_[row].offset < offset + in.size();
         ++row) {
      const Overlap part = Intersect(row, offset, in.size());
      std::array<std::byte, 8> bytes{};
      std::array<std::byte, 8> enable{};
      Copy(Bytes(bytes).subspan(part.in_register, part.size),
           in.subspan(part.in_access, part.size));
      Fill(Bytes(enable).subspan(part.in_register, part.size), 0xff);
      const uint64_t old = values_[row];
      const auto written = LoadLe<uint64_t>(bytes);
      const auto mask = LoadLe<uint64_t>(enable);
      const uint64_t writable = rows_[row].writable & mask;
      values_[row] = ((old & ~writable) | (written & writable) | (written & rows_[row].set)) &
                     ~(written & rows_[row].clear);
      on_write(row, old, mask);
    }
  }

  // All values in the order of rows, for saved state.
  std::span<const uint64_t, kCount> values() const { return values_; }
  std::span<const RegisterDef> rows() const { return rows_; }

 private:
  struct Overlap {
    size_t in_access;
    size_t in_register;
    size_t size;
  };

  uint64_t EndOf(size_t row) const { return uint64_t{rows_[row].offset} + rows_[row].width; }

  // The first row that ends behind `offset`.
  size_t First(uint64_t offset) const {
    size_t row = first_[std::min<uint64_t>(offset / 4, kWords - 1)];
    while (row < kCount && EndOf(row) <= offset) ++row;
    return row;
  }

  Overlap Intersect(size_t row, uint64_t offset, size_t size) const {
    const uint64_t begin = std::max<uint64_t>(offset, rows_[row].offset);
    const uint64_t end = std::min<uint64_t>(offset + size, EndOf(row));
    return {begin - offset, begin - rows_[row].offset, end - begin};
  }

  // Where to begin to look, for offsets up to which most registers lie.
  static constexpr size_t kWords = 64;
  static_assert(kCount <= 255);

  std::span<const RegisterDef, kCount> rows_;
  std::array<uint8_t, kWords> first_{};
  std::array<uint64_t, kCount> values_{};
};

}  // namespace farside
