#include "devices/server/dirty_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <vector>

#include "base/random.h"

namespace farside {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kEnd = ~uint64_t{0};  // The last address.

int Start(DirtyLog& log, uint64_t page_size, std::vector<DmaSegment> ranges) {
  const auto started = log.Start(page_size, ranges);
  return started ? 0 : started.error().code;
}

int ReportError(DirtyLog& log, uint64_t iova, uint64_t size, uint64_t page_size = kPage) {
  const auto report = log.Report(iova, size, page_size);
  return report ? 0 : report.error().code;
}

TEST(DirtyLogTest, PagesThatWereTouchedAreReportedOnce) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{0x10000, 70 * kPage}}), 0);
  log.Mark(0x10000, 1);
  log.Mark(0x10000 + 2 * kPage - 1, 2);
  log.Mark(0x10000 + 69 * kPage + 5, 10);
  EXPECT_THAT(log.Report(0x10000, 70 * kPage, kPage).value(), ElementsAre(0b111u, 0b100000u));
  EXPECT_THAT(log.Report(0x10000, 70 * kPage, kPage).value(), Each(0u));
}

TEST(DirtyLogTest, WhatLiesOutsideOfTheRangesIsNotLogged) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{4 * kPage, kPage}, {8 * kPage, 2 * kPage}}), 0);
  log.Mark(0, 4 * kPage);
  log.Mark(5 * kPage, 3 * kPage);
  EXPECT_THAT(log.Report(4 * kPage, kPage, kPage).value(), ElementsAre(0u));
  log.Mark(0, 20 * kPage);
  EXPECT_THAT(log.Report(4 * kPage, kPage, kPage).value(), ElementsAre(1u));
  EXPECT_THAT(log.Report(8 * kPage, 2 * kPage, kPage).value(), ElementsAre(0b11u));
  log.Mark(4 * kPage, 0);
  EXPECT_THAT(log.Report(4 * kPage, kPage, kPage).value(), ElementsAre(0u)) << "no byte";
}

TEST(DirtyLogTest, AReportMayHaveLargerPagesThanTheLog) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{0, 64 * kPage}}), 0);
  log.Mark(3 * kPage, 1);
  log.Mark(17 * kPage, 1);
  EXPECT_THAT(log.Report(0, 64 * kPage, 16 * kPage).value(), ElementsAre(0b11u));
  EXPECT_EQ(ReportError(log, 0, kPage, kPage / 2), EINVAL);
  DirtyLog coarse;
  ASSERT_EQ(Start(coarse, 16 * kPage, {{0, 64 * kPage}}), 0);
  EXPECT_EQ(ReportError(coarse, 0, 64 * kPage, kPage), EINVAL) << "finer than what was logged";
}

TEST(DirtyLogTest, AReportOfPartOfAPageKeepsThePageForTheRest) {
  DirtyLog log;
  ASSERT_EQ(Start(log, 4 * kPage, {{0, 16 * kPage}}), 0);
  log.Mark(0, 1);
  EXPECT_THAT(log.Report(0, 2 * kPage, 4 * kPage).value(), ElementsAre(1u));
  EXPECT_THAT(log.Report(2 * kPage, 2 * kPage, 4 * kPage).value(), ElementsAre(1u));
  EXPECT_THAT(log.Report(0, 16 * kPage, 4 * kPage).value(), ElementsAre(1u));
  EXPECT_THAT(log.Report(0, 16 * kPage, 4 * kPage).value(), ElementsAre(0u));
}

TEST(DirtyLogTest, EveryBitThatAWrittenPageTouchesIsSet) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{0, 16 * kPage}}), 0);
  log.Mark(kPage + 0x900, 1);
  // Bits of pages that begin in the middle: the page that was written touches the first two.
  EXPECT_THAT(log.Report(0x800, 4 * kPage, kPage).value(), ElementsAre(0b11u));
}

TEST(DirtyLogTest, RangesThatAreNotWhollyLoggedHaveNoReport) {
  DirtyLog log;
  EXPECT_EQ(ReportError(log, 0, kPage), EINVAL) << "off";
  ASSERT_EQ(Start(log, kPage, {{4 * kPage, 4 * kPage}, {8 * kPage, 4 * kPage}}), 0);
  EXPECT_EQ(ReportError(log, 4 * kPage, 4 * kPage), 0);
  EXPECT_EQ(ReportError(log, 3 * kPage, kPage), EINVAL);
  EXPECT_EQ(ReportError(log, 3 * kPage, 2 * kPage), EINVAL);
  EXPECT_EQ(ReportError(log, 7 * kPage, 2 * kPage), EINVAL) << "over two ranges";
  EXPECT_EQ(ReportError(log, 12 * kPage, kPage), EINVAL);
  EXPECT_EQ(ReportError(log, 4 * kPage, 0), EINVAL);
  EXPECT_EQ(ReportError(log, 4 * kPage, kEnd), EINVAL);
  EXPECT_EQ(ReportError(log, kEnd, kEnd), EINVAL);
  for (const uint64_t page_size :
       {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{4097}, kEnd}) {
    EXPECT_EQ(ReportError(log, 4 * kPage, kPage, page_size), EINVAL) << page_size;
  }
}

