#include "process/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace farside {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Parse(std::string_view text, std::string_view implied_key = "driver") {
  auto parsed = ParseOptionValue(text, implied_key);
  return parsed ? *parsed : json(parsed.error().message);
}

std::string ErrorOf(std::string_view text, std::string_view implied_key = "driver") {
  const auto parsed = ParseOptionValue(text, implied_key);
  return parsed ? "" : parsed.error().message;
}

TEST(ParseOptionValue, SplitsPairs) {
  EXPECT_EQ(Parse("driver=nvme,id=nvme0,drive=drive0"),
            json({{"driver", "nvme"}, {"id", "nvme0"}, {"drive", "drive0"}}));
  EXPECT_EQ(Parse("", ""), json::object());
  EXPECT_EQ(Parse("serial=,id=a"), json({{"serial", ""}, {"id", "a"}}));
  EXPECT_EQ(Parse("path=a=b"), json({{"path", "a=b"}})) << "only the first '=' splits";
}

TEST(ParseOptionValue, ImpliesTheFirstKey) {
  EXPECT_EQ(Parse("nvme,id=nvme0"), json({{"driver", "nvme"}, {"id", "nvme0"}}));
  EXPECT_EQ(Parse("help"), json({{"driver", "help"}}));
  EXPECT_EQ(Parse("nvme,help"), json({{"driver", "nvme"}, {"help", "on"}}));
}

TEST(ParseOptionValue, ADoubledCommaIsAComma) {
  EXPECT_EQ(Parse("filename=a,,b.img,node-name=n"),
            json({{"filename", "a,b.img"}, {"node-name", "n"}}));
  EXPECT_EQ(Parse("filename=a,,,node-name=n"), json({{"filename", "a,"}, {"node-name", "n"}}));
  EXPECT_EQ(Parse("filename=,,,,"), json({{"filename", ",,"}}));
  EXPECT_EQ(Parse("a,,b,id=x"), json({{"driver", "a,b"}, {"id", "x"}}));
}

TEST(ParseOptionValue, NestsByDots) {
  EXPECT_EQ(
      Parse("cache.direct=on,file.driver=file,file.filename=/x,file.cache.direct=off"),
      json({{"cache", {{"direct", "on"}}},
            {"file", {{"driver", "file"}, {"filename", "/x"}, {"cache", {{"direct", "off"}}}}}}));
}

TEST(ParseOptionValue, NumbersMakeLists) {
  EXPECT_EQ(Parse("a.1=y,a.0=x"), json({{"a", {"x", "y"}}}));
  EXPECT_EQ(Parse("a.0.b=x,a.1.b=y"), json({{"a", {{{"b", "x"}}, {{"b", "y"}}}}}));
}

TEST(ParseOptionValue, ABraceBeginsJson) {
  EXPECT_EQ(Parse(R"({"driver": "nvme", "cache": {"direct": true}})"),
            json({{"driver", "nvme"}, {"cache", {{"direct", true}}}}));
  EXPECT_THAT(ErrorOf(R"({"driver": )"), HasSubstr("broken JSON"));
}

TEST(ParseOptionValue, SaysWhatIsWrong) {
  EXPECT_THAT(ErrorOf("nvme", ""), HasSubstr("\"nvme\" has no value: write key=value"));
  EXPECT_THAT(ErrorOf("driver=nvme,drive"), HasSubstr("\"drive\" has no value"));
  EXPECT_THAT(ErrorOf("driver=a,driver=b"), HasSubstr("\"driver\" is given twice"));
  EXPECT_THAT(ErrorOf("nvme,driver=b"), HasSubstr("\"driver\" is given twice"));
  EXPECT_THAT(ErrorOf("cache=x,cache.direct=on"), HasSubstr("a value or parts, not both"));
  EXPECT_THAT(ErrorOf("cache.direct=on,cache=x"), HasSubstr("given twice"));
  EXPECT_THAT(ErrorOf("=x"), HasSubstr("\"\" is no key"));
  EXPECT_THAT(ErrorOf("a..b=x"), HasSubstr("is no key"));
  EXPECT_THAT(ErrorOf("a b=x"), HasSubstr("is no key"));
  EXPECT_THAT(ErrorOf("a.0=x,a.2=y"), HasSubstr("has 2 parts but no part 1"));
  EXPECT_THAT(ErrorOf("a.0=x,a.b=y"), HasSubstr("both numbers and names"));
  EXPECT_THAT(ErrorOf("0=x"), HasSubstr("begins with a number"));
  std::string deep = "a";
  for (int i = 0; i < 20; ++i) deep += ".a";
  EXPECT_THAT(ErrorOf(deep + "=x"), HasSubstr("more than 16 parts"));
}

}  // namespace
}  // namespace farside
