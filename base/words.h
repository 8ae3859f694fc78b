// Words of a command line that was given as one text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace farside {

// Splits at blanks; '...' and "..." keep them. An Error for a quote that is not closed.
Result<std::vector<std::string>> SplitWords(std::string_view text);

}  // namespace farside
