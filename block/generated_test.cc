#include "block/generated.h"

#include <gmock/gmock.h>

#include "block/test_support.h"

namespace farside::block {
namespace {

using GeneratedTest = BlockTest;

TEST_F(GeneratedTest, HoldsTheContentThatRecordedTracesRelyOn) {
  GeneratedNode disk({.name = "disk"}, 1 << 20, /*seed=*/42);
  const Buffer sector = Content(disk, 3 * 512, 512);
  // The formula of generated.h, written out.
  EXPECT_EQ(LoadLe<uint64_t>(sector.bytes()), Mix64(Mix64(Mix64(42) ^ 3)));
  EXPECT_EQ(LoadLe<uint64_t>(sector.bytes().subspan(63 * 8)), Mix64(Mix64(Mix64(42) ^ 3) + 63));
  // And in figures, so that nobody changes Mix64 either.
  EXPECT_EQ(LoadLe<uint64_t>(sector.bytes()), 0x2ce0'2c4e'e4d2'ea09u);
}

TEST_F(GeneratedTest, DependsOnTheSeedAndNotOnHowItIsRead) {
  GeneratedNode a({.name = "a"}, 64 << 10, 1);
  GeneratedNode b({.name = "b"}, 64 << 10, 1);
  GeneratedNode other({.name = "c"}, 64 << 10, 2);
  const Buffer whole = Content(a, 0, 64 << 10);
  for (size_t at = 0, step = 1; at < (64 << 10); at += step, step = step * 3 + 1) {
    step = std::min<size_t>(step, (64 << 10) - at);
    const Buffer part = Content(b, at, step);
    EXPECT_TRUE(std::ranges::equal(part.bytes(), whole.bytes().subspan(at, step)));
  }
  EXPECT_FALSE(Content(other, 0, 64 << 10) == whole);
}

TEST_F(GeneratedTest, KeepsOnlyWhatWasWritten) {
  GeneratedNode disk({.name = "disk"}, uint64_t{1} << 40, 1);
  const Buffer before = Content(disk, 0, 16384);
  EXPECT_EQ(disk.pages(), 0u);
  EXPECT_EQ(Write(disk, 6000, Buffer::Filled(100, 0xab)), IoStatus{});
  EXPECT_EQ(disk.pages(), 1u);
  Fill(before.bytes().subspan(6000, 100), 0xab);
  EXPECT_EQ(Content(disk, 0, 16384), before);
}

TEST_F(GeneratedTest, AWholeDiskIsDiscardedInNoTimeAndNoSpace) {
  constexpr uint64_t kSize = uint64_t{1} << 50;
  GeneratedNode disk({.name = "disk", .unmap = true}, kSize, 1);
  EXPECT_EQ(Write(disk, kSize / 2, Buffer::Filled(8192, 1)), IoStatus{});
  EXPECT_EQ(Await(disk.Discard(0, kSize)), IoStatus{});
  EXPECT_EQ(disk.pages(), 0u);
  EXPECT_EQ(Content(disk, kSize / 2, 8192), Buffer::Filled(8192, 0));
  EXPECT_EQ(Content(disk, 12345, 4096), Buffer::Filled(4096, 0));
}

TEST_F(GeneratedTest, ZeroedRangesThatTouchBecomeOne) {
  GeneratedNode disk({.name = "disk", .unmap = true}, 1 << 20, 1);
  const uint64_t pages[] = {4, 6, 5, 0, 3, 1, 2, 7};
  for (const uint64_t page : pages) {
    EXPECT_EQ(Await(disk.Discard(page * 4096, 4096)), IoStatus{});
  }
  EXPECT_EQ(disk.zeroed_ranges(), 1u);
  EXPECT_EQ(Await(disk.Discard(9 * 4096, 4096)), IoStatus{});
  EXPECT_EQ(disk.zeroed_ranges(), 2u);
  EXPECT_EQ(Await(disk.Discard(2 * 4096, 10 * 4096)), IoStatus{});
  EXPECT_EQ(disk.zeroed_ranges(), 1u);
}

TEST_F(GeneratedTest, WritesOverZeroesAndZeroesOverWrites) {
  GeneratedNode disk({.name = "disk", .unmap = true}, 1 << 20, 1);
  EXPECT_EQ(Await(disk.WriteZeroes(0, 64 << 10, true)), IoStatus{});
  EXPECT_EQ(Write(disk, 10'000, Buffer::Filled(1000, 3)), IoStatus{});
  const Buffer expected = Buffer::Filled(64 << 10, 0);
  Fill(expected.bytes().subspan(10'000, 1000), 3);
  EXPECT_EQ(Content(disk, 0, 64 << 10), expected);
  EXPECT_EQ(Await(disk.WriteZeroes(10'500, 20'000, false)), IoStatus{});
  Fill(expected.bytes().subspan(10'500, 20'000), 0);
  EXPECT_EQ(Content(disk, 0, 64 << 10), expected);
}

// Against a plain array: any order of writes, zeroes and discards of any size and place.
TEST_F(GeneratedTest, MatchesAnArrayUnderRandomRequests) {
  const uint64_t seed = Seed();
  SCOPED_TRACE(fmt::format("--gtest_random_seed={}", seed));
  constexpr uint64_t kSize = 256 << 10;
  GeneratedNode disk({.name = "disk", .unmap = true}, kSize, 7);
  const Buffer array = Content(disk, 0, kSize);
  Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t offset = random.Below(kSize);
    const uint64_t size = random.Below(std::min<uint64_t>(kSize - offset, 40'000) + 1);
    const auto value = static_cast<uint8_t>(random.OneIn(2) ? random.Next() | 1 : 0);
    if (value != 0) {
      ASSERT_EQ(Write(disk, offset, Buffer::Filled(size, value)), IoStatus{});
    } else if (random.OneIn(2)) {
      ASSERT_EQ(Await(disk.WriteZeroes(offset, size, false)), IoStatus{});
    } else {
      ASSERT_EQ(Await(disk.Discard(offset, size)), IoStatus{});
    }
    Fill(array.bytes().subspan(offset, size), value);
    if (i % 100 == 0) {
      ASSERT_EQ(Content(disk, 0, kSize), array) << "request " << i;
    }
  }
  EXPECT_EQ(Content(disk, 0, kSize), array);
}

}  // namespace
}  // namespace farside::block
