#include "base/options.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

namespace farside {
namespace {

using nlohmann::json;

std::string Shorten(std::string text) {
  constexpr size_t kMost = 80;
  if (text.size() > kMost) {
    // Not in the middle of a character.
    size_t size = kMost;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
    text.resize(size);
    text += "...";
  }
  return text;
}

std::string Show(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return Shorten(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

// True if brackets in `text` nest deeper than any input of ours does. The library recurses when it
// copies, and a hostile text must not use up the stack.
bool NestsTooDeeply(std::string_view text) {
  constexpr size_t kMaxDepth = 64;
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (in_string) {
      continue;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      if (depth > 0) --depth;
    }
  }
  return false;
}

// Decimal, or 0x and hexadecimal, and nothing after it.
std::optional<uint64_t> ParseNumber(std::string_view text) {
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// A JSON number that is whole and not negative.
std::optional<uint64_t> UnsignedOf(const json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (value.is_number_integer() && value.get<int64_t>() >= 0) return value.get<uint64_t>();
  return std::nullopt;
}

std::optional<bool> ParseBool(std::string_view text) {
  if (text == "on" || text == "yes" || text == "true") return true;
  if (text == "off" || text == "no" || text == "false") return false;
  return std::nullopt;
}

}  // namespace

Result<json> ParseJson(std::string_view text) {
  if (NestsTooDeeply(text)) return Fail("broken JSON: objects and lists nest deeper than 64");
  // The library tells where a text is broken only by an exception: it ends here.
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    std::string_view what = error.what();
    what.remove_prefix(std::min(what.size(), what.find("] ") + 2));
    return Fail("broken JSON: {}", Shorten(std::string(what)));
  } catch (const json::exception& error) {
    return Fail("broken JSON: {}", Shorten(error.what()));
  }
}

std::optional<uint64_t> ParseSize(std::string_view text) {
  if (const auto bytes = ParseNumber(text)) return bytes;
  constexpr std::string_view kSuffixes = "KMGTPE";
  if (text.size() < 2) return std::nullopt;
  const char suffix = static_cast<char>(text.back() & ~0x20);  // Upper case.
  const size_t power = kSuffixes.find(suffix);
  const std::string_view digits = text.substr(0, text.size() - 1);
  if (power == std::string_view::npos || digits.starts_with("0x")) return std::nullopt;
  const auto count = ParseNumber(digits);
  const auto shift = static_cast<unsigned>(10 * (power + 1));
  if (!count || *count > UINT64_MAX >> shift) return std::nullopt;
  return *count << shift;
}

std::string Quote(std::string_view text) { return Show(json(std::string(text.substr(0, 256)))); }

OptionReader::OptionReader(std::string owner, const json& options)
    : owner_(std::move(owner)), options_(options) {
  if (!options_.is_object())
    AddError("the options are not a JSON object: write {\"key\": value, ...}");
}

const json* OptionReader::Ask(std::string_view key) {
  if (std::find(asked_.begin(), asked_.end(), key) == asked_.end()) asked_.emplace_back(key);
  const json* object = &options_;
  while (object->is_object()) {
    const size_t dot = key.find('.');
    const auto member = object->find(std::string(key.substr(0, dot)));
    if (member == object->end()) return nullptr;
    if (dot == std::string_view::npos) return &*member;
    object = &*member;
    key.remove_prefix(dot + 1);
  }
  return nullptr;
}

void OptionReader::AddError(std::string what) {
  if (!error_) error_ = std::move(what);
}

void OptionReader::WrongValue(std::string_view key, const json& value, std::string_view wanted) {
  AddError(fmt::format("option '{}' is {}: it must be {}", key, Show(value), wanted));
}

void OptionReader::Missing(std::string_view key) {
  AddError(fmt::format("option '{}' is missing: add it", key));
}

std::string OptionReader::RequiredString(std::string_view key) {
  std::string value = String(key, "");
  if (value.empty()) Missing(key);
  return value;
}

std::string OptionReader::String(std::string_view key, std::string_view fallback) {
  const json* value = Ask(key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  WrongValue(key, *value, "a string");
  return std::string(fallback);
}

bool OptionReader::Bool(std::string_view key, bool fallback) {
  const json* value = Ask(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_string()) {
    if (const auto parsed = ParseBool(value->get_ref<const std::string&>())) return *parsed;
  }
  WrongValue(key, *value, "on or off");
  return fallback;
}

std::optional<uint64_t> OptionReader::AskSize(std::string_view key) {
  const json* value = Ask(key);
  if (value == nullptr) return std::nullopt;
  if (const auto number = UnsignedOf(*value)) return number;
  if (value->is_string()) {
    if (const auto parsed = ParseSize(value->get_ref<const std::string&>())) return parsed;
  }
  WrongValue(key, *value, "a whole number of bytes, or of K, M, G or T, as in 64M");
  return std::nullopt;
}

uint64_t OptionReader::RequiredSize(std::string_view key) {
  const auto size = AskSize(key);
  if (!size) Missing(key);
  return size.value_or(0);
}

uint64_t OptionReader::Size(std::string_view key, uint64_t fallback) {
  return AskSize(key).value_or(fallback);
}

uint64_t OptionReader::Number(std::string_view key, uint64_t fallback, uint64_t min, uint64_t max) {
  const json* value = Ask(key);
  if (value == nullptr) return fallback;
  std::optional<uint64_t> number = UnsignedOf(*value);
  if (value->is_string()) number = ParseNumber(value->get_ref<const std::string&>());
  if (number && *number >= min && *number <= max) return *number;
  WrongValue(key, *value, fmt::format("a whole number from {} to {}", min, max));
  return fallback;
}

std::optional<size_t> OptionReader::ChoiceIndex(std::string_view key,
                                                std::span<const std::string_view> names) {
  const json* value = Ask(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) {
    const auto found = std::find(names.begin(), names.end(), value->get_ref<const std::string&>());
    if (found != names.end()) return static_cast<size_t>(found - names.begin());
  }
  WrongValue(key, *value, fmt::format("one of {}", fmt::join(names, ", ")));
  return std::nullopt;
}

const json* OptionReader::Value(std::string_view key) { return Ask(key); }

// The first member of `object` that nobody asked for, as an error. No deeper than what was asked
// for, whatever the depth of the input.
std::optional<std::string> OptionReader::Unknown(const json& object,
                                                 const std::string& prefix) const {
  for (const auto& [key, value] : object.items()) {
    const std::string path = prefix + key;
    const std::string group = path + ".";
    if (std::find(asked_.begin(), asked_.end(), path) != asked_.end()) continue;
    const bool is_group = std::any_of(asked_.begin(), asked_.end(), [&](const std::string& asked) {
      return asked.starts_with(group);
    });
    if (!is_group) {
      return fmt::format("there is no option {}: use one of {}", Quote(path),
                         fmt::join(asked_, ", "));
    }
    if (!value.is_object()) {
      return fmt::format("option '{}' is {}: it must be an object of options", path, Show(value));
    }
    if (auto error = Unknown(value, group)) return error;
  }
  return std::nullopt;
}

Result<void> OptionReader::Finish() const {
  // What is unknown comes first: it explains what is missing, too.
  if (options_.is_object()) {
    if (const auto unknown = Unknown(options_, "")) {
      return FailWith(EINVAL, "{}: {}", owner_, *unknown);
    }
  }
  if (error_) return FailWith(EINVAL, "{}: {}", owner_, *error_);
  return {};
}

}  // namespace farside
