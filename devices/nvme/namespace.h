// The NVM command set on a block device. NVM Express 1.4, section 6.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "block/block_device.h"
#include "devices/nvme/command.h"
#include "devices/nvme/prp.h"

namespace farside::nvme {

// Namespace 1. Keeps no state of its own: a command that starts again after a migration does the
// same again.
class Namespace {
 public:
  // `drive` outlives it and its requests. `block_size` is a multiple of the drive's request
  // alignment. Bytes after the last whole block are not part of the namespace.
  Namespace(block::BlockDevice& drive, uint32_t block_size);

  uint64_t block_count() const { return block_count_; }
  uint32_t block_size() const { return block_size_; }
  const block::BlockLimits& limits() const { return limits_; }
  bool read_only() const { return read_only_; }

  // Any I/O command. With `write_through` (the volatile write cache is off) what was written is on
  // stable storage when it completes.
  Task<Outcome> Execute(HostMemory memory, Command& command, bool write_through);

  Task<Status> Flush();

 private:
  // A range of logical blocks, in bytes of the drive.
  struct Extent {
    uint64_t offset = 0;
    uint64_t size = 0;
  };

  Task<Status> Dispatch(HostMemory memory, Command& command, bool write_through);
  Task<Status> Read(HostMemory memory, Command& command, Extent extent);
  Task<Status> Write(HostMemory memory, Command& command, Extent extent, bool fua);
  Task<Status> Compare(HostMemory memory, Command& command, Extent extent);
  Task<Status> WriteZeroes(Extent extent, bool may_unmap, bool fua);
  Task<Status> DatasetManagement(HostMemory memory, Command& command);

  bool Contains(uint64_t first_block, uint64_t blocks) const;
  // Whether the drive takes these iovecs as they are.
  bool IsAligned(std::span<const iovec> iov) const;

  block::BlockDevice& drive_;
  const block::BlockLimits limits_;
  const uint32_t block_size_;
  const uint64_t block_count_;
  const bool read_only_;
};

// Logical blocks that a Read, Write, Compare or Write Zeroes names: CDW12 bits 15:0 are 0's based.
constexpr uint64_t BlocksOf(const Sqe& sqe) { return uint64_t{sqe.cdw12 & 0xffff} + 1; }

}  // namespace farside::nvme
