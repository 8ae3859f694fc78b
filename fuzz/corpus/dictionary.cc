#include "fuzz/corpus/dictionary.h"

#include <fmt/format.h>

#include <set>
#include <vector>

namespace farside::fuzz {
namespace {

constexpr size_t kLongestWord = 64;  // What libFuzzer keeps of a word.

}  // namespace

std::string DictionaryWord(std::string_view word) {
  std::string text = "\"";
  for (const char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (byte < 0x20 || byte > 0x7e) {
      text += fmt::format("\\x{:02X}", byte);
    } else {
      text += c;
    }
  }
  return text + '"';
}

std::string DictionaryText(const TargetDef& def) {
  std::string text = fmt::format("# farside-fuzz dictionary {}\n", def.name);
  std::set<std::string> seen;
  const auto add = [&](std::string_view word, std::string_view note) {
    if (word.empty() || word.size() > kLongestWord || !seen.emplace(word).second) return;
    if (!note.empty()) text += fmt::format("# {}\n", note);
    text += DictionaryWord(word) + '\n';
  };
  if (def.facts.words != nullptr) {
    for (const std::string& word : def.facts.words()) add(word, "");
  }
  if (def.grammar == nullptr) return text;
  std::vector<Event> events;
  def.grammar().AddWords(&events);
  for (const Event& event : events) {
    const auto bytes = Encode({.flags = 0, .events = {event}});
    // Without the session's header.
    add({reinterpret_cast<const char*>(bytes.data()) + 1, bytes.size() - 1},
        def.grammar().Describe(event));
  }
  return text;
}

}  // namespace farside::fuzz
