#include "devices/nvme/queues.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutant.h"

namespace farside::nvme {

bool CompletionQueue::MoveHead(uint32_t new_head) {
  if (new_head >= size || (new_head + size - head) % size > used()) return false;
  if (!MUTANT("nvme-cq-head-ignored")) head = new_head;
  return true;
}

CompletionQueue::Entry CompletionQueue::Take() {
  CHECK(reserved > 0);
  --reserved;
  ++writing;
  const Entry entry{tail, phase};
  tail = (tail + 1) % size;
  if (tail == 0) phase = !phase;
  return entry;
}

bool SubmissionQueue::MoveTail(uint32_t new_tail) {
  if (new_tail >= size || (new_tail + size - tail) % size > size - 1 - pending()) return false;
  tail = new_tail;
  return true;
}

uint16_t SubmissionQueue::Report(uint64_t sequence) {
  reported = std::max(reported, sequence);
  return static_cast<uint16_t>((reported - (MUTANT("nvme-sq-head-late") ? 1 : 0)) % size);
}

bool QueueSet::CqInUse(uint32_t cqid) const {
  return std::ranges::any_of(
      sq, [&](const SubmissionQueue& queue) { return queue.exists() && queue.cqid == cqid; });
}

bool QueueSet::HasIoQueues() const {
  return std::any_of(sq.begin() + 1, sq.end(), [](const auto& queue) { return queue.exists(); }) ||
         std::any_of(cq.begin() + 1, cq.end(), [](const auto& queue) { return queue.exists(); });
}

void QueueSet::Clear() {
  std::ranges::fill(sq, SubmissionQueue{});
  std::ranges::fill(cq, CompletionQueue{});
  io_created = false;
}

}  // namespace farside::nvme
