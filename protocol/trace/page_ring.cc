#include "protocol/trace/page_ring.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"

namespace farside::trace {
namespace {

uint64_t Hash(ConstBytes page) {
  return std::hash<std::string_view>()({reinterpret_cast<const char*>(page.data()), page.size()});
}

}  // namespace

std::optional<uint32_t> PageRing::Find(ConstBytes page) const {
  const auto found = by_hash_.find(Hash(page));
  if (found == by_hash_.end()) return std::nullopt;
  const auto back = static_cast<uint32_t>(count_ - 1 - found->second);
  // Two pages may have one hash.
  if (!std::ranges::equal(At(back), page)) return std::nullopt;
  return back;
}

ConstBytes PageRing::At(uint32_t back) const {
  if (back >= std::min<uint64_t>(count_, kPages)) return {};
  return ConstBytes(pages_).subspan(IndexOf(back) * kPageSize, kPageSize);
}

void PageRing::Add(ConstBytes page) {
  CHECK(page.size() == kPageSize);
  const uint64_t number = count_++;
  const size_t index = number % kPages;
  if (number < kPages) {
    pages_.resize(pages_.size() + kPageSize);
    hashes_.emplace_back();
  } else {
    const auto oldest = by_hash_.find(hashes_[index]);
    if (oldest != by_hash_.end() && oldest->second == number - kPages) by_hash_.erase(oldest);
  }
  Copy(Bytes(pages_).subspan(index * kPageSize, kPageSize), page);
  hashes_[index] = Hash(page);
  by_hash_[hashes_[index]] = number;
}

}  // namespace farside::trace
