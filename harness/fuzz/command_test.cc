#include "harness/fuzz/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "harness/fuzz/findings.h"
#include "harness/fuzz/fuzz_main.h"
#include "harness/scenario/child.h"

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

// A libFuzzer that each input of the corpus ends while it is read, and the farside-fuzz to it.
constexpr std::string_view kFuzzer = R"(#!/bin/sh
for last; do :; done
artifact=${last#-artifact_prefix=}crash-1
for file in "$1"/*; do
  [ -e "$file" ] || break
  cp "$file" "$artifact"
  echo "Test unit written to $artifact"
  exit 77
done
printf '#1\tINITED cov: 1 ft: 1 corp: 1/1b exec/s: 0\n'
)";
constexpr std::string_view kTool = R"(#!/bin/sh
echo "farside-fuzz: ORACLE reset: a seeded bug"
exit 1
)";

TEST(FuzzMain, ARunGoesOnBehindInputsOfTheCorpusThatEndIt) {
  namespace fs = std::filesystem;
  const std::string folder = scenario::MakeDirectory().value();
  fs::create_directory(folder + "/corpus");
  for (const char* const name : {"1", "2", "3", "4", "5"}) {
    ASSERT_TRUE(WriteText(folder + "/corpus/" + name, name));
  }
  for (const auto& [name, text] :
       {std::pair("fuzz_x", kFuzzer), std::pair("farside-fuzz", kTool)}) {
    ASSERT_TRUE(WriteText(folder + "/" + name, text));
    fs::permissions(folder + "/" + name, fs::perms::owner_all);
  }
  testing::internal::CaptureStdout();
  EXPECT_EQ(FuzzMain({"run", "x", "--seconds", "5", "--bin-dir", folder, "--corpus",
                      folder + "/corpus", "--findings", folder + "/found"}),
            kFound);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("1 found"));
  EXPECT_TRUE(fs::is_empty(folder + "/corpus"));
  fs::remove_all(folder);
}

}  // namespace
}  // namespace farside::campaign
