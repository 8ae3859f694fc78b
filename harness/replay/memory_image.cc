#include "harness/replay/memory_image.h"

#include <algorithm>
#include <cstring>

namespace farside::replay {

template <typename Use>
void MemoryImage::ForPages(uint64_t iova, uint64_t size, Use&& use) {
  for (uint64_t done = 0; done < size;) {
    const uint64_t offset = (iova + done) % kPageSize;
    const uint64_t here = std::min(size - done, kPageSize - offset);
    use((iova + done) / kPageSize, offset, done, here);
    done += here;
  }
}

MemoryImage::Page& MemoryImage::PageAt(uint64_t number) {
  auto& page = pages_[number];
  if (!page) page = std::make_unique<Page>();
  return *page;
}

void MemoryImage::GuestWrites(uint64_t iova, ConstBytes data) {
  ForPages(iova, data.size(), [&](uint64_t number, uint64_t at, uint64_t from, uint64_t size) {
    Page& page = PageAt(number);
    Copy(Bytes(page.recorded).subspan(at, size), data.subspan(from, size));
    Copy(Bytes(page.actual).subspan(at, size), data.subspan(from, size));
  });
}

void MemoryImage::RecordedWrites(uint64_t iova, ConstBytes data) {
  ForPages(iova, data.size(), [&](uint64_t number, uint64_t at, uint64_t from, uint64_t size) {
    Copy(Bytes(PageAt(number).recorded).subspan(at, size), data.subspan(from, size));
    suspects_.insert(number);
  });
}

void MemoryImage::DeviceWrites(uint64_t iova, ConstBytes data) {
  ForPages(iova, data.size(), [&](uint64_t number, uint64_t at, uint64_t from, uint64_t size) {
    Copy(Bytes(PageAt(number).actual).subspan(at, size), data.subspan(from, size));
    suspects_.insert(number);
  });
}

void MemoryImage::DeviceReads(uint64_t iova, Bytes out) const {
  ForPages(iova, out.size(), [&](uint64_t number, uint64_t at, uint64_t to, uint64_t size) {
    const auto found = pages_.find(number);
    if (found == pages_.end()) return Fill(out.subspan(to, size), 0);
    Copy(out.subspan(to, size), ConstBytes(found->second->actual).subspan(at, size));
  });
}

std::optional<MemoryImage::Difference> MemoryImage::FindDifference(uint64_t iova,
                                                                   uint64_t size) const {
  std::optional<Difference> first;
  ForPages(iova, size, [&](uint64_t number, uint64_t at, uint64_t, uint64_t here) {
    const auto found = pages_.find(number);
    if (first || found == pages_.end()) return;
    const auto recorded = ConstBytes(found->second->recorded).subspan(at, here);
    const auto actual = ConstBytes(found->second->actual).subspan(at, here);
    if (std::memcmp(recorded.data(), actual.data(), here) == 0) return;  // Most often.
    const auto [r, a] = std::ranges::mismatch(recorded, actual);
    const auto offset = at + static_cast<uint64_t>(r - recorded.begin());
    first = Difference{number * kPageSize + offset, std::to_integer<uint8_t>(*r),
                       std::to_integer<uint8_t>(*a)};
  });
  return first;
}

std::optional<MemoryImage::Difference> MemoryImage::FindAnyDifference() {
  for (auto suspect = suspects_.begin(); suspect != suspects_.end();) {
    const auto difference = FindDifference(*suspect * kPageSize, kPageSize);
    if (difference) return difference;
    suspect = suspects_.erase(suspect);
  }
  return std::nullopt;
}

}  // namespace farside::replay
