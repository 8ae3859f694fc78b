// OptionReader: typed access to the options of one -blockdev, -device or -object, whether they came
// as JSON or as key=value text, in which every value is a string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace farside {

// Parses JSON that nests at most 64 deep; the error says where it is broken.
Result<nlohmann::json> ParseJson(std::string_view text);

// Parses a size: bytes (decimal, or 0x and hexadecimal), or a decimal number of K, M, G, T, P or E,
// which are powers of 1024 in either case.
std::optional<uint64_t> ParseSize(std::string_view text);

// `text` as it may stand in an error or a log line: in double quotes, escaped, at most about 80
// bytes of it.
std::string Quote(std::string_view text);

// One word of an option's values and what it stands for.
template <typename Enum>
using OptionWord = std::pair<std::string_view, Enum>;

// Reads the members of one JSON object. A key is a path: "cache.direct" is {"cache": {"direct":
// ...}}.
//
// Each getter takes the value as JSON has it or as text: true or "on", 65536 or "64K". A getter
// that finds no value or a wrong one returns its fallback (or an empty value), and the first such
// error is kept for Finish(). So a function asks for everything it knows, calls Finish() once, and
// only then acts:
//
//   OptionReader options("node 'd0'", json);
//   const std::string filename = options.RequiredString("filename");
//   const bool direct = options.Bool("cache.direct", false);
//   if (auto ok = options.Finish(); !ok) return tl::unexpected(ok.error());
//
// The keys asked for are the keys that are allowed.
class OptionReader {
 public:
  // `owner` begins every error. `options` stays the caller's and outlives the reader.
  OptionReader(std::string owner, const nlohmann::json& options);

  std::string RequiredString(std::string_view key);
  std::string String(std::string_view key, std::string_view fallback);
  bool Bool(std::string_view key, bool fallback);
  uint64_t RequiredSize(std::string_view key);
  uint64_t Size(std::string_view key, uint64_t fallback);
  // A number from `min` to `max`; text may be decimal, or 0x and hexadecimal.
  uint64_t Number(std::string_view key, uint64_t fallback, uint64_t min, uint64_t max);

  // One of `words`.
  template <typename Enum, size_t kCount>
  Enum Choice(std::string_view key, const OptionWord<Enum> (&words)[kCount], Enum fallback) {
    std::string_view names[kCount];
    for (size_t i = 0; i < kCount; ++i) names[i] = words[i].first;
    const auto index = ChoiceIndex(key, names);
    return index ? words[*index].second : fallback;
  }

  // The value as it is, with all that is below it, or null.
  const nlohmann::json* Value(std::string_view key);

  const std::string& owner() const { return owner_; }

  // Adds an error of the caller's own: `what` follows the owner and a colon.
  void AddError(std::string what);

  // An unknown key, or else the first error.
  Result<void> Finish() const;

 private:
  const nlohmann::json* Ask(std::string_view key);
  void WrongValue(std::string_view key, const nlohmann::json& value, std::string_view wanted);
  void Missing(std::string_view key);
  std::optional<uint64_t> AskSize(std::string_view key);
  std::optional<size_t> ChoiceIndex(std::string_view key, std::span<const std::string_view> names);
  std::optional<std::string> Unknown(const nlohmann::json& object, const std::string& prefix) const;

  std::string owner_;
  const nlohmann::json& options_;
  std::vector<std::string> asked_;  // In the order of asking.
  std::optional<std::string> error_;
};

}  // namespace farside
