#include "block/node.h"

#include <bit>
#include <cerrno>

#include "base/bytes.h"

namespace farside::block {

BlockLimits InMemoryLimits(const NodeOptions& options) {
  return {.discard_granularity = options.unmap ? 4096u : 0,
          .discard_zeroes = options.unmap,
          .fast_zeroes = true};
}

Node::Node(const NodeOptions& options, uint64_t size, BlockLimits limits)
    : options_(options), size_(size), limits_(limits) {
  CHECK(std::has_single_bit(limits_.request_alignment));
  CHECK(std::has_single_bit(limits_.memory_alignment));
  CHECK(size_ % limits_.request_alignment == 0);
}

int Node::CheckRead(uint64_t offset, uint64_t size) const {
  if (!InRange(offset, size, size_)) return EINVAL;
  return (offset | size) & (limits_.request_alignment - 1) ? EINVAL : 0;
}

int Node::CheckWrite(uint64_t offset, uint64_t size) const {
  return read_only() ? EPERM : CheckRead(offset, size);
}

}  // namespace farside::block
