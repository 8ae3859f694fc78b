// DmaWindows: what a client has mapped for its device, so that the device gets no more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace farside::vfio_user {

// `size` is not 0 and iova + size does not pass 2^64, here and below.
class DmaWindows {
 public:
  // `flags` is kDmaMapRead and/or kDmaMapWrite.
  void Add(uint64_t iova, uint64_t size, uint32_t flags) {
    const auto at = std::ranges::upper_bound(windows_, iova, {}, &Window::iova);
    windows_.insert(at, {iova, size, flags});
  }

  // Forgets all windows that lie inside the range.
  void Remove(uint64_t iova, uint64_t size) {
    std::erase_if(windows_, [&](const Window& window) {
      return window.iova >= iova && InRange(window.iova - iova, window.size, size);
    });
  }

  // Forgets one that was added so, and no other that lies in its range.
  void TakeBack(uint64_t iova, uint64_t size, uint32_t flags) {
    const auto at = std::ranges::find_if(windows_, [&](const Window& window) {
      return window.iova == iova && window.size == size && window.flags == flags;
    });
    if (at != windows_.end()) windows_.erase(at);
  }

  void Clear() { windows_.clear(); }

  // True when every byte of the range lies in a window that allows `flag`.
  bool Allows(uint64_t iova, uint64_t size, uint32_t flag) const {
    uint64_t covered = 0;
    for (const Window& window : windows_) {
      const uint64_t next = iova + covered;
      if (next < window.iova) return false;
      if (next - window.iova >= window.size || (window.flags & flag) == 0) continue;
      covered += window.size - (next - window.iova);
      if (covered >= size) return true;
    }
    return false;
  }

 private:
  struct Window {
    uint64_t iova;
    uint64_t size;
    uint32_t flags;
  };
  std::vector<Window> windows_;  // By iova.
};

}  // namespace farside::vfio_user
