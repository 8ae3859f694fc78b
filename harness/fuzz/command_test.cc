#include "harness/fuzz/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/fuzz/findings.h"
#include "harness/fuzz/fuzz_main.h"

namespace farside::campaign {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr Option kOptions[] = {
    {"seconds", "N", ""}, {"generic", "", ""}, {"output", "FILE", "", 'o'}};

Result<Given> Parse(const Arguments& args) {
  return Given::Parse("run", "TARGET FILE...", kOptions, args);
}

TEST(Given, TakesOptionsAnywhereAndTheRestInOrder) {
  const auto given =
      Parse({"nvme", "--seconds", "7", "a", "--generic", "-o", "x", "--seconds=9", "b"});
  ASSERT_TRUE(given);
  EXPECT_THAT(given->rest(), ElementsAre("nvme", "a", "b"));
  EXPECT_EQ(*given->number("seconds", 1, 1, 100), 9u);
  EXPECT_THAT(given->all("seconds"), ElementsAre("7", "9"));
  EXPECT_TRUE(given->has("generic"));
  EXPECT_EQ(given->text("output"), "x");
}

TEST(Given, RefusesWhatIsWrongInASentence) {
  EXPECT_THAT(Parse({"nvme", "a", "--sekonds=1"}).error().message, HasSubstr("no option"));
  EXPECT_THAT(Parse({"nvme", "a", "--seconds"}).error().message, HasSubstr("followed by N"));
  EXPECT_THAT(Parse({"nvme"}).error().message, HasSubstr("takes TARGET FILE..."));
  const auto given = Parse({"nvme", "a", "--seconds", "soon"});
  ASSERT_TRUE(given);
  EXPECT_THAT(given->number("seconds", 1, 1, 100).error().message, HasSubstr("from 1 to 100"));
}

TEST(FuzzMain, WrongLinesEndWithTwo) {
  EXPECT_EQ(FuzzMain({}), kBadUsage);
  EXPECT_EQ(FuzzMain({"fly"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"run"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"run", "nvme", "--connect", "x"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"run", "nvme", "--jobs", "0"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"run", "no-such-target"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"run", "../nvme"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"min", "no-such-target", "/nowhere"}), kBadUsage);
  EXPECT_EQ(FuzzMain({"--help"}), 0);
}

TEST(Findings, AreCountedByIdentity) {
  Findings findings;
  const Fault fault{.kind = "SEGV", .frames = {"nvme::Sq::Fetch"}, .last_event = "write"};
  EXPECT_TRUE(AddFinding({.fault = fault, .file = "a", .events = 3, .count = 1}, &findings));
  EXPECT_FALSE(AddFinding({.fault = fault, .file = "b", .events = 4, .count = 1}, &findings));
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings.begin()->second.count, 2u);
  EXPECT_THAT(Table(findings), HasSubstr("SEGV: nvme::Sq::Fetch"));
  EXPECT_THAT(Junit("nvme", findings), HasSubstr("failures=\"1\""));
  EXPECT_THAT(Junit("nvme", {}), HasSubstr("<testcase classname=\"fuzz\" name=\"nvme\"/>"));
}

}  // namespace
}  // namespace farside::campaign
