// Pattern: a regular expression, POSIX's extended kind (man 7 regex).
#pragma once

#include <regex.h>

#include <optional>
#include <string>
#include <string_view>

namespace farside::scenario {

class Pattern {
 public:
  // Nothing if `text` is none.
  static std::optional<Pattern> Compile(const std::string& text) {
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

  regex_t regex_{};
  bool compiled_ = false;
};

}  // namespace farside::scenario
