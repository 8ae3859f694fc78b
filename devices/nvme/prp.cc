#include "devices/nvme/prp.h"
#include "base/mutant.h"

#include <algorithm>
#include <vector>

namespace farside::nvme {
namespace {

void AddSegment(std::vector<DmaSegment>& segments, uint64_t iova, uint64_t size) {
  if (!segments.empty()) {
    DmaSegment& last = segments.back();
    // Nothing is adjacent to the end of the address space.
    if (last.iova + last.size == iova && iova != 0) {
      last.size += size;
      return;
    }
  }
  segments.push_back({iova, size});
}

// What a list page needs to hold: the entries of the pages that are left, or, where they do not
// fit, as many as there is room for, of which the last points to the next list page.
uint64_t EntriesToRead(uint64_t list, uint64_t page_size, uint64_t pages_left) {
  const uint64_t room = (page_size - list % page_size) / sizeof(uint64_t);
  return std::min(room, pages_left);
}

}  // namespace

Task<Status> WalkPrps(HostMemory memory, Command& command, uint64_t size) {
  const uint64_t page_size = memory.page_size;
  const uint64_t prp1 = command.sqe.prp1;
  const uint64_t prp2 = command.sqe.prp2;
  std::vector<DmaSegment>& segments = command.segments;
  segments.clear();
  if (prp1 % 4 != 0) co_return Status::kInvalidPrpOffset;
  const uint64_t first = std::min(size, page_size - prp1 % page_size);
  AddSegment(segments, prp1, first);
  uint64_t left = size - first;
  if (left == 0) co_return Status::kSuccess;
  if (left <= page_size) {
    if (prp2 % page_size != 0) co_return Status::kInvalidPrpOffset;
    AddSegment(segments, prp2, left);
    co_return Status::kSuccess;
  }

  uint64_t list = prp2;
  if (list % sizeof(uint64_t) != 0) co_return Status::kInvalidPrpOffset;
  while (left != 0) {
    const uint64_t pages_left = (left + page_size - 1) / page_size;
    const uint64_t count = EntriesToRead(list, page_size, pages_left);
    command.prps.resize(count);
    const auto bytes = std::as_writable_bytes(std::span(command.prps));
    const DmaStatus status = co_await memory.dma.Read(list, bytes);
    if (status != DmaStatus::kOk || command.cancelled) co_return Status::kDataTransferError;
    const bool chained = count < pages_left;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t entry = command.prps[i];
      if (entry % page_size != 0) co_return Status::kInvalidPrpOffset;
      if (chained && i == count - 1) {
        list = entry;
        break;
      }
      const uint64_t part = std::min(left, page_size);
      AddSegment(segments, MUTANT("nvme-prp-first-again") ? command.prps[0] : entry, part);
      left -= part;
    }
  }
  co_return Status::kSuccess;
}

Task<Status> MapData(HostMemory memory, Command& command, uint64_t size, DmaAccess access,
                     DmaBuffer* buffer) {
  if (size > memory.max_transfer) co_return Status::kInvalidField;
  const Status walked = co_await WalkPrps(memory, command, size);
  if (walked != Status::kSuccess) co_return walked;
  const DmaStatus status = co_await memory.dma.Map(command.segments, access, buffer);
  co_return status == DmaStatus::kOk ? Status::kSuccess : Status::kDataTransferError;
}

Task<Status> SendData(HostMemory memory, Command& command, ConstBytes data) {
  DmaBuffer buffer;
  const Status mapped = co_await MapData(memory, command, data.size(), DmaAccess::kWrite, &buffer);
  if (mapped != Status::kSuccess || command.cancelled) co_return mapped;
  Scatter(buffer.iovecs(), data);
  const DmaStatus status = co_await buffer.Finish();
  co_return status == DmaStatus::kOk ? Status::kSuccess : Status::kDataTransferError;
}

Task<Status> ReceiveData(HostMemory memory, Command& command, Bytes data) {
  DmaBuffer buffer;
  const Status mapped = co_await MapData(memory, command, data.size(), DmaAccess::kRead, &buffer);
  if (mapped != Status::kSuccess || command.cancelled) co_return mapped;
  Gather(data, buffer.iovecs());
  const DmaStatus status = co_await buffer.Finish();
  co_return status == DmaStatus::kOk ? Status::kSuccess : Status::kDataTransferError;
}

void Scatter(std::span<const iovec> to, ConstBytes from) {
  for (const iovec& part : to) {
    Copy(Bytes(static_cast<std::byte*>(part.iov_base), part.iov_len), from.first(part.iov_len));
    from = from.subspan(part.iov_len);
  }
}

void Gather(Bytes to, std::span<const iovec> from) {
  for (const iovec& part : from) {
    Copy(to.first(part.iov_len),
         ConstBytes(static_cast<const std::byte*>(part.iov_base), part.iov_len));
    to = to.subspan(part.iov_len);
  }
}

}  // namespace farside::nvme
