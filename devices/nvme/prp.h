// Data transfers: PRP entries and lists to memory segments. NVM Express 1.4, section 4.3.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/task.h"
#include "devices/core/dma_space.h"
#include "devices/nvme/command.h"

namespace farside::nvme {

// The way to the memory that a command's PRPs name.
struct HostMemory {
  DmaSpace& dma;
  uint64_t page_size = 0;     // CC.MPS.
  uint64_t max_transfer = 0;  // MDTS, in bytes: bounds what a command can make us hold.
};

// Puts the segments of the first `size` bytes of the command's data into command.segments, adjacent
// ones merged. Each list entry is read once. Bounded by max_transfer: every list page read names at
// least one page of data or ends the walk.
Task<Status> WalkPrps(HostMemory memory, Command& command, uint64_t size);

// Leases the command's data, `size` > 0 bytes. `*buffer` is set only on kSuccess; the caller awaits
// its Finish. kInvalidField beyond max_transfer, kInvalidPrpOffset, or kDataTransferError.
Task<Status> MapData(HostMemory memory, Command& command, uint64_t size, DmaAccess access,
                     DmaBuffer* buffer);

// Moves all of `data`, which stays alive until the task has ended. To the host, and from it.
Task<Status> SendData(HostMemory memory, Command& command, ConstBytes data);
Task<Status> ReceiveData(HostMemory memory, Command& command, Bytes data);

// Copies between iovecs and as many contiguous bytes.
void Scatter(std::span<const iovec> to, ConstBytes from);
void Gather(Bytes to, std::span<const iovec> from);

}  // namespace farside::nvme
