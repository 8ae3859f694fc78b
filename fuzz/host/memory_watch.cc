#include "fuzz/host/memory_watch.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

void MemoryWatch::Forget() {
  Unseal();
  logged_.clear();
  report_.reset();
}

void MemoryWatch::Take(uint64_t iova, uint64_t size, Copy* copy) const {
  const ConstBytes bytes = memory_.Peek(iova, size);
  copy->iova = iova;
  copy->bytes.assign(bytes.begin(), bytes.end());
}

void MemoryWatch::Write(Copy& copy, uint64_t iova, ConstBytes data) {
  const uint64_t begin = std::max(iova, copy.iova);
  const uint64_t end = std::min(iova + data.size(), copy.iova + copy.bytes.size());
  if (begin >= end) return;
  farside::Copy(Bytes(copy.bytes).subspan(begin - copy.iova, end - begin),
                data.subspan(begin - iova, end - begin));
}

void MemoryWatch::OnGuestWrite(uint64_t iova, ConstBytes data) {
  if (is_sealed_) {
    for (Copy& copy : sealed_) Write(copy, iova, data);
  }
  for (Copy& copy : logged_) Write(copy, iova, data);
}

void MemoryWatch::Seal() {
  if (std::exchange(is_sealed_, true)) return;
  Take(Host::kBase, Host::kSize, &sealed_[0]);
  Take(Host::kHighBase, Host::kHighSize, &sealed_[1]);
}

void MemoryWatch::CheckSealed() const {
  if (!is_sealed_) return;
  for (const Copy& copy : sealed_) {
    std::vector<uint64_t> changed;
    FindChanges(copy, copy.iova, copy.bytes.size(), &changed);
    if (!changed.empty()) {
      Violation("dma-window", "memory at {:#x} is written after its window was unmapped",
                changed.front());
    }
  }
}

void MemoryWatch::BeginLog(uint64_t iova, uint64_t size) {
  Take(iova, size, &logged_.emplace_back());
}

void MemoryWatch::FindChanges(const Copy& copy, uint64_t iova, uint64_t size,
                              std::vector<uint64_t>* out) const {
  const ConstBytes now = memory_.Peek(copy.iova, copy.bytes.size());
  for (uint64_t at = 0; at < now.size(); at += kPage) {
    const uint64_t page = copy.iova + at;
    const size_t length = std::min<uint64_t>(kPage, now.size() - at);
    if (page < iova || !InRange(page - iova, length, size)) continue;
    if (std::memcmp(now.data() + at, copy.bytes.data() + at, length) != 0) out->push_back(page);
  }
}

// While the device is at work a page may have changed and not be logged yet.
void MemoryWatch::BeginReport(uint64_t iova, uint64_t size) {
  report_.reset();
  if (logged_.empty() || !memory_.quiet()) return;
  report_ = {.iova = iova, .size = size};
  for (const Copy& copy : logged_) FindChanges(copy, iova, size, &report_->changed);
}

void MemoryWatch::EndReport(uint64_t page_size, ConstBytes bitmap) {
  if (!report_) return;
  const auto reported = [&](uint64_t page) {
    const uint64_t bit = (page - report_->iova) / page_size;
    return bit / 8 < bitmap.size() &&
           (std::to_integer<uint32_t>(bitmap[bit / 8]) >> bit % 8 & 1) != 0;
  };
  for (const uint64_t page : report_->changed) {
    if (!reported(page)) {
      Violation("dirty-log", "the page at {:#x} was written and is not in the report", page);
    }
  }
  // A page that was reported is clean again.
  for (Copy& copy : logged_) {
    for (uint64_t at = 0; at < copy.bytes.size(); at += kPage) {
      const uint64_t page = copy.iova + at;
      if (page < report_->iova || page - report_->iova >= report_->size || !reported(page))
        continue;
      Write(copy, page, memory_.Peek(page, std::min<uint64_t>(kPage, copy.bytes.size() - at)));
    }
  }
  report_.reset();
}

}  // namespace farside::fuzz
