#include "process/options.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/options.h"

namespace farside {
namespace {

using nlohmann::json;

// Keys nest no deeper than this, which bounds the recursion below.
constexpr size_t kMaxDepth = 16;

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

bool IsKeyPart(std::string_view text) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  return !text.empty() && text.find_first_not_of(kAllowed) == std::string_view::npos;
}

// Takes a value off the front of `rest`, up to a comma that is not doubled.
std::string TakeValue(std::string_view& rest) {
  std::string value;
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    value += rest.substr(0, comma);
    rest.remove_prefix(std::min(rest.size(), comma));
    if (!rest.starts_with(",,")) break;
    value += ',';
    rest.remove_prefix(2);
  }
  if (!rest.empty()) rest.remove_prefix(1);
  return value;
}

Result<void> Insert(json& root, std::string_view key, std::string value) {
  json* object = &root;
  std::string_view rest = key;
  for (size_t depth = 0;; ++depth) {
    const size_t dot = rest.find('.');
    const std::string part(rest.substr(0, dot));
    if (!IsKeyPart(part)) {
      return Fail("{} is no key: keys are letters, digits, '-' and '_' with dots between them",
                  Quote(key));
    }
    if (depth == kMaxDepth) {
      return Fail("key {} has more than {} parts: keys don't nest that deeply", Quote(key),
                  kMaxDepth);
    }
    const bool is_new = !object->contains(part);
    json& member = (*object)[part];
    if (dot == std::string_view::npos) {
      if (!is_new) return Fail("key {} is given twice: give it once", Quote(key));
      member = std::move(value);
      return {};
    }
    if (is_new) member = json::object();
    if (!member.is_object()) {
      return Fail("key {} is given beside its own part {}: a key has a value or parts, not both",
                  Quote(key), Quote(part));
    }
    object = &member;
    rest.remove_prefix(dot + 1);
  }
}

// Turns objects whose keys are 0, 1, 2, ... into arrays, from the leaves up.
Result<void> MakeLists(json& object, const std::string& path) {
  size_t numbers = 0;
  for (auto& [key, value] : object.items()) {
    if (IsDigits(key)) ++numbers;
    if (!value.is_object()) continue;
    if (auto ok = MakeLists(value, path.empty() ? key : path + "." + key); !ok) return ok;
  }
  if (numbers == 0) return {};
  if (path.empty())
    return Fail("a key begins with a number: only parts after a dot may be numbers");
  if (numbers != object.size()) {
    return Fail("key {} has both numbers and names as parts: a list has numbers only", Quote(path));
  }
  json list = json::array();
  for (size_t i = 0; i < numbers; ++i) {
    const auto item = object.find(std::to_string(i));
    if (item == object.end()) {
      return Fail("list {} has {} parts but no part {}: number them from 0 on", Quote(path),
                  numbers, i);
    }
    list.push_back(std::move(*item));
  }
  object = std::move(list);
  return {};
}

}  // namespace

Result<json> ParseOptionValue(std::string_view text, std::string_view implied_key) {
  if (text.starts_with('{')) return ParseJson(text);
  json options = json::object();
  std::string_view rest = text;
  bool first = true;
  while (!rest.empty()) {
    const size_t end = rest.find_first_of("=,");
    const std::string_view word = rest.substr(0, end);
    std::string key(word);
    std::string value;
    if (end != std::string_view::npos && rest[end] == '=') {
      rest.remove_prefix(end + 1);
      value = TakeValue(rest);
    } else if (first && !implied_key.empty()) {
      key = implied_key;
      value = TakeValue(rest);
    } else if (word == "help" || word == "?") {
      key = "help";
      value = "on";
      TakeValue(rest);
    } else {
      return Fail("{} has no value: write key=value, and double a comma that belongs to a value",
                  Quote(word));
    }
    first = false;
    if (auto ok = Insert(options, key, std::move(value)); !ok) return tl::unexpected(ok.error());
  }
  if (auto ok = MakeLists(options, ""); !ok) return tl::unexpected(ok.error());
  return options;
}

}  // namespace farside
