// BlockDevice: a disk as the device models see it. A filter is a BlockDevice that holds another.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "base/task.h"

namespace farside::block {

// How a request ended: 0, or a positive errno. EIO is a media error, ENOSPC a full backing store,
// EFAULT guest memory that is gone (a DMA error, never a media error), EINVAL a request outside the
// disk or off its alignment, EPERM a write to a read-only disk, ECANCELED a request given up.
struct [[nodiscard]] IoStatus {
  int error = 0;
  bool ok() const { return error == 0; }
  friend bool operator==(IoStatus, IoStatus) = default;
};

// What a disk can do, asked once at the start. Sizes in bytes.
struct BlockLimits {
  uint32_t request_alignment = 1;    // Offsets and sizes of all requests are multiples of it.
  uint32_t memory_alignment = 1;     // So are the addresses and sizes of iovecs.
  uint64_t discard_granularity = 0;  // 0: Discard does nothing.
  bool discard_zeroes = false;       // Discarded ranges read as zeroes.
  bool fast_zeroes = false;          // WriteZeroes costs no transfer of zeroes.
};

// All offsets and sizes are in bytes. Requests may run at the same time and complete in any order;
// who needs an order awaits one before the next. The iovecs and what they point to belong to the
// request until it completes. A request is never cancelled by destroying it: it completes.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual uint64_t size() const = 0;
  virtual bool read_only() const = 0;
  virtual BlockLimits limits() const = 0;

  // Fills `iov` from `offset` on.
  virtual Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) = 0;
  // Writes `iov` at `offset`; with `fua` it is on stable storage when it completes.
  virtual Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) = 0;
  // Everything that completed before this was called is on stable storage when it completes.
  virtual Task<IoStatus> Flush() = 0;
  // The range reads as zeroes afterwards. With `may_unmap` its space may be given back.
  virtual Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) = 0;
  // The range's content is no longer needed. A hint.
  virtual Task<IoStatus> Discard(uint64_t offset, uint64_t size) = 0;

  // Requests that have not completed. A device is destroyed only when it is 0.
  virtual uint32_t in_flight() const = 0;
};

// The bytes that `iov` holds in all.
inline uint64_t IovecSize(std::span<const iovec> iov) {
  uint64_t total = 0;
  for (const iovec& part : iov) total += part.iov_len;
  return total;
}

}  // namespace farside::block
