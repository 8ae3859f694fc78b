#include "harness/drivers/nvme_queue.h"

#include <cerrno>

#include "base/check.h"
#include "devices/nvme/registers.h"

namespace farside {

using nvme::Cqe;
using nvme::Sqe;

Result<std::unique_ptr<NvmeQueue>> NvmeQueue::Create(DeviceClient& client, GuestMemory& memory,
                                                     const Shape& shape) {
  CHECK(shape.entries >= 2);
  auto sq = GuestPages::Take(memory, shape.entries * sizeof(Sqe));
  if (!sq) return tl::unexpected(sq.error());
  auto cq = GuestPages::Take(memory, shape.entries * sizeof(Cqe));
  if (!cq) return tl::unexpected(cq.error());
  return std::unique_ptr<NvmeQueue>(
      new NvmeQueue(client, memory, shape, std::move(*sq), std::move(*cq)));
}

Result<uint16_t> NvmeQueue::Submit(Sqe sqe, bool ring) {
  const uint32_t next = (sq_tail_ + 1) % shape_.entries;
  if (next == sq_head_ || in_flight_.size() >= shape_.entries - 1) {
    return FailWith(EBUSY, "submission queue {} of {} entries is full", shape_.id, shape_.entries);
  }
  while (in_flight_.contains(next_cid_)) ++next_cid_;
  sqe.cid = next_cid_++;
  const auto put = memory_.Write(sq_.iova() + sq_tail_ * sizeof sqe, AsBytes(sqe));
  if (!put) return tl::unexpected(put.error());
  sq_tail_ = next;
  in_flight_[sqe.cid] = std::nullopt;
  if (!ring) return sqe.cid;
  if (const auto rung = Ring(); !rung) return tl::unexpected(rung.error());
  return sqe.cid;
}

Result<void> NvmeQueue::Ring() {
  return client_.PostWrite(
      {.region = shape_.bar, .offset = nvme::SqTailDoorbell(shape_.id), .cpu = shape_.cpu},
      AsBytes(sq_tail_));
}

Result<uint32_t> NvmeQueue::Reap() {
  uint32_t count = 0;
  // More than the queue holds can't have come since the last look.
  while (count < shape_.entries) {
    const uint64_t at = cq_.iova() + cq_head_ * sizeof(Cqe);
    // The device writes the phase last: it is looked at first.
    const auto status = memory_.Load<uint16_t>(at + offsetof(Cqe, status));
    if (!status) return tl::unexpected(status.error());
    Cqe cqe;
    cqe.status = *status;
    if (nvme::PhaseOf(cqe) != phase_) break;
    if (const auto read = memory_.Read(at, AsWritableBytes(cqe)); !read) {
      return tl::unexpected(read.error());
    }
    if (const auto accepted = Accept(cqe); !accepted) return tl::unexpected(accepted.error());
    cq_head_ = (cq_head_ + 1) % shape_.entries;
    if (cq_head_ == 0) phase_ = !phase_;
    ++count;
  }
  if (count == 0) return count;
  const auto rung = client_.PostWrite(
      {.region = shape_.bar, .offset = nvme::CqHeadDoorbell(shape_.id), .cpu = shape_.cpu},
      AsBytes(cq_head_));
  if (!rung) return tl::unexpected(rung.error());
  return count;
}

Result<void> NvmeQueue::Accept(const Cqe& cqe) {
  const auto found = in_flight_.find(cqe.cid);
  if (found == in_flight_.end() || found->second || cqe.sqid != shape_.id ||
      cqe.sq_head >= shape_.entries) {
    return FailWith(EPROTO,
                    "the device breaks NVMe: entry {} of completion queue {} is for command {:#x} "
                    "of queue {} with head {}, which is not in flight",
                    cq_head_, shape_.id, cqe.cid, cqe.sqid, cqe.sq_head);
  }
  sq_head_ = cqe.sq_head;
  found->second = cqe;
  return {};
}

std::optional<Cqe> NvmeQueue::Take(uint16_t cid) {
  const auto found = in_flight_.find(cid);
  if (found == in_flight_.end() || !found->second) return std::nullopt;
  const Cqe cqe = *found->second;
  in_flight_.erase(found);
  return cqe;
}

}  // namespace farside
