// The node `generated`: a disk whose content is a function of a seed, for tests and recordings that
// must not depend on an image file.
//
// Sector s (512 bytes) holds 64 little-endian words; word w is Mix64(Mix64(Mix64(seed) ^ s) + w),
// with Mix64 of base/random.h. Recorded traces rely on this: it never changes. What is written over
// it is kept in memory, in pages of 4 KiB.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/bytes.h"
#include "block/iovec_cursor.h"
#include "block/node.h"

namespace farside::block {

class GeneratedNode final : public Node {
 public:
  GeneratedNode(const NodeOptions& options, uint64_t size, uint64_t seed);

  Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<IoStatus> Flush() override;
  Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<IoStatus> Discard(uint64_t offset, uint64_t size) override;

  // What it holds in memory: pages, and ranges of zeroed pages.
  size_t pages() const { return pages_.size(); }
  size_t zeroed_ranges() const { return zeroes_.size(); }

 private:
  static constexpr uint64_t kPageSize = 4096;
  using Page = std::array<std::byte, kPageSize>;

  void GenerateSector(uint64_t sector, Bytes out) const;
  // A part of one page, from wherever its content comes.
  void ReadPart(uint64_t offset, uint64_t size, IovecCursor& to) const;
  // The page in memory, brought there first if need be.
  Page& WritablePage(uint64_t index);
  void Zero(uint64_t offset, uint64_t size);
  void AddZeroes(uint64_t first, uint64_t end);
  bool IsZero(uint64_t index) const;

  const uint64_t key_;
  // By index of the page. A page here counts before a zeroed one, and that before a generated one.
  std::map<uint64_t, std::unique_ptr<Page>> pages_;
  // Whole pages that were zeroed: first index to one past the last. Ranges neither touch nor
  // overlap, so that a guest that discards its whole disk costs one entry.
  std::map<uint64_t, uint64_t> zeroes_;
};

}  // namespace farside::block
