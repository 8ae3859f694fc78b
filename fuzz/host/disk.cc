#include "fuzz/host/disk.h"

#include <bit>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "base/random.h"
#include "block/iovec_cursor.h"
#include "devices/testing/yield.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

using block::IoStatus;

Disk::Disk(Loop& loop, std::string name, bool read_only)
    : loop_(loop), name_(std::move(name)), read_only_(read_only), pristine_(kSize) {
  for (uint64_t at = 0; at < kSize; at += 8) StoreLe(Bytes(pristine_).subspan(at), Mix64(at));
  data_ = pristine_;
}

block::BlockLimits Disk::limits() const {
  if (read_only_) return {};
  return {.discard_granularity = 512, .discard_zeroes = true, .fast_zeroes = true};
}

void Disk::Begin(bool deferred) {
  CHECK(in_flight_ == 0);
  for (; dirty_ != 0; dirty_ &= dirty_ - 1) {
    const auto part = static_cast<uint64_t>(std::countr_zero(dirty_));
    Copy(Bytes(data_).subspan(part * kPart, kPart),
         ConstBytes(pristine_).subspan(part * kPart, kPart));
  }
  deferred_ = deferred;
  held_ = false;
  failure_.reset();
  requests_ = 0;
}

void Disk::Act(DiskAction action, uint64_t value) {
  switch (action) {
    case DiskAction::kFailNext:
      failure_ = static_cast<int>(1 + value % 133);
      break;
    case DiskAction::kHold:
      held_ = true;
      break;
    case DiskAction::kRelease:
      if (!waiting_.empty()) {
        const auto chosen = waiting_.begin() + static_cast<ptrdiff_t>(value % waiting_.size());
        (*chosen)->Set(true);
        waiting_.erase(chosen);
      }
      break;
    case DiskAction::kResume:
    case DiskAction::kCount:
      ReleaseAll();
      break;
  }
}

void Disk::Settle() {
  failure_.reset();
  ReleaseAll();
}

void Disk::ReleaseAll() {
  held_ = false;
  for (Completion<bool>* one : std::exchange(waiting_, {})) one->Set(true);
}

Bytes Disk::Dirty(uint64_t offset, uint64_t size) {
  for (uint64_t part = offset / kPart; size != 0 && part <= (offset + size - 1) / kPart; ++part) {
    dirty_ |= uint64_t{1} << part;
  }
  return Bytes(data_).subspan(offset, size);
}

void Disk::CountInTurn() {
  if (std::exchange(turn_, loop_.resumptions()) != turn_) in_turn_ = 0;
  if (++in_turn_ <= kMaxRequestsPerTurn) return;
  Violation("bounded-work", "disk {} gets more than {} requests in one turn", name_,
            kMaxRequestsPerTurn);
}

Task<int> Disk::Begin(const char* what, uint64_t offset, uint64_t size, bool writes) {
  ++requests_;
  CountInTurn();
  if (!InRange(offset, size, kSize)) {
    Violation("disk-bounds", "{} of {} bytes at {:#x} of disk {}, which has {:#x}", what, size,
              offset, name_, kSize);
  }
  if (writes && read_only_) Violation("disk-bounds", "{} of the read-only disk {}", what, name_);
  const int error = std::exchange(failure_, std::nullopt).value_or(0);
  failures_ += error != 0;
  ++in_flight_;
  if (held_) {
    Completion<bool> released(loop_);
    waiting_.push_back(&released);
    co_await released;
  } else if (deferred_) {
    co_await Yield{loop_};
  }
  --in_flight_;
  co_return error;
}

Task<IoStatus> Disk::Read(uint64_t offset, std::span<const iovec> iov) {
  if (const int error = co_await Begin("read", offset, block::IovecSize(iov), false); error != 0) {
    co_return IoStatus{error};
  }
  block::IovecCursor(iov).Scatter(ConstBytes(data_).subspan(offset, block::IovecSize(iov)));
  co_return IoStatus{};
}

Task<IoStatus> Disk::Write(uint64_t offset, std::span<const iovec> iov, bool) {
  const uint64_t size = block::IovecSize(iov);
  if (const int error = co_await Begin("write", offset, size, true); error != 0) {
    co_return IoStatus{error};
  }
  block::IovecCursor(iov).Gather(Dirty(offset, size));
  co_return IoStatus{};
}

Task<IoStatus> Disk::Flush() { co_return IoStatus{co_await Begin("flush", 0, 0, false)}; }

Task<IoStatus> Disk::WriteZeroes(uint64_t offset, uint64_t size, bool) {
  const int error = co_await Begin("write of zeroes", offset, size, true);
  if (error == 0) Fill(Dirty(offset, size), 0);
  co_return IoStatus{error};
}

Task<IoStatus> Disk::Discard(uint64_t offset, uint64_t size) {
  const int error = co_await Begin("discard", offset, size, true);
  if (error == 0) Fill(Dirty(offset, size), 0);
  co_return IoStatus{error};
}

}  // namespace farside::fuzz
