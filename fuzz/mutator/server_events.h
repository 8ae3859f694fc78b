// Bits that the events of a hostile client have in `size`, beside what goes over the wire.
#pragma once

#include <cstdint>

namespace farside::fuzz {

// Of windows.
inline constexpr uint8_t kWindowByFd = 1 << 2;
inline constexpr uint8_t kWindowOtherReach = 1 << 3;  // Not as the session's other windows.
inline constexpr uint8_t kWindowCut = 1 << 4;         // By a file that ends when it is mapped.

// Of interrupt set-ups: what these two bits are.
inline constexpr uint8_t kIrqsOther = 0xc0;
inline constexpr uint8_t kIrqsInband = 0xc0;
inline constexpr uint8_t kIrqsByFile = 0x40;  // The fds are no eventfds.

}  // namespace farside::fuzz
