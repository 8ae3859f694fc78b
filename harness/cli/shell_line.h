// A line of the shell, as the step that a scenario would have.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace farside::cli {

// The words of a line. Quotes, '...' or "...", keep blanks and are taken off; brackets, [...] and
// {...}, keep blanks and stay. '#' at the start of a word ends the line.
struct Word {
  std::string text;
  bool quoted = false;  // From its first character: it is no key=value.
};
Result<std::vector<Word>> SplitLine(std::string_view line);

// `bar.read bar=0 offset=0x1c`, or `bar.read 0 0x1c` in the order of the verb's parameters; both
// may be mixed. Dots lead into objects: `expect.value=1 expect.mask=1`. Lists are JSON or
// `fds=a,b`. Null for a line without a word.
Result<nlohmann::json> ParseLine(std::string_view line);

}  // namespace farside::cli
