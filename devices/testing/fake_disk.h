// A disk in memory that holds, fails and remembers requests as a test tells it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/loop.h"
#include "block/block_device.h"

namespace farside {

class FakeDisk final : public block::BlockDevice {
 public:
  enum class Op { kRead, kWrite, kFlush, kWriteZeroes, kDiscard };
  struct Request {
    Op op;
    uint64_t offset = 0;
    uint64_t size = 0;
    bool flag = false;  // FUA of a write, may_unmap of a write of zeroes.
    friend bool operator==(const Request&, const Request&) = default;
  };

  FakeDisk(Loop& loop, uint64_t size, block::BlockLimits limits = {})
      : loop_(loop), data_(size), limits_(limits) {}
  ~FakeDisk() override { CHECK(in_flight_ == 0); }

  Bytes data() { return data_; }
  void set_read_only(bool read_only) { read_only_ = read_only; }
  // Requests complete from the loop instead of at once.
  void set_deferred(bool deferred) { deferred_ = deferred; }

  // From now on requests wait, and have no effect, until they are released.
  void Hold() { held_ = true; }
  // The oldest one; false where none waits. Holding goes on.
  bool ReleaseOne() { return Release(0); }
  // The one that came `index`-th of those that wait.
  bool Release(size_t index);
  // All, and no more holding.
  void ReleaseAll();
  size_t waiting() const { return waiting_.size(); }

  // The next request of this kind ends with `error`, without effect.
  void FailNext(Op op, int error) { failure_ = {op, error}; }

  const std::vector<Request>& requests() const { return requests_; }
  void ForgetRequests() { requests_.clear(); }

  // BlockDevice. Requests off limits() end with EINVAL.
  uint64_t size() const override { return data_.size(); }
  bool read_only() const override { return read_only_; }
  block::BlockLimits limits() const override { return limits_; }
  Task<block::IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<block::IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<block::IoStatus> Flush() override;
  Task<block::IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<block::IoStatus> Discard(uint64_t offset, uint64_t size) override;
  uint32_t in_flight() const override { return in_flight_; }

 private:
  struct Failure {
    Op op;
    int error;
  };

  // Records the request and waits as long as it is to wait. The error it ends with, or 0.
  Task<int> Begin(Request request);
  bool IsLawful(const Request& request) const;
  bool AreLawful(std::span<const iovec> iov) const;

  Loop& loop_;
  std::vector<std::byte> data_;
  const block::BlockLimits limits_;
  bool read_only_ = false;
  bool deferred_ = false;
  bool held_ = false;
  std::deque<Completion<bool>*> waiting_;
  std::optional<Failure> failure_;
  std::vector<Request> requests_;
  uint32_t in_flight_ = 0;
};

}  // namespace farside
