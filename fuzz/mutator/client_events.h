// Events of clients' targets: bits in `what` beside the region, and batches of writes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "fuzz/session/event.h"
#include "protocol/vfio_user.h"

namespace farside::fuzz {

inline constexpr uint32_t kRegionBits = 0xf;
inline constexpr uint8_t kPosted = 0x80;  // Of writes.
inline constexpr uint8_t kMulti = 0x40;   // Of write_data: many small ones in one message.
inline constexpr uint8_t kBegun = 0x40;   // Of reads: finished with the next other event.

// The writes of a kMulti event: its data in eights, one behind the other.
inline std::vector<vfio_user::WriteMultiEntry> WritesOf(const Event& event) {
  std::vector<vfio_user::WriteMultiEntry> writes;
  for (ConstBytes rest = event.data; !rest.empty();) {
    const ConstBytes part = rest.first(std::min<size_t>(rest.size(), 8));
    vfio_user::WriteMultiEntry write{.offset = event.at + 8 * writes.size(),
                                     .region = event.what & kRegionBits,
                                     .count = static_cast<uint32_t>(part.size())};
    Copy(std::as_writable_bytes(std::span(write.data)).first(part.size()), part);
    writes.push_back(write);
    rest = rest.subspan(part.size());
  }
  return writes;
}

}  // namespace farside::fuzz
