// A target's dictionary, in the syntax that libFuzzer and AFL++ share.
#pragma once

#include <string>

#include "fuzz/targets/target.h"

namespace farside::fuzz {

// A word a line: of sessions, encoded events; of others, what their rows name.
std::string DictionaryText(const TargetDef& def);

// `word` as a line's value, quotes around it: "\"a\\x00\"".
std::string DictionaryWord(std::string_view word);

}  // namespace farside::fuzz
