// DmaCounter: a DmaSpace that says how much of it was used.
#pragma once

#include <cstdint>
#include <span>

#include "devices/core/dma_space.h"

namespace farside::fuzz {

class DmaCounter final : public DmaSpace {
 public:
  explicit DmaCounter(DmaSpace& to) : to_(to) {}

  // Accesses that ended well, so far.
  uint64_t done() const { return done_; }

  Task<DmaStatus> Read(uint64_t iova, Bytes out) override { return Count(to_.Read(iova, out)); }
  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override {
    return Count(to_.Write(iova, in));
  }
  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override {
    return Count(to_.Map(segments, access, buffer));
  }

 private:
  Task<DmaStatus> Count(Task<DmaStatus> access) {
    const DmaStatus status = co_await std::move(access);
    done_ += status == DmaStatus::kOk;
    co_return status;
  }

  DmaSpace& to_;
  uint64_t done_ = 0;
};

}  // namespace farside::fuzz
