// The disk's commands that need the medium. SBC-3 section 5.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/mutant.h"
#include "devices/scsi/big_endian.h"
#include "devices/scsi/disk.h"
#include "devices/scsi/disk_limits.h"

namespace farside::scsi {
namespace {

constexpr std::byte kProtect{0xe0};    // Byte 1: RDPROTECT, WRPROTECT, VRPROTECT.
constexpr std::byte kFua{0x08};        // Byte 1 of reads and writes.
constexpr std::byte kByteCheck{0x06};  // Byte 1 of verifications: BYTCHK.
constexpr std::byte kByteCheckAll{0x02};
constexpr std::byte kAnchor{0x10};     // Byte 1 of WRITE SAME.
constexpr std::byte kUnmap{0x08};      // Byte 1 of WRITE SAME.
constexpr std::byte kNoDataOut{0x01};  // Byte 1 of WRITE SAME(16): NDOB.

bool Has(ConstBytes cdb, std::byte flag) { return (cdb[1] & flag) != std::byte{}; }

bool IsZero(ConstBytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{}; });
}

bool Writes(Opcode opcode) {
  switch (opcode) {
    case Opcode::kWrite6:
    case Opcode::kWrite10:
    case Opcode::kWrite12:
    case Opcode::kWrite16:
    case Opcode::kWriteAndVerify10:
    case Opcode::kWriteAndVerify12:
    case Opcode::kWriteAndVerify16:
    case Opcode::kWriteSame10:
    case Opcode::kWriteSame16:
    case Opcode::kUnmap:
      return true;
    default:
      return false;
  }
}

// Whether the command has protection information in its CDB, of which there is none on the medium.
bool HasProtection(Opcode opcode) {
  switch (opcode) {
    case Opcode::kRead6:
    case Opcode::kWrite6:
    case Opcode::kSeek10:
    case Opcode::kSynchronizeCache10:
    case Opcode::kSynchronizeCache16:
      return false;
    default:
      return true;
  }
}

}  // namespace

Status Disk::WriteFailed(Request& request, block::IoStatus io,
                         std::optional<uint64_t> offset) const {
  if (offset) *offset /= block_size_;
  switch (io.error) {
    case EPERM:
    case EROFS:
      return request.CheckCondition({.key = SenseKey::kDataProtect, .code = asc::kWriteProtected});
    case ENOSPC:
      return request.CheckCondition(
          {.key = SenseKey::kDataProtect, .code = asc::kSpaceAllocationFailed});
    case EINVAL:
      return request.CheckCondition(
          {.key = SenseKey::kHardwareError, .code = asc::kInternalTargetFailure});
    case ECANCELED:
      return request.CheckCondition({.key = SenseKey::kAbortedCommand, .code = asc::kNone});
    default:
      return request.CheckCondition(
          {.key = SenseKey::kMediumError, .code = asc::kWriteError, .information = offset});
  }
}

Task<Status> Disk::ExecuteIo(Request& request) {
  const auto opcode = Opcode{std::to_integer<uint8_t>(request.cdb()[0])};
  if (opcode == Opcode::kServiceActionIn16) co_return co_await ReadCapacity16(request);
  if (opcode == Opcode::kReadCapacity10) co_return co_await ReadCapacity10(request);
  switch (opcode) {
    case Opcode::kTestUnitReady:
    case Opcode::kUnmap:
    case Opcode::kSeek10:
    case Opcode::kRead6:
    case Opcode::kRead10:
    case Opcode::kRead12:
    case Opcode::kRead16:
    case Opcode::kVerify10:
    case Opcode::kVerify12:
    case Opcode::kVerify16:
    case Opcode::kSynchronizeCache10:
    case Opcode::kSynchronizeCache16:
      break;
    default:
      if (!Writes(opcode)) co_return Illegal(request, asc::kInvalidOpcode);
  }
  if (opcode == Opcode::kUnmap && !provisioned()) co_return Illegal(request, asc::kInvalidOpcode);
  if (stopped_) {
    co_return request.CheckCondition(
        {.key = SenseKey::kNotReady, .code = asc::kInitializingCommandRequired});
  }
  if (opcode == Opcode::kTestUnitReady) co_return Status::kGood;
  if (Writes(opcode) && drive_.read_only()) {
    co_return request.CheckCondition({.key = SenseKey::kDataProtect, .code = asc::kWriteProtected});
  }
  if (opcode == Opcode::kUnmap) co_return co_await Unmap(request);
  co_return co_await ExecuteRanged(request, opcode);
}

