// Bits that events of clients' targets have in `what`, beside the region.
#pragma once

#include <cstdint>

namespace farside::fuzz {

inline constexpr uint32_t kRegionBits = 0xf;
inline constexpr uint8_t kPosted = 0x80;  // Of writes.
inline constexpr uint8_t kMulti = 0x40;   // Of write_data: many small ones in one message.
inline constexpr uint8_t kBegun = 0x40;   // Of reads: finished with the next other event.

}  // namespace farside::fuzz
