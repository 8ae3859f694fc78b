// PageRing: the pages that a trace's writer and reader both remember, so that a page that was
// written out a while ago is a reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"

namespace farside::trace {

class PageRing {
 public:
  static constexpr size_t kPageSize = 4096;
  static constexpr size_t kPages = 2048;

  // How far back `page` lies, 0 for the newest; nothing if it is not there. `page` has kPageSize
  // bytes.
  std::optional<uint32_t> Find(ConstBytes page) const;
  // The page `back` behind the newest, until the next Add; empty if there is none.
  ConstBytes At(uint32_t back) const;
  // `page` becomes the newest, and the oldest is forgotten.
  void Add(ConstBytes page);

 private:
  size_t IndexOf(uint32_t back) const { return (count_ - 1 - back) % kPages; }

  std::vector<std::byte> pages_;                    // At most kPages. Most traces have few.
  std::unordered_map<uint64_t, uint64_t> by_hash_;  // To the count when it was added.
  std::vector<uint64_t> hashes_;                    // Of each of them.
  uint64_t count_ = 0;                              // Pages ever added.
};

}  // namespace farside::trace
