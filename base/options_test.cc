#include "base/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace farside {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(ParseSize, TakesBytesAndPowersOf1024) {
  EXPECT_EQ(ParseSize("0"), 0u);
  EXPECT_EQ(ParseSize("4096"), 4096u);
  EXPECT_EQ(ParseSize("0x1000"), 4096u);
  EXPECT_EQ(ParseSize("64K"), 65536u);
  EXPECT_EQ(ParseSize("64k"), 65536u);
  EXPECT_EQ(ParseSize("1M"), 1u << 20);
  EXPECT_EQ(ParseSize("3G"), 3ull << 30);
  EXPECT_EQ(ParseSize("2T"), 2ull << 40);
  EXPECT_EQ(ParseSize("15E"), 15ull << 60);
  EXPECT_EQ(ParseSize("18446744073709551615"), UINT64_MAX);
}

TEST(ParseSize, RefusesEverythingElse) {
  for (const char* text : {"", "K", "-1", "+1", " 1", "1 ", "1.5G", "64Q", "64KK", "0x", "0x1K",
                           "16E", "18446744073709551616", "1K1"}) {
    EXPECT_EQ(ParseSize(text), std::nullopt) << text;
  }
}

TEST(ParseJson, SaysWhereATextIsBroken) {
  EXPECT_EQ(ParseJson(R"({"a": 1})")->at("a"), 1);
  EXPECT_THAT(ParseJson(R"({"a": )").error().message, HasSubstr("column 7"));
  EXPECT_THAT(ParseJson("{\"a\": \"\xff\"}").error().message, HasSubstr("broken JSON"));
}

TEST(ParseJson, RefusesWhatWouldUseUpTheStack) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(ParseJson(deep).error().message, HasSubstr("deeper than 64"));
  EXPECT_TRUE(ParseJson(std::string(64, '[') + std::string(64, ']')));
  // Brackets in a string are text, also after an escaped quote.
  EXPECT_TRUE(ParseJson("[\"\\\"" + std::string(100, '[') + "\"]"));
}

