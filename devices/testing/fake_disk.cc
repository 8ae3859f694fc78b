#include "devices/testing/fake_disk.h"

#include <cerrno>

#include "devices/testing/yield.h"

namespace farside {

using block::IoStatus;

bool FakeDisk::Release(size_t index) {
  if (index >= waiting_.size()) return false;
  Completion<bool>* completion = waiting_[index];
  waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(index));
  completion->Set(true);
  return true;
}

void FakeDisk::ReleaseAll() {
  held_ = false;
  while (Release(0)) {
  }
}

bool FakeDisk::IsLawful(const Request& request) const {
  return InRange(request.offset, request.size, data_.size()) &&
         (request.offset | request.size) % limits_.request_alignment == 0;
}

bool FakeDisk::AreLawful(std::span<const iovec> iov) const {
  for (const iovec& part : iov) {
    const auto address = reinterpret_cast<uintptr_t>(part.iov_base);
    if ((address | part.iov_len) % limits_.memory_alignment != 0) return false;
  }
  return true;
}

Task<int> FakeDisk::Begin(Request request) {
  requests_.push_back(request);
  ++in_flight_;
  int error = IsLawful(request) ? 0 : EINVAL;
  if (failure_ && failure_->op == request.op) {
    error = failure_->error;
    failure_.reset();
  }
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

Task<IoStatus> FakeDisk::Read(uint64_t offset, std::span<const iovec> iov) {
  const bool lawful = AreLawful(iov);
  const int error =
      co_await Begin({.op = Op::kRead, .offset = offset, .size = block::IovecSize(iov)});
  if (error != 0) co_return IoStatus{error};
  if (!lawful) co_return IoStatus{EINVAL};
  ConstBytes from = ConstBytes(data_).subspan(offset);
  for (const iovec& part : iov) {
    Copy(Bytes(static_cast<std::byte*>(part.iov_base), part.iov_len), from.first(part.iov_len));
    from = from.subspan(part.iov_len);
  }
  co_return IoStatus{};
}

Task<IoStatus> FakeDisk::Write(uint64_t offset, std::span<const iovec> iov, bool fua) {
  const bool lawful = AreLawful(iov);
  const int error = co_await Begin(
      {.op = Op::kWrite, .offset = offset, .size = block::IovecSize(iov), .flag = fua});
  if (error != 0) co_return IoStatus{error};
  if (!lawful) co_return IoStatus{EINVAL};
  if (read_only_) co_return IoStatus{EPERM};
  Bytes to = Bytes(data_).subspan(offset);
  for (const iovec& part : iov) {
    Copy(to.first(part.iov_len),
         ConstBytes(static_cast<const std::byte*>(part.iov_base), part.iov_len));
    to = to.subspan(part.iov_len);
  }
  co_return IoStatus{};
}

Task<IoStatus> FakeDisk::Flush() {
  const int error = co_await Begin({.op = Op::kFlush});
  co_return IoStatus{error};
}

Task<IoStatus> FakeDisk::WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) {
  const int error =
      co_await Begin({.op = Op::kWriteZeroes, .offset = offset, .size = size, .flag = may_unmap});
  if (error != 0) co_return IoStatus{error};
  if (read_only_) co_return IoStatus{EPERM};
  Fill(Bytes(data_).subspan(offset, size), 0);
  co_return IoStatus{};
}

Task<IoStatus> FakeDisk::Discard(uint64_t offset, uint64_t size) {
  const int error = co_await Begin({.op = Op::kDiscard, .offset = offset, .size = size});
  if (error != 0) co_return IoStatus{error};
  if (read_only_) co_return IoStatus{EPERM};
  if (limits_.discard_zeroes) Fill(Bytes(data_).subspan(offset, size), 0);
  co_return IoStatus{};
}

}  // namespace farside