TEST(DirtyLogTest, StartChecksWhatItIsGiven) {
  DirtyLog log;
  for (const uint64_t page_size : {uint64_t{0}, uint64_t{1}, uint64_t{2048}, uint64_t{4097}}) {
    EXPECT_EQ(Start(log, page_size, {{0, kPage}}), EINVAL) << page_size;
  }
  EXPECT_EQ(Start(log, kPage, {{0, 0}}), EINVAL) << "empty";
  EXPECT_EQ(Start(log, kPage, {{kEnd, 2}}), EINVAL) << "wraps";
  EXPECT_EQ(Start(log, kPage, {{0, 2 * kPage}, {kPage, kPage}}), EINVAL) << "overlap";
  EXPECT_EQ(Start(log, kPage, {{kPage, kPage}, {0, 2 * kPage}}), EINVAL) << "overlap";
  EXPECT_EQ(Start(log, kPage, {{0, kEnd}}), E2BIG);
  EXPECT_EQ(Start(log, kPage, {{0, (DirtyLog::kMaxPages + 1) * kPage}}), E2BIG);
  EXPECT_EQ(Start(log, kPage, {{0, DirtyLog::kMaxPages * kPage}, {kEnd - 1, 1}}), E2BIG)
      << "together";
  std::vector<DmaSegment> many;
  for (uint64_t i = 0; i <= DirtyLog::kMaxRanges; ++i) many.push_back({i * kPage, 1});
  EXPECT_EQ(Start(log, kPage, many), E2BIG);
  EXPECT_FALSE(log.on());
  many.pop_back();
  EXPECT_EQ(Start(log, kPage, many), 0);
}

TEST(DirtyLogTest, ALogThatIsOnIsNotStartedAgainAndStopForgetsIt) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{0, kPage}}), 0);
  EXPECT_EQ(Start(log, kPage, {{0, kPage}}), EBUSY);
  log.Mark(0, 1);
  log.Stop();
  EXPECT_FALSE(log.on());
  log.Mark(0, 1);
  ASSERT_EQ(Start(log, kPage, {{0, kPage}}), 0);
  EXPECT_THAT(log.Report(0, kPage, kPage).value(), ElementsAre(0u));
}

TEST(DirtyLogTest, NoRangesIsALogOfNothing) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {}), 0);
  EXPECT_TRUE(log.on());
  log.Mark(0, kEnd);
  EXPECT_EQ(ReportError(log, 0, kPage), EINVAL);
}

TEST(DirtyLogTest, TheLastPageOfTheAddressSpaceCanBeLogged) {
  DirtyLog log;
  const uint64_t last = kEnd - (kPage - 1);
  ASSERT_EQ(Start(log, kPage, {{last - kPage, 2 * kPage}}), 0);
  log.Mark(kEnd, 1);
  EXPECT_THAT(log.Report(last - kPage, 2 * kPage, kPage).value(), ElementsAre(0b10u));
  log.Mark(0, kEnd);
  EXPECT_THAT(log.Report(last, kPage, kPage).value(), ElementsAre(1u));
  EXPECT_EQ(ReportError(log, last, kPage + 1), EINVAL);
}

TEST(DirtyLogTest, PagesMayBeHalfOfTheAddressSpace) {
  DirtyLog log;
  const uint64_t half = uint64_t{1} << 63;
  ASSERT_EQ(Start(log, half, {{0, kEnd}}), 0);
  log.Mark(half + 5, 1);
  EXPECT_THAT(log.Report(0, kEnd, half).value(), ElementsAre(0b10u));
  EXPECT_THAT(log.Report(0, kEnd, half).value(), ElementsAre(0u));
}

TEST(DirtyLogTest, BitmapSizeIsThatOfTheReport) {
  DirtyLog log;
  ASSERT_EQ(Start(log, kPage, {{0, 1000 * kPage}}), 0);
  for (const uint64_t size :
       {uint64_t{1}, kPage, kPage + 1, 64 * kPage, 64 * kPage + 1, 128 * kPage, 1000 * kPage}) {
    EXPECT_EQ(DirtyLog::BitmapSize(size, kPage), 8 * log.Report(0, size, kPage).value().size())
        << size;
  }
  EXPECT_EQ(DirtyLog::BitmapSize(kPage, 0), 0u);
  EXPECT_EQ(DirtyLog::BitmapSize(0, kPage), 0u);
  EXPECT_EQ(DirtyLog::BitmapSize(kEnd, kPage), uint64_t{1} << 49);
}

// No write is ever lost, whatever is asked for in between.
TEST(DirtyLogTest, EveryWrittenByteIsReportedByTheNextReportThatCoversIt) {
  const uint64_t seed = 4242;
  Random random(seed);
  DirtyLog log;
  const uint64_t base = 0x12'3000 + 0x800;
  const uint64_t size = 100 * kPage + 0x300;
  ASSERT_EQ(Start(log, kPage, {{base, size}}), 0);
  std::set<uint64_t> written;
  for (int step = 0; step < 2000; ++step) {
    const uint64_t at = random.Below(size);
    if (random.OneIn(2)) {
      log.Mark(base + at, 1);
      written.insert(at);
      continue;
    }
    const uint64_t length = 1 + random.Below(size - at);
    const uint64_t page_size = kPage << random.Below(4);
    const auto bitmap = log.Report(base + at, length, page_size).value();
    for (auto byte = written.lower_bound(at); byte != written.end() && *byte < at + length;) {
      const uint64_t bit = (*byte - at) / page_size;
      ASSERT_TRUE(bitmap[bit / 64] >> bit % 64 & 1)
          << "byte " << *byte << " in report " << at << "+" << length << ", step " << step
          << ", seed " << seed;
      byte = written.erase(byte);
    }
  }
}

}  // namespace
}  // namespace farside
