// DmaSpace: a device's view of memory.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/task.h"

namespace farside {

enum class DmaStatus {
  kOk,
  kFault,      // No window there, not that access, no bus mastering, or the peer did not answer.
  kCancelled,  // Reset, unmap or disconnect: the work the access was for is gone.
};

enum class DmaAccess {
  kRead,   // The device reads memory.
  kWrite,  // The device writes memory.
};

// A range of bus addresses.
struct DmaSegment {
  uint64_t iova = 0;
  uint64_t size = 0;  // In bytes.
  friend bool operator==(const DmaSegment&, const DmaSegment&) = default;
};

class DmaSpace;

// A scoped lease of memory for block I/O: iovecs that point straight into the windows, or to bounce
// memory where a window can be reached by messages only. Hold it across block I/O and nothing else:
// an UNMAP of a window waits for the leases in it.
class DmaBuffer {
 public:
  // What an implementation keeps for a lease; released in its destructor.
  class Lease {
   public:
    virtual ~Lease() = default;
    // Writes bounce memory back to the device's memory. See DmaBuffer::Finish.
    virtual Task<DmaStatus> WriteBack() = 0;
    // True when a window was taken away under the lease: the iovecs still point to memory, but to
    // nobody's, and the command fails.
    virtual bool revoked() const = 0;
  };

  DmaBuffer() = default;
  DmaBuffer(std::vector<iovec> iovecs, std::unique_ptr<Lease> lease)
      : iovecs_(std::move(iovecs)), lease_(std::move(lease)) {}

  // In the order of the segments; sums to their sizes.
  std::span<const iovec> iovecs() const { return iovecs_; }

  // Puts what `wrap` makes of the lease in its place, for who adds a rule to it.
  template <typename Wrap>
  void WrapLease(Wrap wrap) {
    if (lease_ != nullptr) lease_ = wrap(std::move(lease_));
  }

  // To be awaited once, after the I/O: for DmaAccess::kWrite it moves bounce memory to its windows.
  // kFault or kCancelled when the memory was not there to the end. Ends the lease.
  Task<DmaStatus> Finish() {
    DmaStatus status = DmaStatus::kOk;
    if (lease_ != nullptr) {
      status = lease_->revoked() ? DmaStatus::kCancelled : co_await lease_->WriteBack();
    }
    lease_.reset();
    iovecs_.clear();
    co_return status;
  }

 private:
  std::vector<iovec> iovecs_;
  std::unique_ptr<Lease> lease_;
};

// Given to a device, which may not outlive it. Every wait in here can end with kCancelled, and
// across it the device's registers may have changed, as in hardware.
class DmaSpace {
 public:
  virtual ~DmaSpace() = default;

  // Copies out.size() bytes from `iova`: all or nothing as far as the device can see. `out` stays
  // alive and is not looked at until the task has ended.
  virtual Task<DmaStatus> Read(uint64_t iova, Bytes out) = 0;
  // Copies `in` to `iova`. When it ends the bytes are visible to the guest: an interrupt that
  // announces them may follow.
  virtual Task<DmaStatus> Write(uint64_t iova, ConstBytes in) = 0;

  // Leases `segments`; for kRead the bytes are there when it ends with kOk. `*buffer` is set only
  // then.
  virtual Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                              DmaBuffer* buffer) = 0;
};

}  // namespace farside