Task<Status> Disk::ExecuteRanged(Request& request, Opcode opcode) {
  const ConstBytes cdb = request.cdb();
  BlockRange range = ParseRange(cdb);
  if (cdb.size() == 6 && range.count == 0) range.count = 256;
  if (opcode == Opcode::kSeek10) range.count = 1;
  if (HasProtection(opcode) && Has(cdb, kProtect)) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  if (!Contains(range)) co_return Illegal(request, asc::kLbaOutOfRange);
  const std::byte check = cdb[1] & kByteCheck;
  const Compare compare = check == kByteCheckAll ? Compare::kBlocks : Compare::kNothing;
  switch (opcode) {
    case Opcode::kRead6:
    case Opcode::kRead10:
    case Opcode::kRead12:
    case Opcode::kRead16:
      co_return co_await ReadBlocks(request, range);
    case Opcode::kWrite6:
    case Opcode::kWrite10:
    case Opcode::kWrite12:
    case Opcode::kWrite16:
      co_return co_await Write(request, range, cdb.size() != 6 && Has(cdb, kFua));
    case Opcode::kWriteAndVerify10:
    case Opcode::kWriteAndVerify12:
    case Opcode::kWriteAndVerify16:
    case Opcode::kVerify10:
    case Opcode::kVerify12:
    case Opcode::kVerify16:
      if (check != std::byte{} && check != kByteCheckAll) {
        co_return Illegal(request, asc::kInvalidFieldInCdb);
      }
      if (Writes(opcode)) co_return co_await WriteAndVerify(request, range, compare);
      co_return co_await Verify(request, range, compare);
    case Opcode::kWriteSame10:
    case Opcode::kWriteSame16:
      co_return co_await WriteSame(request, range);
    case Opcode::kSynchronizeCache10:
    case Opcode::kSynchronizeCache16:
      co_return co_await Flush(request);
    default:
      co_return Status::kGood;  // SEEK(10).
  }
}

Task<Status> Disk::Write(Request& request, BlockRange range, bool fua) {
  Extent extent = ExtentOf(range);
  if (MUTANT("scsi-write-one-off") && extent.offset != 0) extent.offset -= block_size_;
  uint64_t done = Progress(request, extent.size);
  const Bytes buffer = DriveBuffer(request, std::min(extent.size, kChunk));
  while (done < extent.size) {
    const Bytes chunk = buffer.first(std::min<uint64_t>(buffer.size(), extent.size - done));
    if (!co_await request.ReceiveOut(chunk)) co_return Status::kGood;
    const iovec iov{.iov_base = chunk.data(), .iov_len = chunk.size()};
    const block::IoStatus io =
        co_await drive_.Write(extent.offset + done, {&iov, 1}, fua || !write_cache());
    if (request.aborted()) co_return Status::kGood;
    if (!io.ok()) co_return WriteFailed(request, io, extent.offset + done);
    done += chunk.size();
  }
  co_return Status::kGood;
}

Task<bool> Disk::ReadChunk(Request& request, uint64_t offset, Bytes to, Status& status) {
  const iovec iov{.iov_base = to.data(), .iov_len = to.size()};
  const block::IoStatus io = co_await drive_.Read(offset, {&iov, 1});
  if (request.aborted()) co_return false;
  if (!io.ok()) status = ReadFailed(request, io, offset);
  co_return io.ok();
}

Task<Status> Disk::WriteAndVerify(Request& request, BlockRange range, Compare compare) {
  const Extent extent = ExtentOf(range);
  uint64_t done = Progress(request, extent.size);
  const uint64_t most = std::min(extent.size, kChunk);
  const Bytes buffer = DriveBuffer(request, most * 2);
  Status status = Status::kGood;
  while (done < extent.size) {
    const uint64_t size = std::min(most, extent.size - done);
    const Bytes chunk = buffer.first(size);
    const Bytes medium = buffer.subspan(most, size);
    const uint64_t offset = extent.offset + done;
    if (!co_await request.ReceiveOut(chunk)) co_return Status::kGood;
    const iovec iov{.iov_base = chunk.data(), .iov_len = chunk.size()};
    const block::IoStatus io = co_await drive_.Write(offset, {&iov, 1}, true);
    if (request.aborted()) co_return Status::kGood;
    if (!io.ok()) co_return WriteFailed(request, io, offset);
    if (!co_await ReadChunk(request, offset, medium, status)) co_return status;
    if (compare == Compare::kBlocks && !std::ranges::equal(chunk, medium)) {
      co_return request.CheckCondition(
          {.key = SenseKey::kMiscompare, .code = asc::kMiscompareDuringVerify});
    }
    done += size;
  }
  co_return Status::kGood;
}

Task<Status> Disk::Verify(Request& request, BlockRange range, Compare compare) {
  const Extent extent = ExtentOf(range);
  uint64_t done = compare == Compare::kNothing ? 0 : Progress(request, extent.size);
  const uint64_t most = std::min(extent.size, kChunk);
  const Bytes buffer = DriveBuffer(request, most * 2);
  Status status = Status::kGood;
  while (done < extent.size) {
    const uint64_t size = std::min(most, extent.size - done);
    const Bytes medium = buffer.subspan(most, size);
    if (!co_await ReadChunk(request, extent.offset + done, medium, status)) co_return status;
    if (compare == Compare::kBlocks) {
      const Bytes chunk = buffer.first(size);
      if (!co_await request.ReceiveOut(chunk)) co_return Status::kGood;
      const auto differs = std::ranges::mismatch(chunk, medium).in1;
      if (differs != chunk.end()) {
        const uint64_t at = done + static_cast<uint64_t>(differs - chunk.begin());
        co_return request.CheckCondition({.key = SenseKey::kMiscompare,
                                          .code = asc::kMiscompareDuringVerify,
                                          .information = range.lba + at / block_size_});
      }
    }
    done += size;
  }
  co_return Status::kGood;
}

