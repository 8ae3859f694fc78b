// The node `memory`: a RAM disk. It begins as zeroes and is gone with its process.
#pragma once

#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "block/node.h"

namespace farside::block {

class MemoryNode final : public Node {
 public:
  // Takes memory only for what is written.
  static Result<std::unique_ptr<MemoryNode>> Create(const NodeOptions& options, uint64_t size);

  Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<IoStatus> Flush() override;
  Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<IoStatus> Discard(uint64_t offset, uint64_t size) override;

 private:
  MemoryNode(const NodeOptions& options, uint64_t size, UniqueFd file, Mapping memory);
  // Gives the range's memory back, whose content is zeroes then. 0 or an errno.
  int Punch(uint64_t offset, uint64_t size);

  UniqueFd file_;
  Mapping memory_;
};

}  // namespace farside::block
