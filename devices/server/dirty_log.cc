#include "devices/server/dirty_log.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/bytes.h"
#include "base/range.h"

namespace farside {
namespace {

constexpr uint64_t kMinPageSize = 4096;

bool IsPageSize(uint64_t size) { return std::has_single_bit(size) && size >= kMinPageSize; }

}  // namespace

Result<void> DirtyLog::Start(uint64_t page_size, std::span<const DmaSegment> ranges) {
  if (on()) return FailWith(EBUSY, "DMA logging is on already: stop it first");
  if (!IsPageSize(page_size)) {
    return FailWith(EINVAL,
                    "DMA logging with pages of {} bytes: a power of two of at least {} is due",
                    page_size, kMinPageSize);
  }
  if (ranges.size() > kMaxRanges) {
    return FailWith(E2BIG, "DMA logging of {} ranges: {} is the most", ranges.size(), kMaxRanges);
  }
  std::vector<Range> logged;
  uint64_t pages = 0;
  for (const DmaSegment& range : ranges) {
    const bool wraps = range.size - 1 > UINT64_MAX - range.iova;
    const bool overlaps = std::ranges::any_of(logged, [&](const Range& other) {
      return Overlap(range.iova, range.size, other.iova, other.size);
    });
    if (range.size == 0 || wraps || overlaps) {
      return FailWith(EINVAL, "DMA logging of {:#x} bytes at {:#x}: empty, wrapping or overlapping",
                      range.size, range.iova);
    }
    const uint64_t count = (range.size - 1) / page_size + 1;
    if (count > kMaxPages - pages) {
      return FailWith(E2BIG, "DMA logging of more than {} pages: use larger pages", kMaxPages);
    }
    pages += count;
    logged.push_back({range.iova, range.size, std::vector<bool>(count)});
  }
  page_size_ = page_size;
  ranges_ = std::move(logged);
  return {};
}

void DirtyLog::Stop() {
  page_size_ = 0;
  ranges_.clear();
}

void DirtyLog::MarkPages(uint64_t iova, uint64_t size) {
  for (Range& range : ranges_) {
    if (size == 0 || !Overlap(iova, size, range.iova, range.size)) continue;
    const uint64_t first = std::max(iova, range.iova) - range.iova;
    const uint64_t last = std::min(iova + (size - 1), range.iova + (range.size - 1)) - range.iova;
    for (uint64_t page = first / page_size_; page <= last / page_size_; ++page) {
      range.dirty[page] = true;
    }
  }
}

uint64_t DirtyLog::BitmapSize(uint64_t size, uint64_t page_size) {
  if (!IsPageSize(page_size) || size == 0) return 0;
  return ((size - 1) / page_size / 64 + 1) * sizeof(uint64_t);
}

Result<std::vector<uint64_t>> DirtyLog::Report(uint64_t iova, uint64_t size, uint64_t page_size) {
  if (!on()) return FailWith(EINVAL, "DMA logging is off: start it before asking for its report");
  if (!IsPageSize(page_size) || page_size < page_size_ || size == 0) {
    return FailWith(EINVAL, "a report with pages of {} bytes where {} were logged", page_size,
                    page_size_);
  }
  for (Range& range : ranges_) {
    if (iova < range.iova || !InRange(iova - range.iova, size, range.size)) continue;
    // First and last bytes, since the last may be the last there is.
    const uint64_t begin = iova - range.iova;
    const uint64_t end = begin + (size - 1);
    std::vector<uint64_t> bitmap(BitmapSize(size, page_size) / sizeof(uint64_t));
    for (uint64_t page = begin / page_size_; page <= end / page_size_; ++page) {
      if (!range.dirty[page]) continue;
      const uint64_t first = page * page_size_;
      const uint64_t last = std::min(first + (page_size_ - 1), range.size - 1);
      if (first >= begin && last <= end) range.dirty[page] = false;
      const uint64_t last_bit = (std::min(last, end) - begin) / page_size;
      for (uint64_t bit = (std::max(first, begin) - begin) / page_size; bit <= last_bit; ++bit) {
        bitmap[bit / 64] |= uint64_t{1} << bit % 64;
      }
    }
    return bitmap;
  }
  return FailWith(EINVAL, "a report for {:#x} bytes at {:#x}, which is not logged", size, iova);
}

}  // namespace farside
