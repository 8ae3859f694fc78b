#include "harness/cli/shell_line.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/options.h"

namespace farside::cli {
namespace {

using json = nlohmann::json;

json Parsed(const char* line) { return ParseLine(line).value(); }
json J(const char* text) { return ParseJson(text).value(); }

TEST(ShellLineTest, ParametersComeByNameOrInTheirOrder) {
  const json wanted = J(R"({"bar.read": {"bar": "0", "offset": "0x1c"}})");
  EXPECT_EQ(Parsed("bar.read 0 0x1c"), wanted);
  EXPECT_EQ(Parsed("bar.read bar=0 offset=0x1c"), wanted);
  EXPECT_EQ(Parsed("  bar.read 0 offset=0x1c  # a comment"), wanted);
}

TEST(ShellLineTest, DotsLeadIntoObjects) {
  EXPECT_EQ(
      Parsed("bar.read 0 0 expect.value=1 expect.mask=3"),
      J(R"({"bar.read": {"bar": "0", "offset": "0", "expect": {"value": "1", "mask": "3"}}})"));
}

TEST(ShellLineTest, QuotedTextIsNoKey) {
  EXPECT_EQ(Parsed("log.expect 'a=b c'").begin().value().begin().value(), "a=b c");
}

TEST(ShellLineTest, ALineWithoutAWordIsNothing) {
  EXPECT_TRUE(Parsed("").is_null());
  EXPECT_TRUE(Parsed("   # only a comment").is_null());
}

TEST(ShellLineTest, WhatIsWrongIsSaid) {
  for (const char* const line : {"bar.raed 0", "bar.read 'open", "bar.read bar=0 bar=1",
                                 "bar.read [1", "bar.read 0 0 4 5 6 7 8 9"}) {
    const auto parsed = ParseLine(line);
    ASSERT_FALSE(parsed) << line;
    EXPECT_FALSE(parsed.error().message.empty());
  }
}

}  // namespace
}  // namespace farside::cli