// SBC-3 section 5.43. All of a range gets one block's content.
Task<Status> Disk::WriteSame(Request& request, BlockRange range) {
  const ConstBytes cdb = request.cdb();
  const bool unmap = Has(cdb, kUnmap);
  const bool no_data = cdb.size() == 16 && Has(cdb, kNoDataOut);
  // A count of 0 would be the rest of the medium: WSNZ says that there is no such thing.
  if (range.count == 0 || range.count > kMaxWriteSameBytes / block_size_ || Has(cdb, kAnchor) ||
      (unmap && !provisioned())) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  const Extent extent = ExtentOf(range);
  if (no_data) co_return co_await WriteZeroes(request, extent, unmap);
  const Bytes buffer = DriveBuffer(request, std::min(extent.size, kChunk));
  const Bytes block = buffer.first(block_size_);
  if (!co_await request.ReceiveOut(block)) co_return Status::kGood;
  if (IsZero(block)) co_return co_await WriteZeroes(request, extent, unmap);
  for (size_t at = block_size_; at < buffer.size(); at += block_size_) {
    Copy(buffer.subspan(at, block_size_), block);
  }
  co_return co_await WritePattern(request, extent);
}

Task<Status> Disk::WriteZeroes(Request& request, Extent extent, bool may_unmap) {
  const block::IoStatus io = co_await drive_.WriteZeroes(extent.offset, extent.size, may_unmap);
  if (request.aborted()) co_return Status::kGood;
  if (!io.ok()) co_return WriteFailed(request, io, extent.offset);
  co_return co_await Settle(request);
}

// The request's buffer is full of it.
Task<Status> Disk::WritePattern(Request& request, Extent extent) {
  const Bytes buffer = DriveBuffer(request, std::min(extent.size, kChunk));
  for (uint64_t done = 0; done < extent.size;) {
    const uint64_t size = std::min<uint64_t>(buffer.size(), extent.size - done);
    const iovec iov{.iov_base = buffer.data(), .iov_len = size};
    const block::IoStatus io =
        co_await drive_.Write(extent.offset + done, {&iov, 1}, !write_cache());
    if (request.aborted()) co_return Status::kGood;
    if (!io.ok()) co_return WriteFailed(request, io, extent.offset + done);
    done += size;
  }
  co_return Status::kGood;
}

// SBC-3 section 5.26.
Task<Status> Disk::Unmap(Request& request) {
  constexpr size_t kHeader = 8;
  const ConstBytes cdb = request.cdb();
  const size_t size = LoadBe<uint16_t>(cdb.subspan(7));
  if (Has(cdb, std::byte{1})) co_return Illegal(request, asc::kInvalidFieldInCdb);  // ANCHOR
  if (size == 0) co_return Status::kGood;
  if (size < kHeader) co_return Illegal(request, asc::kParameterListLength);
  const Bytes list = request.buffer(size);
  if (!co_await request.ReceiveOut(list)) co_return Status::kGood;
  // Neither length promises more than there is.
  const size_t descriptors =
      std::min<size_t>(LoadBe<uint16_t>(list.subspan(2)), size - kHeader) / 16 * 16;
  co_return co_await UnmapRanges(request, list.subspan(kHeader, descriptors));
}

Task<Status> Disk::UnmapRanges(Request& request, ConstBytes descriptors) {
  constexpr size_t kDescriptor = 16;
  const auto range_at = [&](size_t at) {
    return BlockRange{LoadBe<uint64_t>(descriptors.subspan(at)),
                      LoadBe<uint32_t>(descriptors.subspan(at + 8))};
  };
  uint64_t total = 0;
  for (size_t at = 0; at < descriptors.size(); at += kDescriptor) {
    if (!Contains(range_at(at))) co_return Illegal(request, asc::kLbaOutOfRange);
    total += range_at(at).count;
  }
  if (descriptors.size() / kDescriptor > kMaxUnmapDescriptors ||
      total > kMaxUnmapBytes / block_size_) {
    co_return Illegal(request, asc::kInvalidFieldInParameterList);
  }
  for (size_t at = 0; at < descriptors.size(); at += kDescriptor) {
    const Extent extent = ExtentOf(range_at(at));
    if (extent.size == 0) continue;
    const block::IoStatus io = co_await drive_.Discard(extent.offset, extent.size);
    if (request.aborted()) co_return Status::kGood;
    if (!io.ok()) co_return WriteFailed(request, io, extent.offset);
  }
  co_return co_await Settle(request);
}

Task<Status> Disk::Flush(Request& request) {
  const block::IoStatus io = co_await drive_.Flush();
  if (request.aborted()) co_return Status::kGood;
  co_return io.ok() ? Status::kGood : WriteFailed(request, io, std::nullopt);
}

Task<Status> Disk::Settle(Request& request) {
  if (write_cache()) co_return Status::kGood;
  co_return co_await Flush(request);
}

}  // namespace farside::scsi
