// NvmeReferee: NVM Express 1.4 as a driver sees it. It follows the queues by their doorbells, by
// the entries that the controller fetches and by those that it writes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"
#include "fuzz/host/disk.h"
#include "fuzz/host/host.h"
#include "fuzz/host/referee.h"

namespace farside::fuzz {

// What is known of the controller's options.
struct NvmeFacts {
  uint32_t io_pairs = 0;
  uint32_t event_requests = 0;  // That may wait: AERL + 1.
  uint64_t max_transfer = 0;    // MDTS, in bytes.
};

// Oracles: "nvme-registers" (a register moves that may not, or RDY with a configuration that is
// none), "nvme-fetch" (an entry that was not submitted), "nvme-completion" (one that is not due, or
// not where it belongs), "nvme-status" (success of what has to fail, and the reverse), "nvme-data"
// (a successful command without its effect), "self-access" (one that succeeds with its data in the
// device's own BAR), "interrupt-lost", "interrupt-twice".
//
// A guest that lets queues and data share memory, or rings doorbells of queues whose creation has
// not completed, can not be followed: the referee then says nothing more.
class NvmeReferee final : public Referee {
 public:
  // All outlive this.
  NvmeReferee(const NvmeFacts& facts, Host& host, Device& device, const Disk& disk);

  void Begin(bool ready) override;
  void MarkReady() override { ready_ = book_; }
  void BeginReset() override;
  void EndReset() override { resetting_ = false; }
  void Lose() override { book_.known = false; }

  void OnEvent() override;
  void OnRead(Region, uint64_t, ConstBytes) override {}
  void BeginWrite(Region region, uint64_t offset, ConstBytes in) override;
  void EndWrite(Region region, uint64_t offset, ConstBytes in) override;
  void BeginDma(const char* what, uint64_t iova) override;
  void OnDmaRead(uint64_t iova, ConstBytes out) override;
  void OnDmaWrite(uint64_t iova, ConstBytes in) override;
  void OnMsix(uint32_t vector) override;
  void OnIdle() override;

 private:
  static constexpr uint32_t kQueues = 8;
  static constexpr uint32_t kVectors = 32;

  struct Fetched {
    uint32_t sqid = 0;
    uint64_t event = 0;  // In which it was fetched.
    bool twin = false;   // Another one of the same identifier was outstanding.
    nvme::Sqe sqe;
  };
  // Memory of a ring; `size` is 0 where there is none.
  struct Ring {
    uint64_t base = 0;
    uint32_t size = 0;
    uint32_t entry = 0;  // Bytes.

    bool exists() const { return size != 0; }
    uint64_t bytes() const { return uint64_t{size} * entry; }
    bool Overlaps(uint64_t iova, uint64_t length) const;
    // Entries from `from` on to `to`.
    uint32_t Distance(uint32_t from, uint32_t to) const { return (to + size - from) % size; }
    // The entry at `iova`, if [iova, iova + length) is entries of the ring.
    std::optional<uint32_t> EntryAt(uint64_t iova, uint64_t length) const;
  };
  struct SubmissionRing : Ring {
    uint32_t cqid = 0;
    uint32_t head = 0;  // That completions have told of.
    uint32_t tail = 0;
    std::vector<Fetched> fetched;  // From the head on.
  };
  struct CompletionRing : Ring {
    uint32_t head = 0;
    uint32_t tail = 0;
    bool phase = true;
    bool interrupts = false;
    uint32_t vector = 0;
    bool unsignalled = false;
    struct Early {
      uint32_t entry;
      nvme::Cqe cqe;
    };
    std::vector<Early> early;  // Written before entries that lie before them.
  };
  // All that a session may change.
  struct Book {
    bool started = false;   // Both admin queues exist.
    bool draining = false;  // CC.EN is 0, and work of before may still end.
    bool known = true;
    std::array<SubmissionRing, kQueues> sq;
    std::array<CompletionRing, kQueues> cq;
    std::vector<Fetched> passed;  // That the heads have passed and that have no completion yet.
    std::array<uint32_t, kVectors> signals{};  // That may still come.
    bool msix_enabled = false;
    bool bus_master = false;
    // Numbers of queues that may be created: Number of Queues, section 5.21.1.7.
    uint32_t max_sqid = kQueues - 1;
    uint32_t max_cqid = kQueues - 1;
  };
  struct Registers {
    uint32_t intms, cc, csts, aqa;
    uint64_t asq, acq;
    // Asleep, or not decoded: nothing can be said.
    bool hidden() const { return csts == ~uint32_t{0}; }
    bool enabled() const { return (cc & nvme::kCcEn) != 0; }
    bool ready() const { return (csts & nvme::kCstsRdy) != 0; }
    bool fatal() const { return (csts & nvme::kCstsCfs) != 0; }
  };

  Registers ReadRegisters() const;
  uint64_t page_size() const { return uint64_t{1} << nvme::CcPageShift(last_.cc); }

  void CompareRegisters(const Registers& now) const;
  void Follow(const Registers& now);
  void Start(const Registers& now);
  void FollowModes();

  void OnDoorbell(uint32_t queue, bool completion, uint32_t value);
  void OnTail(SubmissionRing& sq, uint32_t value);
  void OnHead(uint32_t cqid, uint32_t value);
  bool QueuesMayChange() const;
  bool IsOutstanding(uint32_t cqid) const;

  void OnFetch(uint32_t sqid, uint64_t iova, ConstBytes entries);
  void MarkTwins(Fetched& fetched);
  bool LiesIn(const Ring& ring, uint64_t pointer) const;
  bool LiesInQueue(uint64_t pointer) const;
  bool PointsInto(const Ring& ring, const nvme::Sqe& sqe) const;
  void OnEntry(uint32_t cqid, uint64_t iova, ConstBytes in);
  void Complete(uint32_t cqid, const nvme::Cqe& cqe);

  void JudgeAdmin(const nvme::Sqe& sqe, const nvme::Cqe& cqe, bool alone);
  void JudgeIo(const nvme::Sqe& sqe, bool alone);
  void JudgeFailure(const Fetched& command, nvme::Status status) const;
  bool CreateIsInOrder(const nvme::Sqe& sqe, bool completion) const;
  bool IoIsInOrder(const nvme::Sqe& sqe) const;
  void CheckPointer(const nvme::Sqe& sqe, bool admin) const;
  void Create(const nvme::Sqe& sqe, bool completion);
  void AddRing(Ring& ring, uint64_t base, uint32_t size, uint32_t entry);
  void CheckData(const nvme::Sqe& sqe);
  std::vector<uint64_t> ListInMemory(uint64_t iova, uint64_t pages) const;
  // Where its data lies, page by page; nothing where the list has more than one part.
  std::optional<std::vector<DmaSegment>> Pages(const nvme::Sqe& sqe, uint64_t size) const;

  void CheckVectors();
  void CheckIntx();

  const NvmeFacts facts_;
  Host& host_;
  Device& device_;
  const Disk& disk_;
  Book book_;
  Book ready_;
  Registers last_{};
  bool resetting_ = false;
  uint64_t event_ = 0;
  uint32_t fetched_in_event_ = 0;
  uint64_t faults_before_ = 0;    // Of DMA, that the session made before this event.
  uint64_t failures_before_ = 0;  // And of the disk.
  uint64_t list_iova_ = 0;        // Of the last read that was no fetch, in this event.
  std::vector<uint64_t> list_;
};

}  // namespace farside::fuzz
