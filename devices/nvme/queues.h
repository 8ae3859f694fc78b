// Submission and completion queues: the arithmetic of their rings. No I/O and no policy.
#pragma once

#include <cstdint>
#include <vector>

#include "devices/nvme/commands.h"

namespace farside::nvme {

// NVM Express 1.4, section 4.1. One entry is always left empty: a ring of `size` holds size - 1.
struct CompletionQueue {
  uint64_t base = 0;  // Where entry 0 lies.
  uint32_t size = 0;  // Entries; 0 where there is no queue.
  uint32_t head = 0;  // The next entry that the host has not taken.
  uint32_t tail = 0;  // The next entry to be written.
  bool phase = true;  // The phase tag of that entry.
  bool interrupts = false;
  uint16_t vector = 0;

  // These follow from the commands in flight and are not saved.
  uint32_t reserved = 0;  // Entries promised to commands that are not counted in `tail` yet.
  uint32_t writing = 0;   // Entries counted in `tail` whose DMA has not ended.

  bool exists() const { return size != 0; }
  uint32_t used() const { return (tail + size - head) % size; }
  // Entries that may still be promised.
  uint32_t available() const { return size - 1 - used() - reserved; }
  // The host has something to look at.
  bool unread() const { return used() > writing; }

  // A head doorbell. False: not a value that the host may write (beyond the ring or the tail).
  [[nodiscard]] bool MoveHead(uint32_t new_head);
  // Turns a reservation into entry `tail`; the caller writes it with the phase tag returned.
  struct Entry {
    uint32_t index;
    bool phase;
  };
  Entry Take();
};

struct SubmissionQueue {
  uint64_t base = 0;
  uint32_t size = 0;
  uint32_t tail = 0;      // The host's.
  uint64_t fetched = 0;   // Entries consumed since the queue was created: the head is this % size.
  uint64_t reported = 0;  // What completions told the host of that. See Report.
  uint16_t cqid = 0;

  // Not saved.
  uint64_t started = 0;    // Commands that were given a Command::turn.
  uint64_t decided = 0;    // Those whose outcome is decided, if that happens in their order.
  uint32_t executing = 0;  // Commands of this queue that have not ended.
  bool serving = false;    // A task fetches from it.
  bool starved = false;    // It had entries but no command was free.
  bool deleting = false;

  bool exists() const { return size != 0; }
  uint32_t head() const { return static_cast<uint32_t>(fetched % size); }
  // Entries that the host submitted and nobody fetched.
  uint32_t pending() const { return (tail + size - head()) % size; }

  // A tail doorbell. False: beyond the ring, or more entries than were free.
  [[nodiscard]] bool MoveTail(uint32_t new_tail);
  // The SQ Head Pointer for the completion of the command that was the `sequence`-th consumed. The
  // head that the host is told moves only with completions, never back. So it does not depend on
  // how many entries were fetched ahead, and traces of builds that fetch differently are alike.
  uint16_t Report(uint64_t sequence);
};

// A fixed slot for each identifier; 0 is the admin queues'.
struct QueueSet {
  explicit QueueSet(uint32_t io_pairs) : sq(io_pairs + 1), cq(io_pairs + 1) {}

  bool HasSq(uint32_t id) const { return id < sq.size() && sq[id].exists(); }
  bool HasCq(uint32_t id) const { return id < cq.size() && cq[id].exists(); }
  // True when some submission queue completes into `cqid`.
  bool CqInUse(uint32_t cqid) const;
  // True when there is a queue besides the admin queues.
  bool HasIoQueues() const;
  // As after a controller reset.
  void Clear();

  std::vector<SubmissionQueue> sq;
  std::vector<CompletionQueue> cq;
  bool io_created = false;  // An I/O queue, which may be deleted by now.
};

}  // namespace farside::nvme
