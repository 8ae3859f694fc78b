// A disk in memory whose requests wait, fail and come out of order as a session says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "block/block_device.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// A request outside the disk, off its alignment, or a write to a read-only disk is a device's
// mistake: oracle "disk-bounds". So are requests without end: "bounded-work".
class Disk final : public block::BlockDevice {
 public:
  static constexpr uint64_t kSize = 2 << 20;
  // More than any lawful command needs between two turns of the loop.
  static constexpr uint64_t kMaxRequestsPerTurn = 20'000;

  Disk(Loop& loop, std::string name, bool read_only);

  // As a new session finds it: its first content, nothing held. No request is in flight.
  void Begin(bool deferred);
  void Act(DiskAction action, uint64_t value);
  // All go on, and no more wait or fail.
  void Settle();
  uint64_t requests() const { return requests_; }  // Since Begin.
  uint64_t failures() const { return failures_; }  // Of requests, as the session said; so far.
  ConstBytes data() const { return data_; }

  // BlockDevice.
  uint64_t size() const override { return kSize; }
  bool read_only() const override { return read_only_; }
  block::BlockLimits limits() const override;
  Task<block::IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<block::IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<block::IoStatus> Flush() override;
  Task<block::IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<block::IoStatus> Discard(uint64_t offset, uint64_t size) override;
  uint32_t in_flight() const override { return in_flight_; }

 private:
  static constexpr uint64_t kPart = kSize / 64;

  void CountInTurn();

  // Waits as long as it has to. The error the request ends with, or 0.
  Task<int> Begin(const char* what, uint64_t offset, uint64_t size, bool writes);
  void ReleaseAll();
  Bytes Dirty(uint64_t offset, uint64_t size);

  Loop& loop_;
  const std::string name_;
  const bool read_only_;
  std::vector<std::byte> pristine_;
  std::vector<std::byte> data_;
  uint64_t dirty_ = 0;  // A bit a part.
  bool deferred_ = false;
  bool held_ = false;
  std::optional<int> failure_;
  std::vector<Completion<bool>*> waiting_;
  uint64_t requests_ = 0;
  uint64_t failures_ = 0;
  uint64_t turn_ = 0;  // Of the loop: its resumptions.
  uint64_t in_turn_ = 0;
  uint32_t in_flight_ = 0;
};

}  // namespace farside::fuzz
