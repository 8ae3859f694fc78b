// NvmeQueue: a submission queue and its completion queue, as a driver keeps them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "devices/nvme/commands.h"
#include "harness/host/guest_memory.h"
#include "protocol/device_client.h"

namespace farside {

// One pair of rings in guest memory. Commands are known by the identifier that Submit gives them;
// a completion that answers none is an Error: the device broke NVMe. For one thread.
class NvmeQueue {
 public:
  struct Shape {
    uint16_t id = 0;       // Of both queues. 0: admin.
    uint32_t entries = 2;  // Of both, 2 and up; one less can be in flight.
    uint32_t bar = 0;      // Where the doorbells are.
    uint32_t cpu = 0;      // Who rings them.
  };

  // The rings lie in zeroed pages of `memory`.
  static Result<std::unique_ptr<NvmeQueue>> Create(DeviceClient& client, GuestMemory& memory,
                                                   const Shape& shape);

  uint16_t id() const { return shape_.id; }
  uint32_t entries() const { return shape_.entries; }
  uint64_t sq_base() const { return sq_.iova(); }
  uint64_t cq_base() const { return cq_.iova(); }
  uint32_t in_flight() const { return static_cast<uint32_t>(in_flight_.size()); }

  // Writes `sqe` with an identifier of its own to the queue and, with `ring`, its tail to the
  // doorbell. EBUSY when the queue is full.
  Result<uint16_t> Submit(nvme::Sqe sqe, bool ring = true);
  // Tells the device of what was submitted without ringing.
  Result<void> Ring();
  // Takes the completions that are there and tells the device; how many there were.
  Result<uint32_t> Reap();
  // The completion of command `cid`, once Reap has seen it.
  std::optional<nvme::Cqe> Take(uint16_t cid);

 private:
  NvmeQueue(DeviceClient& client, GuestMemory& memory, const Shape& shape, GuestPages sq,
            GuestPages cq)
      : client_(client), memory_(memory), shape_(shape), sq_(std::move(sq)), cq_(std::move(cq)) {}
  Result<void> Accept(const nvme::Cqe& cqe);

  DeviceClient& client_;
  GuestMemory& memory_;
  const Shape shape_;
  const GuestPages sq_;
  const GuestPages cq_;
  uint32_t sq_tail_ = 0;
  uint32_t sq_head_ = 0;  // As the device last said.
  uint32_t cq_head_ = 0;
  bool phase_ = true;
  uint16_t next_cid_ = 0;
  std::map<uint16_t, std::optional<nvme::Cqe>> in_flight_;  // Answered ones until they are taken.
};

}  // namespace farside
