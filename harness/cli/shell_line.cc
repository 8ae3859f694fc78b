#include "harness/cli/shell_line.h"

#include <algorithm>

#include "base/options.h"
#include "harness/scenario/scenario.h"

namespace farside::cli {

using nlohmann::json;
using scenario::Param;
using scenario::Type;
using scenario::Verb;

namespace {

constexpr std::string_view kBlanks = " \t\r\n";
constexpr size_t kMaxLine = 16 << 20;

// Takes a quoted part off the front of `rest`, to `word`.
Result<void> TakeQuoted(std::string_view& rest, std::string* word) {
  const char quote = rest.front();
  const size_t end = rest.find(quote, 1);
  if (end == std::string_view::npos) return Fail("the quote {} has no end", quote);
  *word += rest.substr(1, end - 1);
  rest.remove_prefix(end + 1);
  return {};
}

// Takes [...] or {...} off the front of `rest`, to `word`; strings in it are JSON's.
Result<void> TakeBracketed(std::string_view& rest, std::string* word) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < rest.size(); ++i) {
    const char c = rest[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if ((c == ']' || c == '}') && --depth == 0) {
      *word += rest.substr(0, i + 1);
      rest.remove_prefix(i + 1);
      return {};
    }
  }
  return Fail("the bracket {} has no end", rest.front());
}

const Param* FindParam(const std::vector<Param>& params, std::string_view name) {
  const auto found = std::ranges::find(params, name, &Param::name);
  return found == params.end() ? nullptr : &*found;
}

// What a text stands for. Texts of scalars stay: the reader of parameters takes them so.
Result<json> ValueOf(const Param* param, const std::string& text) {
  const bool is_list =
      param != nullptr && (param->type == Type::kNumbers || param->type == Type::kTexts);
  const bool is_json =
      param != nullptr && (param->type == Type::kRecords || param->type == Type::kRecord ||
                           param->type == Type::kSteps || param->type == Type::kUntil);
  const bool bracketed = text.starts_with('[') || text.starts_with('{');
  if (bracketed && (param == nullptr || param->type != Type::kText)) return ParseJson(text);
  if (is_json) return Fail("{}: write JSON: [{{...}}]", param->name);
  if (!is_list) return json(text);
  json list = json::array();
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    list.push_back(std::string(item));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
  }
  return list;
}

// Puts `value` where a path with dots leads.
Result<void> Insert(json& params, std::string_view path, json value) {
  json* at = &params;
  for (;;) {
    const size_t dot = path.find('.');
    json& member = (*at)[std::string(path.substr(0, dot))];
    if (dot == std::string_view::npos) {
      if (!member.is_null()) return Fail("'{}' is given twice", path);
      member = std::move(value);
      return {};
    }
    if (!member.is_null() && !member.is_object()) return Fail("'{}' is given twice", path);
    at = &member;
    path.remove_prefix(dot + 1);
  }
}

bool IsKey(std::string_view text) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789_.";
  return !text.empty() && text.find_first_not_of(kAllowed) == std::string_view::npos;
}

}  // namespace

Result<std::vector<Word>> SplitLine(std::string_view line) {
  if (line.size() > kMaxLine) return Fail("the line has more than {} bytes", kMaxLine);
  std::vector<Word> words;
  for (;;) {
    line.remove_prefix(std::min(line.size(), line.find_first_not_of(kBlanks)));
    if (line.empty() || line.front() == '#') return words;
    Word word{.text = {}, .quoted = line.front() == '\'' || line.front() == '"'};
    while (!line.empty() && kBlanks.find(line.front()) == std::string_view::npos) {
      Result<void> taken;
      if (line.front() == '\'' || line.front() == '"') {
        taken = TakeQuoted(line, &word.text);
      } else if (line.front() == '[' || line.front() == '{') {
        taken = TakeBracketed(line, &word.text);
      } else {
        word.text += line.front();
        line.remove_prefix(1);
      }
      if (!taken) return tl::unexpected(taken.error());
    }
    words.push_back(std::move(word));
  }
}

Result<json> ParseLine(std::string_view line) {
  const auto words = SplitLine(line);
  if (!words) return tl::unexpected(words.error());
  if (words->empty()) return json();
  const std::string& name = words->front().text;
  const Verb* const verb = scenario::FindVerb(name);
  if (verb == nullptr) return tl::unexpected(scenario::NoSuchVerb(name));
  const std::vector<Param> params = scenario::AllParams(*verb);
  json given = json::object();
  size_t next = 0;  // Among verb->params, for a word without a key.
  for (size_t i = 1; i < words->size(); ++i) {
    const Word& word = (*words)[i];
    const size_t equals = word.quoted ? std::string::npos : word.text.find('=');
    std::string key = equals == std::string::npos ? "" : word.text.substr(0, equals);
    std::string text = word.text;
    if (IsKey(key)) {
      text = word.text.substr(equals + 1);
    } else {
      while (next < verb->params.size() && given.contains(verb->params[next].name)) ++next;
      if (next == verb->params.size()) {
        return Fail("{} takes no more than {} parameters; what is {}?", name, next, Quote(text));
      }
      key = verb->params[next].name;
    }
    auto value = ValueOf(FindParam(params, key), text);
    if (!value) return tl::unexpected(value.error());
    if (const auto ok = Insert(given, key, std::move(*value)); !ok)
      return tl::unexpected(ok.error());
  }
  return json{{name, std::move(given)}};
}

}  // namespace farside::cli
