#include "harness/fuzz/coverage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "harness/fuzz/page.h"

namespace farside::campaign {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::string_view kLcov =
    "SF:/x/devices/nvme/sq.cc\nDA:1,4\nDA:2,0\nDA:3,0\nDA:7,0\nBRF:4\nBRH:1\nLF:4\nLH:1\n"
    "end_of_record\nSF:/usr/include/y.h\nDA:1,0\nLF:1\nLH:0\nend_of_record\n";

TEST(Coverage, IsOfFilesBelowTheRoot) {
  const Coverage coverage = ParseLcov(kLcov, "/x");
  ASSERT_EQ(coverage.size(), 1u);
  const Covered& file = coverage.at("devices/nvme/sq.cc");
  EXPECT_EQ(file.lines, 4u);
  EXPECT_EQ(file.lines_covered, 1u);
  EXPECT_EQ(file.branches, 4u);
  EXPECT_EQ(file.branches_covered, 1u);
  EXPECT_THAT(file.uncovered, ElementsAre(2, 3, 7));
  EXPECT_EQ(Ranges(file.uncovered), "2-3, 7");
}

TEST(Coverage, LeavesOutWhatIsForTests) {
  const nlohmann::json json =
      ToJson(Coverage{{"protocol/test_support.h", Covered()}, {"devices/testing/x.cc", Covered()}});
  EXPECT_TRUE(json["files"].empty());
}

TEST(Page, ShowsWhatIsThereAndEscapesIt) {
  const nlohmann::json report = {
      {"made", "today"},
      {"targets",
       {{{"target", "nvme"},
         {"inputs", 3},
         {"rate", 1000.0},
         {"shares", {{"dma", 40.0}}},
         {"corpus_shares", {{"dma", 30.0}}},
         {"present", false},
         {"why", "DMA in fewer than 50 %"},
         {"registers", {{{"name", "BAR0 CC"}, {"reads", 1}, {"writes", 0}, {"writable", true}}}},
         {"commands", {{{"name", "admin Identify"}, {"count", 0}, {"supported", true}}}}}}},
      {"findings",
       {{{"target", "nvme"},
         {"identity", "segv-1"},
         {"kind", "SEGV"},
         {"frames", {"a<b>"}},
         {"last_event", "write"},
         {"sentence", "1 < 2"},
         {"events", 3},
         {"count", 2},
         {"repro", "..."}}}},
      {"coverage", ToJson(ParseLcov(kLcov, "/x"))},
      {"mutants",
       {{{"id", "m1"},
         {"class", "state"},
         {"killed", nullptr},  // Not tried.
         {"found", true},
         {"found_by", "ORACLE reset"},
         {"fuzz_seconds", 0.3}},
        {{"id", "m2"}, {"killed", true}, {"killed_by", "a test"}, {"found", false}}}},
      {"speed",
       {{"why", {"there is no fuzz build"}},
        {"targets",
         {{{"target", "nvme"}, {"build", "release"}, {"rate", 19000.0}, {"load_of_memcpy", 2.0}},
          {{"target", "disk_proc"},
           {"build", "release"},
           {"rate", 500.0},
           {"of_round_trips", 0.71}}}}}},
      {"without", {"lsi", "state"}}};
  const std::string page = Page(report);
  EXPECT_THAT(page, HasSubstr("absent: DMA in fewer than 50 %"));
  EXPECT_THAT(page, HasSubstr("40 % <span class=dim>(30 %)"));
  EXPECT_THAT(page, HasSubstr("BAR0 CC (never written)"));
  EXPECT_THAT(page, HasSubstr("Never given:</span> admin Identify"));
  EXPECT_THAT(page, HasSubstr("1 &lt; 2"));
  EXPECT_THAT(page, HasSubstr("a&lt;b&gt;"));
  EXPECT_THAT(page, HasSubstr("2-3, 7"));
  EXPECT_THAT(page, HasSubstr("<td class=\"n bad\"><span class=bar><i style=\"width:25%"));
  EXPECT_THAT(page, HasSubstr("1 of 2 found by fuzzing"));
  EXPECT_THAT(page, HasSubstr("The tests kill 1"));
  EXPECT_THAT(page, HasSubstr("ORACLE reset<td class=n>0.3"));
  EXPECT_THAT(page, HasSubstr("nvme<td class=\"n bad\">19000"));
  EXPECT_THAT(page, HasSubstr("<td class=\"n\">2.0 &times; memcpy"));
  EXPECT_THAT(
      page, HasSubstr("disk_proc<td class=\"n\">500<td class=n><td class=n><td class=\"n\">0.71"));
  EXPECT_THAT(page, HasSubstr("Not measured: there is no fuzz build."));
  EXPECT_THAT(page, HasSubstr("was given of lsi, state."));
}

}  // namespace
}  // namespace farside::campaign
