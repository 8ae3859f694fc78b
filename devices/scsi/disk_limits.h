// What one command may ask of a disk at most, as VPD page B0h says it.
#pragma once

#include <cstdint>

namespace farside::scsi {

inline constexpr uint32_t kMaxUnmapDescriptors = 255;
inline constexpr uint64_t kMaxUnmapBytes = 1 << 30;
inline constexpr uint64_t kMaxWriteSameBytes = 1 << 30;

}  // namespace farside::scsi
