// The node `null-co`: keeps nothing.
#pragma once

#include <memory>

#include "block/node.h"

namespace farside::block {

// Drops writes. Reads give zeroes with `read_zeroes`, else they leave the memory as it is.
class NullNode final : public Node {
 public:
  NullNode(const NodeOptions& options, uint64_t size, bool read_zeroes)
      : Node(options, size, {.fast_zeroes = true}), read_zeroes_(read_zeroes) {}

  Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<IoStatus> Flush() override;
  Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<IoStatus> Discard(uint64_t offset, uint64_t size) override;

 private:
  const bool read_zeroes_;
};

}  // namespace farside::block
