// Pattern: a regular expression, POSIX's extended kind (man 7 regex).
#pragma once

#include <regex.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace farside::scenario {

class Pattern {
 public:
  static constexpr size_t kMaxSize = 1000;          // Characters.
  static constexpr uint64_t kMaxRepetition = 1000;  // All counts of repetitions, multiplied.

  // Nothing if `text` is none, or too large: the C library writes repetitions out, and takes memory
  // by the square of what comes of it.
  static std::optional<Pattern> Compile(const std::string& text) {
    if (text.size() > kMaxSize || Repetition(text) > kMaxRepetition) return std::nullopt;
    Pattern out;
    if (regcomp(&out.regex_, text.c_str(), REG_EXTENDED | REG_NEWLINE) != 0) return std::nullopt;
    out.compiled_ = true;
    return out;
  }
  Pattern(Pattern&& other) noexcept : regex_(other.regex_), compiled_(other.compiled_) {
    other.compiled_ = false;
  }
  Pattern& operator=(Pattern&&) = delete;
  ~Pattern() {
    if (compiled_) regfree(&regex_);
  }

  // True if some part of `text` matches.
  bool Finds(std::string_view text) const {
    regmatch_t range{.rm_so = 0, .rm_eo = static_cast<regoff_t>(text.size())};
    return regexec(&regex_, text.data(), 1, &range, REG_STARTEND) == 0;
  }

 private:
  Pattern() = default;

  // The product of the numbers that stand behind braces and commas: at least what is multiplied.
  static uint64_t Repetition(std::string_view text) {
    uint64_t product = 1;
    for (size_t at = 0; (at = text.find('{', at)) != std::string_view::npos;) {
      uint64_t largest = 1;
      uint64_t number = 0;
      for (++at; at < text.size() && (text[at] == ',' || (text[at] >= '0' && text[at] <= '9'));
           ++at) {
        number = text[at] == ',' ? 0 : number * 10 + static_cast<uint64_t>(text[at] - '0');
        largest = number > largest ? number : largest;
        if (largest > kMaxRepetition) return largest;
      }
      product *= largest;
      if (product > kMaxRepetition) return product;
    }
    return product;
  }

  regex_t regex_{};
  bool compiled_ = false;
};

}  // namespace farside::scenario
