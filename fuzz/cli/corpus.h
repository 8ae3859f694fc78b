// The commands of farside-fuzz that corpora and dictionaries come from.
#pragma once

#include <string>

#include "fuzz/targets/target.h"

namespace farside::fuzz {

// `farside-fuzz dictionary TARGET`: prints it. The exit status.
int PrintDictionary(const TargetDef& def);
// `farside-fuzz seeds TARGET DIR [SOURCE]`: a file a seed.
int WriteSeeds(const TargetDef& def, const std::string& directory, const std::string& source);

}  // namespace farside::fuzz
