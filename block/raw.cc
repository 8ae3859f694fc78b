#include "block/raw.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/bytes.h"
#include "block/iovec_cursor.h"

namespace farside::block {
namespace {

Task<IoStatus> Refuse(int error) { co_return IoStatus{error}; }

// What the file can do, with memory of any alignment.
BlockLimits LimitsOver(const BlockDevice& file, bool unmap) {
  BlockLimits limits = file.limits();
  limits.memory_alignment = 1;
  if (!unmap) {
    limits.discard_granularity = 0;
    limits.discard_zeroes = false;
  }
  return limits;
}

}  // namespace

Result<std::unique_ptr<RawNode>> RawNode::Create(const NodeOptions& options, BlockDevice& file,
                                                 const Window& window, Loop& loop) {
  if (file.read_only() && !options.read_only) {
    return FailWith(EROFS, "its file is read-only: use read-only=on here, too");
  }
  if (!InRange(window.offset, window.size.value_or(0), file.size())) {
    return FailWith(EINVAL, "offset {} and size {} lie outside its file, which has {} bytes",
                    window.offset, window.size.value_or(0), file.size());
  }
  const uint64_t size = window.size.value_or(file.size() - window.offset);
  const uint64_t multiple = std::max<uint64_t>(kSectorSize, file.limits().request_alignment);
  if (window.offset % multiple != 0 || size % multiple != 0 || size == 0) {
    return FailWith(EINVAL, "offset {} and size {}: both must be multiples of {}, and size not 0",
                    window.offset, size, multiple);
  }
  return std::unique_ptr<RawNode>(new RawNode(options, file, size, window.offset, loop));
}

RawNode::RawNode(const NodeOptions& options, BlockDevice& file, uint64_t size, uint64_t offset,
                 Loop& loop)
    : Node(options, size, LimitsOver(file, options.unmap)),
      file_(file),
      offset_(offset),
      memory_alignment_(file.limits().memory_alignment),
      buffer_returned_(loop) {
  if (memory_alignment_ == 1) return;
  CHECK(kBufferSize % memory_alignment_ == 0 && kBufferSize % limits().request_alignment == 0);
  // Memory is taken from the host only once a buffer is used.
  buffers_.reset(static_cast<std::byte*>(
      aligned_alloc(std::max<size_t>(memory_alignment_, 4096), kBuffers * kBufferSize)));
  CHECK(buffers_ != nullptr);
  for (size_t i = 0; i < kBuffers; ++i) ReturnBuffer(buffers_.get() + i * kBufferSize);
}

void RawNode::FreeMemory::operator()(std::byte* memory) const { free(memory); }

bool RawNode::NeedsBounce(std::span<const iovec> iov) const {
  if (memory_alignment_ == 1) return false;
  uintptr_t bits = 0;
  for (const iovec& part : iov) bits |= reinterpret_cast<uintptr_t>(part.iov_base) | part.iov_len;
  return (bits & (memory_alignment_ - 1)) != 0;
}

Task<std::byte*> RawNode::TakeBuffer() {
  while (free_count_ == 0) co_await buffer_returned_.Wait();
  co_return free_buffers_[--free_count_];
}

void RawNode::ReturnBuffer(std::byte* buffer) {
  free_buffers_[free_count_++] = buffer;
  buffer_returned_.NotifyAll();
}

Task<IoStatus> RawNode::ReadBounced(uint64_t offset, std::span<const iovec> iov) {
  const InFlight counted(*this);
  std::byte* buffer = co_await TakeBuffer();
  IovecCursor cursor(iov);
  IoStatus status;
  for (uint64_t left = IovecSize(iov); left != 0 && status.ok();) {
    const iovec part{buffer, std::min<uint64_t>(left, kBufferSize)};
    status = co_await file_.Read(offset, std::span(&part, 1));
    if (status.ok()) cursor.Scatter({buffer, part.iov_len});
    offset += part.iov_len;
    left -= part.iov_len;
  }
  ReturnBuffer(buffer);
  co_return status;
}

Task<IoStatus> RawNode::WriteBounced(uint64_t offset, std::span<const iovec> iov, bool fua) {
  const InFlight counted(*this);
  std::byte* buffer = co_await TakeBuffer();
  IovecCursor cursor(iov);
  IoStatus status;
  for (uint64_t left = IovecSize(iov); left != 0 && status.ok();) {
    const iovec part{buffer, std::min<uint64_t>(left, kBufferSize)};
    cursor.Gather({buffer, part.iov_len});
    status = co_await file_.Write(offset, std::span(&part, 1), fua);
    offset += part.iov_len;
    left -= part.iov_len;
  }
  ReturnBuffer(buffer);
  co_return status;
}

// What needs no work of ours is the file's own task: no frame of this node lies in between.

Task<IoStatus> RawNode::Read(uint64_t offset, std::span<const iovec> iov) {
  if (const int error = CheckRead(offset, IovecSize(iov))) return Refuse(error);
  if (NeedsBounce(iov)) return ReadBounced(offset_ + offset, iov);
  return file_.Read(offset_ + offset, iov);
}

Task<IoStatus> RawNode::Write(uint64_t offset, std::span<const iovec> iov, bool fua) {
  if (const int error = CheckWrite(offset, IovecSize(iov))) return Refuse(error);
  if (NeedsBounce(iov)) return WriteBounced(offset_ + offset, iov, fua);
  return file_.Write(offset_ + offset, iov, fua);
}

Task<IoStatus> RawNode::Flush() { return file_.Flush(); }

Task<IoStatus> RawNode::WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) {
  if (const int error = CheckWrite(offset, size)) return Refuse(error);
  return file_.WriteZeroes(offset_ + offset, size, may_unmap && unmap());
}

Task<IoStatus> RawNode::Discard(uint64_t offset, uint64_t size) {
  const int error = CheckWrite(offset, size);
  if (error != 0 || !unmap()) return Refuse(error);
  return file_.Discard(offset_ + offset, size);
}

}  // namespace farside::block
