// The inputs that a target's corpus begins with.
#pragma once

#include <string>
#include <vector>

#include "fuzz/targets/target.h"

namespace farside::fuzz {

// Of sessions: the prologue, and each thing that the grammar makes up once, behind it. Of others:
// what their rows have. `source` is the root of Farside's source tree. The same every time.
std::vector<Seed> SeedsOf(const TargetDef& def, const std::string& source);

}  // namespace farside::fuzz
