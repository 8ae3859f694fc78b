// What the table of verbs says of itself to people.
#pragma once

#include <string>

#include "harness/scenario/verb.h"

namespace farside::cli {

// A line for each verb, groups apart.
std::string VerbList();
// A verb's parameters and outputs.
std::string VerbHelp(const scenario::Verb& verb);

}  // namespace farside::cli
