// What is wrong with a scenario is said in a sentence that names the place and the remedy.
#include "harness/scenario/scenario.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>

#include "base/options.h"
#include "harness/scenario/pattern.h"
#include "harness/scenario/report.h"
#include "harness/scenario/runner.h"

namespace farside::scenario {
namespace {

using testing::HasSubstr;
using json = nlohmann::json;

json Document(const char* steps) {
  return {{"name", "t"},
          {"description", "a test"},
          {"processes", {{{"id", "p"}, {"exec", "disk-proc"}}}},
          {"devices", {{{"id", "d"}, {"socket", "d.sock"}, {"process", "p"}}}},
          {"steps", ParseJson(steps).value()}};
}

// The C library writes repetitions out: the second took 200 MB, and two of it take all there is.
TEST(PatternTest, RefusesWhatIsLarge) {
  for (const char* text : {"(a{1,100}){1,20}", "a{0,5000}", "a{99999999999999999999}"}) {
    EXPECT_FALSE(Pattern::Compile(text)) << text;
  }
  EXPECT_FALSE(Pattern::Compile(std::string(1001, 'a')));
  for (const char* text : {"^[a-z]{3,8}: x{2}$", "a{,9}", "a\\{b", ""}) {
    EXPECT_TRUE(Pattern::Compile(text)) << text;
  }
}

struct BadSteps {
  const char* steps;
  const char* sentence;
};
void PrintTo(const BadSteps& bad, std::ostream* out) { *out << bad.steps; }

class BadStepsTest : public testing::TestWithParam<BadSteps> {};

TEST_P(BadStepsTest, AreNamed) {
  const auto parsed = ParseScenario("s.json", Document(GetParam().steps));
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message, HasSubstr("s.json"));
  EXPECT_THAT(parsed.error().message, HasSubstr(GetParam().sentence));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadStepsTest,
    testing::Values(
        BadSteps{R"([{"bar.raed": {}}])", "did you mean 'bar.read'"},
        BadSteps{R"([{"bar.read": {"bar": 0}}])", "needs 'offset'"},
        BadSteps{R"([{"bar.read": {"bar": 0, "ofset": 4}}])", "ofset"},
        BadSteps{R"([{"bar.read": {"bar": "zero", "offset": 4}}])", "bar"},
        BadSteps{R"([{"bar.read": {"bar": 0, "offset": "$x"}}])", "x"},
        BadSteps{R"([{"bar.read": {"bar": 0, "offset": 0, "expect": {"valeu": 1}}}])", "valeu"},
        BadSteps{R"([{"bar.read": {"bar": 0, "offset": 0}, "bar.write": {}}])", "steps[0]"},
        BadSteps{R"([{"repeat": {"steps": [{"nvme.flush": {"nsid": "x"}}]}}])", "repeat.steps[0]"},
        BadSteps{R"(["nvme.enable"])", "steps[0]"}));

TEST(ScenarioTest, ADocumentWithoutANameIsRefused) {
  json document = Document("[]");
  document.erase("name");
  const auto parsed = ParseScenario("s.json", document);
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message, HasSubstr("name"));
}

TEST(ScenarioTest, OneModeNeedsAReason) {
  json document = Document("[]");
  document["modes"] = {"fd"};
  const auto parsed = ParseScenario("s.json", document);
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message, HasSubstr("reason"));
  document["reason"] = "because";
  EXPECT_TRUE(ParseScenario("s.json", document));
}

TEST(ScenarioTest, StepsThatNestTooDeepAreRefused) {
  json step = {{"wait", {{"us", 1}}}};
  for (size_t i = 0; i < kMaxStepDepth + 1; ++i) step = {{"repeat", {{"steps", {step}}}}};
  json document = Document("[]");
  document["steps"] = {step};
  EXPECT_FALSE(ParseScenario("s.json", document));
}

TEST(ScenarioTest, FilesThatAreNoneAreNamed) {
  for (const char* const path : {"/nonexistent/s.json", "/nonexistent/s.jsonnet", "/etc/passwd"}) {
    const auto loaded = LoadScenario(path);
    ASSERT_FALSE(loaded);
    EXPECT_THAT(loaded.error().message, HasSubstr(path));
  }
}

TEST(RunnerTest, AProgramThatIsNotThereFailsAndReachesBothReports) {
  json document = Document(R"([{"nvme.enable": {}}])");
  document["processes"][0]["exec"] = "no-such-program";
  const std::vector<Scenario> scenarios = {ParseScenario("s.json", document).value()};
  const auto results = RunScenarios(scenarios, {});
  ASSERT_EQ(results.size(), 1u);
  ASSERT_FALSE(results[0].passed());
  EXPECT_THAT(results[0].runs[0].failure->failure.message, HasSubstr("no-such-program"));
  EXPECT_THAT(JunitReport(results), HasSubstr("<failure"));
  EXPECT_THAT(JsonReport(results).dump(), HasSubstr("no-such-program"));
  EXPECT_THAT(SummaryText(results), HasSubstr("FAILED"));
}

TEST(RunnerTest, AProcessThatEndsAtOnceIsQuoted) {
  json document = Document("[]");
  document["processes"][0]["exec"] = "sh";
  document["processes"][0]["args"] = {"-c", "echo the image is missing; exit 3"};
  const std::vector<Scenario> scenarios = {ParseScenario("s.json", document).value()};
  const auto results = RunScenarios(scenarios, {});
  ASSERT_FALSE(results[0].passed());
  EXPECT_THAT(results[0].runs[0].failure->failure.message, HasSubstr("exited with status 3"));
}

}  // namespace
}  // namespace farside::scenario
