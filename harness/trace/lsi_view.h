// Names of what an LSI53C895A's guest accesses.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"

namespace farside::trace {

// "DSP", "DSP+1" for a part of a register, "SCRIPTS RAM+0x10"; empty for what has no name.
std::string LsiPlaceName(uint32_t region, uint64_t offset);
// " SIGP SIP": the bits that are set in a register, where they are known.
std::string LsiFieldsText(uint32_t region, uint64_t offset, ConstBytes data);

}  // namespace farside::trace