TEST(Quote, IsShortAndPrintable) {
  EXPECT_EQ(Quote("d0"), "\"d0\"");
  EXPECT_EQ(Quote("a\nb"), "\"a\\nb\"");
  EXPECT_LT(Quote(std::string(10'000, 'x')).size(), 100u);
  EXPECT_EQ(Quote("\xff"), "\"\xef\xbf\xbd\"");
}

TEST(OptionReader, TakesJsonTypesAndText) {
  const json typed = {{"s", "x"}, {"b", true}, {"z", 65536}, {"n", 7}};
  const json text = {{"s", "x"}, {"b", "on"}, {"z", "64K"}, {"n", "0x7"}};
  for (const json& options : {typed, text}) {
    OptionReader reader("node 'd0'", options);
    EXPECT_EQ(reader.RequiredString("s"), "x");
    EXPECT_TRUE(reader.Bool("b", false));
    EXPECT_EQ(reader.RequiredSize("z"), 65536u);
    EXPECT_EQ(reader.Number("n", 0, 1, 7), 7u);
    EXPECT_TRUE(reader.Finish());
  }
}

TEST(OptionReader, GivesFallbacksForWhatIsAbsent) {
  const json options = json::object();
  OptionReader reader("node 'd0'", options);
  EXPECT_EQ(reader.String("s", "default"), "default");
  EXPECT_TRUE(reader.Bool("b", true));
  EXPECT_EQ(reader.Size("z", 512), 512u);
  EXPECT_EQ(reader.Number("n", 3, 1, 7), 3u);
  EXPECT_EQ(reader.Value("file"), nullptr);
  EXPECT_TRUE(reader.Finish());
}

enum class Colour { kRed, kGreen };
constexpr OptionWord<Colour> kColours[] = {{"red", Colour::kRed}, {"green", Colour::kGreen}};

TEST(OptionReader, ChoosesAWord) {
  const json options = {{"colour", "green"}, {"other", "blue"}};
  OptionReader reader("node 'd0'", options);
  EXPECT_EQ(reader.Choice("colour", kColours, Colour::kRed), Colour::kGreen);
  EXPECT_EQ(reader.Choice("absent", kColours, Colour::kGreen), Colour::kGreen);
  EXPECT_EQ(reader.Choice("other", kColours, Colour::kRed), Colour::kRed);
  EXPECT_EQ(reader.Finish().error().message,
            "node 'd0': option 'other' is \"blue\": it must be one of red, green");
}

TEST(OptionReader, ReadsNestedKeys) {
  const json options = {{"cache", {{"direct", "on"}}}, {"file", {{"any", {{"thing", 1}}}}}};
  OptionReader reader("node 'd0'", options);
  EXPECT_TRUE(reader.Bool("cache.direct", false));
  EXPECT_FALSE(reader.Bool("cache.no-flush", false));
  EXPECT_EQ(*reader.Value("file"), options["file"]);
  EXPECT_TRUE(reader.Finish()) << "what is below a Value() is its reader's affair";
}

// What Finish() says about `options` after a caller asked for "filename" and "cache.direct".
std::string ErrorOf(const json& options) {
  OptionReader reader("node 'd0'", options);
  reader.RequiredString("filename");
  reader.Bool("cache.direct", false);
  const auto result = reader.Finish();
  return result ? "" : result.error().message;
}

TEST(OptionReader, NamesAnUnknownKeyAndTheAllowedOnes) {
  EXPECT_EQ(ErrorOf({{"filenam", "x"}}),
            "node 'd0': there is no option \"filenam\": use one of filename, cache.direct");
  EXPECT_EQ(ErrorOf({{"filename", "x"}, {"cache", {{"dircet", true}}}}),
            "node 'd0': there is no option \"cache.dircet\": use one of filename, cache.direct");
}

TEST(OptionReader, NamesAMissingKeyAndAWrongType) {
  EXPECT_EQ(ErrorOf(json::object()), "node 'd0': option 'filename' is missing: add it");
  EXPECT_EQ(ErrorOf({{"filename", 1}}), "node 'd0': option 'filename' is 1: it must be a string");
  EXPECT_EQ(ErrorOf({{"filename", "x"}, {"cache", {{"direct", 2}}}}),
            "node 'd0': option 'cache.direct' is 2: it must be on or off");
  EXPECT_EQ(ErrorOf({{"filename", "x"}, {"cache", "none"}}),
            "node 'd0': option 'cache' is \"none\": it must be an object of options");
  EXPECT_THAT(ErrorOf(json::array()), HasSubstr("not a JSON object"));
}

TEST(OptionReader, RefusesSizesAndNumbersThatAreNone) {
  for (const json& bad : std::initializer_list<json>{-1, 1.5, "1.5G", "", true, nullptr}) {
    const json options = {{"size", bad}, {"n", bad}};
    OptionReader size("node 'd0'", options);
    size.Size("size", 0);
    size.Value("n");
    EXPECT_THAT(size.Finish().error().message, HasSubstr("as in 64M")) << bad;
    OptionReader number("node 'd0'", options);
    number.Value("size");
    number.Number("n", 0, 0, 9);
    EXPECT_THAT(number.Finish().error().message, HasSubstr("a whole number from 0 to 9")) << bad;
  }
  const json options = {{"n", 10}};
  OptionReader reader("node 'd0'", options);
  EXPECT_EQ(reader.Number("n", 5, 0, 9), 5u);
  EXPECT_FALSE(reader.Finish());
}

TEST(OptionReader, KeepsTheCallersOwnErrorBehindEarlierOnes) {
  const json options = json::object();
  OptionReader reader("node 'd0'", options);
  reader.AddError("size is odd: make it even");
  reader.RequiredString("filename");
  EXPECT_EQ(reader.Finish().error().message, "node 'd0': size is odd: make it even");
}

}  // namespace
}  // namespace farside
