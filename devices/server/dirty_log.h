// DirtyLog: which pages a device wrote, for migration (vfio-user DMA_LOGGING_*).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "devices/core/dma_space.h"

namespace farside {

// A bitmap per logged range. Off until Start.
class DirtyLog {
 public:
  // Total pages that may be logged: 2^24 bits are 64 GiB of 4 KiB pages and 2 MiB of memory.
  static constexpr uint64_t kMaxPages = 1 << 24;
  static constexpr size_t kMaxRanges = 256;

  // Logs writes to `ranges` with pages of `page_size` bytes, a power of two of at least 4096.
  // EBUSY when it is on already, EINVAL for ranges that are empty, wrap or overlap, E2BIG for more
  // than kMaxRanges or kMaxPages.
  Result<void> Start(uint64_t page_size, std::span<const DmaSegment> ranges);
  void Stop();
  bool on() const { return page_size_ != 0; }

  void Mark(uint64_t iova, uint64_t size) {
    if (on()) MarkPages(iova, size);
  }

  // A bit for each `page_size` bytes from `iova` on, in little-endian words; set if a page that was
  // written touches them. What was reported is clean again, but for pages that the range cuts in
  // two. EINVAL if the log is off, the range is not inside a logged one, or the pages are smaller
  // than the logged ones.
  Result<std::vector<uint64_t>> Report(uint64_t iova, uint64_t size, uint64_t page_size);

  // Of what Report returns, in bytes; 0 where it returns an error.
  static uint64_t BitmapSize(uint64_t size, uint64_t page_size);

 private:
  struct Range {
    uint64_t iova = 0;
    uint64_t size = 0;
    std::vector<bool> dirty;
  };

  void MarkPages(uint64_t iova, uint64_t size);

  uint64_t page_size_ = 0;
  std::vector<Range> ranges_;
};

}  // namespace farside
