#include "block/generated.h"

#include <algorithm>
#include <utility>

#include "base/random.h"

namespace farside::block {

GeneratedNode::GeneratedNode(const NodeOptions& options, uint64_t size, uint64_t seed)
    : Node(options, size, InMemoryLimits(options)), key_(Mix64(seed)) {
  CHECK(size % kSectorSize == 0);
}

void GeneratedNode::GenerateSector(uint64_t sector, Bytes out) const {
  const uint64_t sector_key = Mix64(key_ ^ sector);
  for (uint64_t word = 0; word < kSectorSize / 8; ++word) {
    StoreLe<uint64_t>(out.subspan(word * 8, 8), Mix64(sector_key + word));
  }
}

void GeneratedNode::ReadPart(uint64_t offset, uint64_t size, IovecCursor& to) const {
  const uint64_t index = offset / kPageSize;
  if (const auto page = pages_.find(index); page != pages_.end()) {
    to.Scatter(ConstBytes(*page->second).subspan(offset % kPageSize, size));
    return;
  }
  if (IsZero(index)) {
    to.ScatterZeroes(size);
    return;
  }
  std::array<std::byte, kSectorSize> sector;
  for (const uint64_t end = offset + size; offset < end;) {
    GenerateSector(offset / kSectorSize, sector);
    const uint64_t start = offset % kSectorSize;
    const uint64_t count = std::min(end - offset, kSectorSize - start);
    to.Scatter(ConstBytes(sector).subspan(start, count));
    offset += count;
  }
}

GeneratedNode::Page& GeneratedNode::WritablePage(uint64_t index) {
  std::unique_ptr<Page>& page = pages_[index];
  if (page) return *page;
  page = std::make_unique<Page>();  // Zeroes.
  if (IsZero(index)) return *page;
  for (uint64_t at = 0; at < kPageSize; at += kSectorSize) {
    GenerateSector((index * kPageSize + at) / kSectorSize, Bytes(*page).subspan(at, kSectorSize));
  }
  return *page;
}

bool GeneratedNode::IsZero(uint64_t index) const {
  const auto after = zeroes_.upper_bound(index);
  return after != zeroes_.begin() && std::prev(after)->second > index;
}

void GeneratedNode::AddZeroes(uint64_t first, uint64_t end) {
  auto next = zeroes_.upper_bound(first);
  if (next != zeroes_.begin() && std::prev(next)->second >= first) {
    --next;
    first = next->first;
  }
  while (next != zeroes_.end() && next->first <= end) {
    end = std::max(end, next->second);
    next = zeroes_.erase(next);
  }
  zeroes_.emplace_hint(next, first, end);
}

void GeneratedNode::Zero(uint64_t offset, uint64_t size) {
  const uint64_t end = offset + size;
  const auto zero_part = [this](uint64_t from, uint64_t to) {
    if (from == to) return;
    Page& page = WritablePage(from / kPageSize);
    Fill(Bytes(page).subspan(from % kPageSize, to - from), 0);
  };
  const uint64_t first = (offset + kPageSize - 1) / kPageSize;
  const uint64_t last = end / kPageSize;  // One past the last whole page.
  if (first > last) return zero_part(offset, end);
  zero_part(offset, first * kPageSize);
  zero_part(last * kPageSize, end);
  if (first == last) return;
  pages_.erase(pages_.lower_bound(first), pages_.lower_bound(last));
  AddZeroes(first, last);
}

Task<IoStatus> GeneratedNode::Read(uint64_t offset, std::span<const iovec> iov) {
  const uint64_t bytes = IovecSize(iov);
  if (const int error = CheckRead(offset, bytes)) co_return IoStatus{error};
  IovecCursor cursor(iov);
  for (const uint64_t end = offset + bytes; offset < end;) {
    const uint64_t count = std::min(end - offset, kPageSize - offset % kPageSize);
    ReadPart(offset, count, cursor);
    offset += count;
  }
  co_return IoStatus{};
}

Task<IoStatus> GeneratedNode::Write(uint64_t offset, std::span<const iovec> iov, bool) {
  const uint64_t bytes = IovecSize(iov);
  if (const int error = CheckWrite(offset, bytes)) co_return IoStatus{error};
  IovecCursor cursor(iov);
  for (const uint64_t end = offset + bytes; offset < end;) {
    const uint64_t start = offset % kPageSize;
    const uint64_t count = std::min(end - offset, kPageSize - start);
    cursor.Gather(Bytes(WritablePage(offset / kPageSize)).subspan(start, count));
    offset += count;
  }
  co_return IoStatus{};
}

Task<IoStatus> GeneratedNode::Flush() { co_return IoStatus{}; }

Task<IoStatus> GeneratedNode::WriteZeroes(uint64_t offset, uint64_t size, bool) {
  const int error = CheckWrite(offset, size);
  if (error == 0) Zero(offset, size);
  co_return IoStatus{error};
}

Task<IoStatus> GeneratedNode::Discard(uint64_t offset, uint64_t size) {
  const int error = CheckWrite(offset, size);
  if (error == 0 && unmap()) Zero(offset, size);
  co_return IoStatus{error};
}

}  // namespace farside::block
