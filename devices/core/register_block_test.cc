#include "devices/core/register_block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "base/random.h"

namespace farside {
namespace {

using testing::ElementsAre;

enum Row : size_t { kStatus, kByte, kControl, kMask, kWide, kReadOnly, kRowCount };

// Every width and kind of bit, and gaps before, between and behind the rows.
constexpr RegisterDef kRows[] = {
    {.offset = 0x04, .width = 4, .name = "STATUS", .reset = 0x8000'0001, .clear = 0xf000'000f},
    {.offset = 0x08, .width = 1, .name = "BYTE", .reset = 0x5a, .writable = 0x0f},
    {.offset = 0x0a, .width = 2, .name = "CONTROL", .writable = 0x00ff, .set = 0x0f00},
    {.offset = 0x0c, .width = 4, .name = "MASK", .set = 0xffff'ffff},
    {.offset = 0x18, .width = 8, .name = "WIDE", .writable = ~uint64_t{0xfff}},
    {.offset = 0x20, .width = 4, .name = "VERSION", .reset = 0x0001'0400},
};
static_assert(IsWellFormed(kRows));
static_assert(std::size(kRows) == kRowCount);
constexpr size_t kMapSize = 0x30;

constexpr bool Accepts(const RegisterDef& row) { return IsWellFormed(std::span(&row, 1)); }
constexpr bool Accepts(const RegisterDef& first, const RegisterDef& second) {
  const RegisterDef rows[] = {first, second};
  return IsWellFormed(rows);
}

static_assert(Accepts({.offset = 0, .width = 8, .name = "A", .writable = ~uint64_t{0}}));
static_assert(Accepts({.offset = 0xffff'fff8, .width = 8, .name = "LAST"}));
static_assert(!Accepts({.offset = 0, .width = 0, .name = "NO_WIDTH"}));
static_assert(!Accepts({.offset = 0, .width = 3, .name = "ODD_WIDTH"}));
static_assert(!Accepts({.offset = 0, .width = 16, .name = "TOO_WIDE"}));
static_assert(!Accepts({.offset = 2, .width = 4, .name = "UNALIGNED"}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = ""}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = "A", .writable = 1, .set = 1}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = "A", .writable = 2, .clear = 2}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = "A", .set = 4, .clear = 4}));
static_assert(!Accepts({.offset = 0, .width = 1, .name = "A", .reset = 0x100}));
static_assert(!Accepts({.offset = 0, .width = 2, .name = "A", .writable = 0x1'0000}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = "A", .set = uint64_t{1} << 32}));
static_assert(!Accepts({.offset = 0, .width = 4, .name = "A", .clear = uint64_t{1} << 63}));
static_assert(!Accepts({.offset = 4, .name = "A"}, {.offset = 0, .name = "BEFORE"}));
static_assert(!Accepts({.offset = 0, .width = 8, .name = "A"}, {.offset = 4, .name = "OVERLAP"}));
static_assert(!Accepts({.offset = 0, .name = "A"}, {.offset = 0, .name = "SAME"}));
static_assert(Accepts({.offset = 0, .name = "A"}, {.offset = 4, .name = "NEXT"}));

// The same map as bytes, each with its masks: what the merging of registers must agree with.
struct ByteModel {
  std::vector<uint8_t> value = std::vector<uint8_t>(kMapSize + 16);
  std::vector<uint8_t> writable = value;
  std::vector<uint8_t> set = value;
  std::vector<uint8_t> clear = value;

  ByteModel() {
    for (const RegisterDef& row : kRows) {
      for (uint32_t i = 0; i < row.width; ++i) {
        value[row.offset + i] = static_cast<uint8_t>(row.reset >> (8 * i));
        writable[row.offset + i] = static_cast<uint8_t>(row.writable >> (8 * i));
        set[row.offset + i] = static_cast<uint8_t>(row.set >> (8 * i));
        clear[row.offset + i] = static_cast<uint8_t>(row.clear >> (8 * i));
      }
    }
  }

  void Write(size_t offset, ConstBytes in) {
    for (size_t i = 0; i < in.size(); ++i) {
      const size_t at = offset + i;
      const auto bits = std::to_integer<unsigned>(in[i]);
      unsigned byte = (value[at] & ~writable[at]) | (bits & writable[at]);
      byte |= bits & set[at];
      byte &= ~(bits & clear[at]);
      value[at] = static_cast<uint8_t>(byte);
    }
  }
};

using Block = RegisterBlock<kRowCount>;

std::vector<uint8_t> ReadBytes(const Block& block, uint64_t offset, size_t size) {
  std::vector<uint8_t> out(size, 0xcc);
  block.Read(offset, std::as_writable_bytes(std::span(out)));
  return out;
}

void WriteValue(Block& block, uint64_t offset, uint64_t value, size_t size) {
  block.Write(offset, AsBytes(value).first(size), [](size_t, uint64_t, uint64_t) {});
}

TEST(RegisterBlockTest, EveryReadOfEverySizeGivesTheRegistersBytesAndZeroesBetweenThem) {
  const Block block(kRows);
  const ByteModel model;
  for (size_t offset = 0; offset < kMapSize; ++offset) {
    for (size_t size = 1; size <= 16; ++size) {
      const std::vector<uint8_t> expected(
          model.value.begin() + static_cast<ptrdiff_t>(offset),
          model.value.begin() + static_cast<ptrdiff_t>(offset + size));
      ASSERT_EQ(ReadBytes(block, offset, size), expected) << size << " bytes at " << offset;
    }
  }
}

TEST(RegisterBlockTest, RegistersFarBehindTheOthersAreFoundToo) {
  constexpr RegisterDef kFar[] = {{.offset = 0x00, .name = "NEAR", .reset = 1},
                                  {.offset = 0xf8, .width = 8, .name = "ON_THE_EDGE", .reset = 2},
                                  {.offset = 0xe00, .name = "FAR", .reset = 3},
                                  {.offset = 0xe04, .width = 1, .name = "LAST", .reset = 4}};
  const RegisterBlock<std::size(kFar)> block(kFar);
  for (const RegisterDef& row : kFar) {
    uint64_t value = 0;
    block.Read(row.offset, AsWritableBytes(value).first(row.width));
    EXPECT_EQ(value, row.reset) << row.name;
  }
  uint64_t nothing = 7;
  block.Read(0xe08, AsWritableBytes(nothing));
  EXPECT_EQ(nothing, 0u);
}

TEST(RegisterBlockTest, EveryWriteOfEverySizeMergesByTheMasksAndNothingElseMoves) {
  const uint64_t seed = 20260901;
  Random random(seed);
  Block block(kRows);
  ByteModel model;
  for (int round = 0; round < 20; ++round) {
    for (size_t offset = 0; offset < kMapSize; ++offset) {
      const size_t size = 1 + random.Below(16);
      std::array<uint64_t, 2> data = {random.Next(), random.Next()};
      const ConstBytes in = std::as_bytes(std::span(data)).first(size);
      block.Write(offset, in, [](size_t, uint64_t, uint64_t) {});
      model.Write(offset, in);
      ASSERT_EQ(ReadBytes(block, 0, model.value.size()), model.value)
          << size << " bytes at " << offset << ", round " << round << ", seed " << seed;
    }
  }
}

TEST(RegisterBlockTest, AWriteReportsEachRegisterItTouchesWithItsOldValueAndTheBytesWritten) {
  Block block(kRows);
  std::vector<std::tuple<size_t, uint64_t, uint64_t>> seen;
  const std::array<std::byte, 12> data{};
  // From the last byte of STATUS to the second of MASK.
  block.Write(0x07, ConstBytes(data).first(7),
              [&](size_t row, uint64_t old, uint64_t mask) { seen.emplace_back(row, old, mask); });
  EXPECT_THAT(seen, ElementsAre(std::tuple(kStatus, 0x8000'0001, 0xff00'0000),
                                std::tuple(kByte, 0x5a, 0xff), std::tuple(kControl, 0, 0xffff),
                                std::tuple(kMask, 0, 0xffff)));
}

TEST(RegisterBlockTest, AWriteIntoAGapOrBehindTheLastRowReportsNothing) {
  Block block(kRows);
  const std::array<std::byte, 4> data{};
  const auto never = [](size_t row, uint64_t, uint64_t) { FAIL() << "row " << row; };
  block.Write(0x00, data, never);
  block.Write(0x10, data, never);
  block.Write(0x24, data, never);
  block.Write(0x09, ConstBytes(data).first(1), never);
}

TEST(RegisterBlockTest, AReadOnlyRegisterIsTouchedButKeepsItsValue) {
  Block block(kRows);
  size_t touched = 0;
  block.Write(0x20, AsBytes(uint32_t{0xffff'ffff}), [&](size_t row, uint64_t, uint64_t) {
    EXPECT_EQ(row, kReadOnly);
    ++touched;
  });
  EXPECT_EQ(touched, 1u);
  EXPECT_EQ(block[kReadOnly], 0x0001'0400u);
}

TEST(RegisterBlockTest, WritingOnesClearsAndSetsAndZeroesDoNeither) {
  Block block(kRows);
  WriteValue(block, 0x04, 0, 4);
  EXPECT_EQ(block[kStatus], 0x8000'0001u);
  WriteValue(block, 0x04, 1, 1);
  EXPECT_EQ(block[kStatus], 0x8000'0000u);
  WriteValue(block, 0x07, 0xff, 1);
  EXPECT_EQ(block[kStatus], 0u);

  WriteValue(block, 0x0c, 0x10, 4);
  WriteValue(block, 0x0d, 0x01, 1);
  WriteValue(block, 0x0c, 0, 4);
  EXPECT_EQ(block[kMask], 0x110u);
}

TEST(RegisterBlockTest, TheDeviceSetsReadOnlyBitsButNoneBeyondTheWidth) {
  Block block(kRows);
  block.Set(kReadOnly, 0xffff'ffff'0000'0001);
  EXPECT_EQ(block[kReadOnly], 1u);
  block.Set(kWide, 0xffff'ffff'0000'0001);
  EXPECT_EQ(block[kWide], 0xffff'ffff'0000'0001u);
}

TEST(RegisterBlockTest, ResetGivesEveryRegisterItsResetValue) {
  Block block(kRows);
  for (size_t row = 0; row < kRowCount; ++row) block.Set(row, 0x11);
  block.Reset();
  for (size_t row = 0; row < kRowCount; ++row) {
    EXPECT_EQ(block.values()[row], block.rows()[row].reset) << block.rows()[row].name;
  }
}

}  // namespace
}  // namespace farside
