#include "harness/fuzz/status.h"

#include <gtest/gtest.h>

namespace farside::campaign {
namespace {

constexpr std::string_view kOutput =
    "INFO: Seed: 7\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n"
    "#4096\tNEW    cov: 1234 ft: 5678 corp: 90/12Kb lim: 4096 exec/s: 512 rss: 100Mb L: 9/9 MS: 1 "
    "Custom-\n==1== ERROR: libFuzzer: deadly signal\n"
    "artifact_prefix='/f/'; Test unit written to /f/crash-01ab\nBase64: AA==\n";

TEST(Status, IsInTheLastStatusLine) {
  const auto status = LastStatus(kOutput);
  ASSERT_TRUE(status);
  EXPECT_EQ(status->runs, 4096u);
  EXPECT_EQ(status->edges, 1234u);
  EXPECT_EQ(status->features, 5678u);
  EXPECT_EQ(status->corpus, 90u);
  EXPECT_EQ(status->rate, 512u);
}

TEST(Status, OtherLinesAreNone) {
  EXPECT_FALSE(ParseStatus("    #0 0x55d in main /x/main.cc:1"));
  EXPECT_FALSE(ParseStatus("#stat::number_of_executed_units: 7"));
  EXPECT_FALSE(LastStatus(""));
}

TEST(Status, SaysWhetherItBeganAndWhereTheInputIs) {
  EXPECT_TRUE(HasBegun(kOutput));
  EXPECT_FALSE(HasBegun("INFO: Seed: 7\n"));
  EXPECT_EQ(ArtifactOf(kOutput), "/f/crash-01ab");
  EXPECT_FALSE(ArtifactOf("INFO: Seed: 7\n"));
}

}  // namespace
}  // namespace farside::campaign
