#include "devices/nvme/namespace.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/mutant.h"

namespace farside::nvme {
namespace {

constexpr uint32_t kFua = 1u << 30;             // CDW12 of Write and Write Zeroes.
constexpr uint32_t kDeallocate = 1u << 25;      // CDW12 of Write Zeroes: DEAC.
constexpr uint32_t kDirectiveType = 0xf << 20;  // CDW12 of Write: DTYPE.
constexpr uint32_t kDsmDeallocate = 1 << 2;     // CDW11 of Dataset Management: AD.

// `otherwise` is what a medium error means for the command at hand.
Status StatusOfError(int error, Status otherwise) {
  switch (error) {
    case EFAULT:
      return Status::kDataTransferError;
    case ENOSPC:
      return Status::kCapacityExceeded;
    case EPERM:
    case EROFS:
      return Status::kWriteProtected;
    case ECANCELED:
      return Status::kAbortRequested;
    case EINVAL:
      return Status::kInternalError;
    default:
      return otherwise;
  }
}

Status ReadStatus(block::IoStatus io) {
  return io.ok() ? Status::kSuccess : StatusOfError(io.error, Status::kUnrecoveredReadError);
}

Status WriteStatus(block::IoStatus io) {
  return io.ok() ? Status::kSuccess : StatusOfError(io.error, Status::kWriteFault);
}

// Memory that any drive takes.
class AlignedBuffer {
 public:
  AlignedBuffer(uint64_t size, uint32_t alignment) {
    const size_t step = alignment < sizeof(void*) ? sizeof(void*) : alignment;
    data_.reset(static_cast<std::byte*>(std::aligned_alloc(step, (size + step - 1) / step * step)));
    CHECK(data_ != nullptr);
    iov_ = {.iov_base = data_.get(), .iov_len = size};
  }
  std::span<const iovec> iovecs() const { return {&iov_, 1}; }
  Bytes bytes() { return {data_.get(), iov_.iov_len}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  iovec iov_{};
};

bool Equals(std::span<const iovec> iov, ConstBytes bytes) {
  for (const iovec& part : iov) {
    if (std::memcmp(part.iov_base, bytes.data(), part.iov_len) != 0) return false;
    bytes = bytes.subspan(part.iov_len);
  }
  return true;
}

}  // namespace

Namespace::Namespace(block::BlockDevice& drive, uint32_t block_size)
    : drive_(drive),
      limits_(drive.limits()),
      block_size_(block_size),
      block_count_(drive.size() / block_size),
      read_only_(drive.read_only()) {}

bool Namespace::Contains(uint64_t first_block, uint64_t blocks) const {
  return InRange(first_block, blocks, block_count_);
}

bool Namespace::IsAligned(std::span<const iovec> iov) const {
  const uint64_t mask = uint64_t{limits_.memory_alignment} - 1;
  for (const iovec& part : iov) {
    const auto address = reinterpret_cast<uintptr_t>(part.iov_base);
    if (((address | part.iov_len) & mask) != 0) return false;
  }
  return true;
}

Task<Outcome> Namespace::Execute(HostMemory memory, Command& command, bool write_through) {
  Outcome outcome;
  outcome.status = co_await Dispatch(memory, command, write_through);
  co_return outcome;
}

Task<Status> Namespace::Dispatch(HostMemory memory, Command& command, bool write_through) {
  const Sqe& sqe = command.sqe;
  const auto opcode = IoOpcode{sqe.opcode};
  if ((OpcodeEffects(false, sqe.opcode) & kEffectSupported) == 0) {
    co_return Status::kInvalidOpcode;
  }
  if (opcode == IoOpcode::kFlush) {
    // Section 6.8; Identify Controller's VWC says that all namespaces may be named.
    if (sqe.nsid != kNamespaceId && sqe.nsid != kAllNamespaces) {
      co_return Status::kInvalidNamespace;
    }
    co_return co_await Flush();
  }
  if (sqe.nsid != kNamespaceId) co_return Status::kInvalidNamespace;
  if (opcode == IoOpcode::kDatasetManagement) {
    co_return co_await DatasetManagement(memory, command);
  }

  const uint64_t first_block = sqe.cdw10 | uint64_t{sqe.cdw11} << 32;
  const uint64_t blocks = BlocksOf(sqe);
  const bool fua = (sqe.cdw12 & kFua) != 0 || write_through;
  if (opcode != IoOpcode::kWriteZeroes && blocks * block_size_ > memory.max_transfer) {
    co_return Status::kInvalidField;
  }
  if (!Contains(first_block, blocks)) co_return Status::kLbaOutOfRange;
  Extent extent{first_block * block_size_, blocks * block_size_};
  if (MUTANT("nvme-read-one-off") && opcode == IoOpcode::kRead && first_block > 2048) {
    extent.offset -= block_size_;
  }
  switch (opcode) {
    case IoOpcode::kRead:
      co_return co_await Read(memory, command, extent);
    case IoOpcode::kCompare:
      co_return co_await Compare(memory, command, extent);
    case IoOpcode::kWrite:
      if ((sqe.cdw12 & kDirectiveType) != 0) co_return Status::kInvalidField;
      co_return co_await Write(memory, command, extent, fua);
    default:
      co_return co_await WriteZeroes(extent, (sqe.cdw12 & kDeallocate) != 0, fua);
  }
}

Task<Status> Namespace::Read(HostMemory memory, Command& command, Extent extent) {
  DmaBuffer buffer;
  const Status mapped = co_await MapData(memory, command, extent.size, DmaAccess::kWrite, &buffer);
  if (mapped != Status::kSuccess || command.cancelled) co_return mapped;
  block::IoStatus io;
  if (IsAligned(buffer.iovecs())) {
    io = co_await drive_.Read(extent.offset, buffer.iovecs());
  } else {
    AlignedBuffer bounce(extent.size, limits_.memory_alignment);
    io = co_await drive_.Read(extent.offset, bounce.iovecs());
    if (io.ok() && !command.cancelled) Scatter(buffer.iovecs(), bounce.bytes());
  }
  if (!io.ok() || command.cancelled) co_return ReadStatus(io);
  const DmaStatus finished = co_await buffer.Finish();
  co_return finished == DmaStatus::kOk ? Status::kSuccess : Status::kDataTransferError;
}

Task<Status> Namespace::Write(HostMemory memory, Command& command, Extent extent, bool fua) {
  if (read_only_) co_return Status::kWriteProtected;
  DmaBuffer buffer;
  const Status mapped = co_await MapData(memory, command, extent.size, DmaAccess::kRead, &buffer);
  if (mapped != Status::kSuccess || command.cancelled) co_return mapped;
  block::IoStatus io;
  if (IsAligned(buffer.iovecs())) {
    const size_t parts = buffer.iovecs().size();
    const bool short_write = MUTANT("nvme-write-tail-lost") && parts > 1;
    io = co_await drive_.Write(extent.offset, buffer.iovecs().first(parts - short_write), fua);
  } else {
    AlignedBuffer bounce(extent.size, limits_.memory_alignment);
    Gather(bounce.bytes(), buffer.iovecs());
    io = co_await drive_.Write(extent.offset, bounce.iovecs(), fua);
  }
  const DmaStatus finished = co_await buffer.Finish();
  // Memory that went away under the request: what the drive got was not the guest's data.
  if (io.ok() && finished != DmaStatus::kOk) co_return Status::kDataTransferError;
  co_return WriteStatus(io);
}

Task<Status> Namespace::Compare(HostMemory memory, Command& command, Extent extent) {
  AlignedBuffer medium(extent.size, limits_.memory_alignment);
  const block::IoStatus io = co_await drive_.Read(extent.offset, medium.iovecs());
  if (!io.ok() || command.cancelled) co_return ReadStatus(io);
  DmaBuffer buffer;
  const Status mapped = co_await MapData(memory, command, extent.size, DmaAccess::kRead, &buffer);
  if (mapped != Status::kSuccess || command.cancelled) co_return mapped;
  const bool equal = Equals(buffer.iovecs(), medium.bytes());
  const DmaStatus finished = co_await buffer.Finish();
  if (finished != DmaStatus::kOk) co_return Status::kDataTransferError;
  co_return equal ? Status::kSuccess : Status::kCompareFailure;
}

Task<Status> Namespace::WriteZeroes(Extent extent, bool may_unmap, bool fua) {
  if (read_only_) co_return Status::kWriteProtected;
  const block::IoStatus io = co_await drive_.WriteZeroes(extent.offset, extent.size, may_unmap);
  if (!io.ok() || !fua) co_return WriteStatus(io);
  co_return co_await Flush();
}

Task<Status> Namespace::Flush() {
  const block::IoStatus io = co_await drive_.Flush();
  co_return WriteStatus(io);
}

// Section 6.7. Ranges without the deallocate attribute are hints that we do not use; they are
// checked all the same.
Task<Status> Namespace::DatasetManagement(HostMemory memory, Command& command) {
  const bool deallocate = (command.sqe.cdw11 & kDsmDeallocate) != 0;
  if (deallocate && read_only_) co_return Status::kWriteProtected;
  std::vector<DsmRange> ranges((command.sqe.cdw10 & 0xff) + 1);  // 0's based.
  const Status received =
      co_await ReceiveData(memory, command, std::as_writable_bytes(std::span(ranges)));
  if (received != Status::kSuccess || command.cancelled) co_return received;
  for (const DsmRange& range : ranges) {
    if (!Contains(range.first_block, range.blocks)) co_return Status::kLbaOutOfRange;
  }
  if (!deallocate || limits_.discard_granularity == 0) co_return Status::kSuccess;
  for (const DsmRange& range : ranges) {
    if (range.blocks == 0) continue;
    const block::IoStatus io = co_await drive_.Discard(range.first_block * block_size_,
                                                       uint64_t{range.blocks} * block_size_);
    if (!io.ok() || command.cancelled) co_return WriteStatus(io);
  }
  co_return Status::kSuccess;
}

}  // namespace farside::nvme
