// farside-fuzz cpp: an input as a GoogleTest that plays it on its target. The session stands in it
// as the JSON of `show`, so that it can be read and edited; `pack` takes it out again.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "fuzz/cli/cli.h"
#include "fuzz/parsers/parsers.h"
#include "fuzz/session/text.h"

namespace farside::fuzz {
namespace {

constexpr std::string_view kBegin = "R\"json(";
constexpr std::string_view kEnd = ")json\"";

// "oracle-reset-1f" as "OracleReset1f".
std::string CamelCase(std::string_view name) {
  std::string out;
  bool upper = true;
  for (const char c : name) {
    const auto letter = static_cast<unsigned char>(c);
    if (std::isalnum(letter) == 0) {
      upper = true;
      continue;
    }
    out += static_cast<char>(upper ? std::toupper(letter) : c);
    upper = false;
  }
  return out.empty() || std::isdigit(static_cast<unsigned char>(out[0])) != 0 ? "Input" + out : out;
}

std::string SnakeCase(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const auto letter = static_cast<unsigned char>(c);
    out += std::isalnum(letter) != 0 ? static_cast<char>(std::tolower(letter)) : '_';
  }
  return out;
}

bool IsParser(const TargetDef& def) {
  const auto rows = ParserTargets();
  return std::ranges::any_of(rows, [&](const TargetDef& row) { return row.name == def.name; });
}

std::string Header(const TargetDef& def, const std::string& name, bool parser) {
  return fmt::format(
      "// What a fuzzer found: the target {0} ends this process by an oracle or a sanitizer where "
      "the\n"
      "// bug is there. Made by `farside-fuzz cpp`. To be a part of the tests it wants these lines "
      "in\n"
      "// fuzz/CMakeLists.txt:\n"
      "//   farside_test(fuzz_{1}_test SOURCES targets/{1}_test.cc DEPS farside_fuzz{2})\n"
      "#include <gtest/gtest.h>\n\n",
      def.name, SnakeCase(name), parser ? "_parsers" : "");
}

std::string SessionTest(const TargetDef& def, const std::string& name, ConstBytes input) {
  Session session;
  Decode(input, &session);
  const bool parser = IsParser(def);
  return fmt::format(
      "{}{}#include \"fuzz/session/text.h\"\n"
      "#include \"fuzz/targets/target.h\"\n\n"
      "namespace farside::fuzz {{\nnamespace {{\n\n"
      "// clang-format off\nconstexpr std::string_view kSession = {}{}{};\n// clang-format on\n\n"
      "TEST(Fuzzed, {}) {{\n"
      "{}  Store store;\n"
      "  const auto session = ParseSession(kSession, store);\n"
      "  ASSERT_TRUE(session) << session.error().message;\n"
      "  FindTarget(session->target)->make()->Run(Encode(session->session));\n"
      "}}\n\n}}  // namespace\n}}  // namespace farside::fuzz\n",
      Header(def, name, parser), parser ? "#include \"fuzz/parsers/parsers.h\"\n" : "", kBegin,
      FormatSession(def.name, session), kEnd, CamelCase(name),
      parser ? "  AddParserTargets();\n" : "");
}

std::string BytesTest(const TargetDef& def, const std::string& name, ConstBytes input) {
  std::string bytes;
  for (size_t i = 0; i < input.size(); ++i) {
    bytes +=
        fmt::format("{}{:#04x},", i % 16 == 0 ? "\n    " : " ", static_cast<uint8_t>(input[i]));
  }
  const bool parser = IsParser(def);
  return fmt::format(
      "{}#include <cstdint>\n#include <vector>\n\n"
      "{}#include \"fuzz/targets/target.h\"\n\n"
      "namespace farside::fuzz {{\nnamespace {{\n\n"
      "TEST(Fuzzed, {}) {{\n"
      "  const std::vector<uint8_t> input = {{{}}};\n"
      "{}"
      "  FindTarget(\"{}\")->make()->Run(std::as_bytes(std::span(input)));\n"
      "}}\n\n}}  // namespace\n}}  // namespace farside::fuzz\n",
      Header(def, name, parser), parser ? "#include \"fuzz/parsers/parsers.h\"\n" : "",
      CamelCase(name), bytes, parser ? "  AddParserTargets();\n" : "", def.name);
}

}  // namespace

std::string_view SessionText(std::string_view text) {
  const size_t begin = text.find(kBegin);
  if (begin == std::string_view::npos) return text;
  text.remove_prefix(begin + kBegin.size());
  return text.substr(0, text.find(kEnd));
}

int MakeCpp(const TargetDef& def, const std::string& input, const std::string& output) {
  const auto bytes = ReadFile(input);
  if (!bytes) return BadUsage(bytes.error().message);
  const std::string name = std::filesystem::path(input).stem().string();
  const std::string text =
      def.grammar == nullptr ? BytesTest(def, name, *bytes) : SessionTest(def, name, *bytes);
  if (auto wrote = WriteFile(output, std::as_bytes(std::span(text))); !wrote) {
    return BadUsage(wrote.error().message);
  }
  fmt::print("{}: a test of {}; its first lines say where it goes\n", output, def.name);
  return kOk;
}

}  // namespace farside::fuzz
