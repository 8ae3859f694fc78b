#include "fuzz/host/nvme_referee.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/range.h"
#include "devices/nvme/controller.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

using nvme::AdminOpcode;
using nvme::Cqe;
using nvme::FeatureId;
using nvme::IoOpcode;
using nvme::Sqe;

constexpr uint32_t kBlockSize = 512;
constexpr uint32_t kMaxQueueEntries = (nvme::kCapReset & 0xffff) + 1;  // CAP.MQES.

uint64_t FirstBlock(const Sqe& sqe) { return sqe.cdw10 | uint64_t{sqe.cdw11} << 32; }
uint64_t Blocks(const Sqe& sqe) { return (sqe.cdw12 & 0xffff) + 1; }
uint32_t QueueId(const Sqe& sqe) { return sqe.cdw10 & 0xffff; }

bool IsEventRequest(uint32_t sqid, const Sqe& sqe) {
  return sqid == 0 && AdminOpcode{sqe.opcode} == AdminOpcode::kAsyncEventRequest;
}

bool ChangesQueues(const Sqe& sqe) {
  const auto opcode = AdminOpcode{sqe.opcode};
  return opcode == AdminOpcode::kCreateSq || opcode == AdminOpcode::kCreateCq ||
         opcode == AdminOpcode::kDeleteSq || opcode == AdminOpcode::kDeleteCq;
}

bool AnyOverlap(std::vector<DmaSegment> segments) {
  std::ranges::sort(segments, {}, &DmaSegment::iova);
  for (size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].iova - segments[i - 1].iova < segments[i - 1].size) return true;
  }
  return false;
}

}  // namespace

bool NvmeReferee::Ring::Overlaps(uint64_t iova, uint64_t length) const {
  return exists() && length != 0 && Overlap(base, bytes(), iova, length);
}

std::optional<uint32_t> NvmeReferee::Ring::EntryAt(uint64_t iova, uint64_t length) const {
  if (iova < base || !InRange(iova - base, length, bytes())) return std::nullopt;
  if ((iova - base) % entry != 0 || length % entry != 0) return std::nullopt;
  return static_cast<uint32_t>((iova - base) / entry);
}

NvmeReferee::NvmeReferee(const NvmeFacts& facts, Host& host, Device& device, const Disk& disk)
    : facts_(facts), host_(host), device_(device), disk_(disk) {}

void NvmeReferee::Begin(bool ready) {
  book_ = ready ? ready_ : Book{};
  resetting_ = false;
  OnEvent();
  last_ = ReadRegisters();
}

void NvmeReferee::BeginReset() {
  resetting_ = true;
  book_ = {};
}

void NvmeReferee::OnEvent() {
  ++event_;
  fetched_in_event_ = 0;
  faults_before_ = host_.counts().faults;
  failures_before_ = disk_.failures();
  list_.clear();
}

// In one access, for they are looked at behind each event.
NvmeReferee::Registers NvmeReferee::ReadRegisters() const {
  constexpr uint32_t kBegin = nvme::kRegisters[nvme::kIntms].offset;
  constexpr uint32_t kEnd = nvme::kRegisters[nvme::kAcq].offset + sizeof(uint64_t);
  std::array<std::byte, kEnd - kBegin> bytes{};
  device_.ReadRegion(Region{nvme::kRegisterBar}, kBegin, bytes);
  const auto at = [&](nvme::Reg row) {
    return ConstBytes(bytes).subspan(nvme::kRegisters[row].offset - kBegin,
                                     nvme::kRegisters[row].width);
  };
  return {.intms = LoadLe<uint32_t>(at(nvme::kIntms)),
          .cc = LoadLe<uint32_t>(at(nvme::kCc)),
          .csts = LoadLe<uint32_t>(at(nvme::kCsts)),
          .aqa = LoadLe<uint32_t>(at(nvme::kAqa)),
          .asq = LoadLe<uint64_t>(at(nvme::kAsq)),
          .acq = LoadLe<uint64_t>(at(nvme::kAcq))};
}

// Masks or modes of vectors change: what was held back may come now.
void NvmeReferee::BeginWrite(Region region, uint64_t, ConstBytes) {
  if (region != Region::kConfig && region != Region{nvme::kMsixBar}) return;
  for (uint32_t& signals : book_.signals) signals = std::min<uint32_t>(signals + 1, 1000);
}

void NvmeReferee::EndWrite(Region region, uint64_t offset, ConstBytes in) {
  if (region == Region::kConfig) FollowModes();
  if (region == Region{nvme::kRegisterBar} && offset >= nvme::kDoorbellBase) {
    if (in.size() != nvme::kDoorbellSize || offset % nvme::kDoorbellSize != 0) return;
    const nvme::Doorbell doorbell = nvme::DoorbellAt(offset);
    return OnDoorbell(doorbell.queue, doorbell.completion, LoadLe<uint32_t>(in) & 0xffff);
  }
  const Registers now = ReadRegisters();
  CompareRegisters(now);
  Follow(now);
}

// Section 3.1: what may only change while CC.EN is 0.
void NvmeReferee::CompareRegisters(const Registers& now) const {
  if (now.hidden() || last_.hidden() || !now.enabled() || !last_.enabled()) return;
  if (now.aqa != last_.aqa || now.asq != last_.asq || now.acq != last_.acq ||
      ((now.cc ^ last_.cc) & nvme::kCcFixedWhileEnabled) != 0) {
    Violation("nvme-registers",
              "the driver changes CC, AQA, ASQ or ACQ of an enabled controller: CC {:#x} to {:#x}, "
              "AQA {:#x} to {:#x}, ASQ {:#x} to {:#x}, ACQ {:#x} to {:#x}",
              last_.cc, now.cc, last_.aqa, now.aqa, last_.asq, now.asq, last_.acq, now.acq);
  }
}

void NvmeReferee::Follow(const Registers& now) {
  if (now.hidden()) return;
  last_ = now;
  if (!now.enabled()) {
    // RDY says until when tasks of before may still run.
    const bool draining = now.ready() && (book_.started || book_.draining);
    const Book old = std::exchange(book_, {});
    book_.draining = draining;
    book_.known = old.known || !draining;
    book_.msix_enabled = old.msix_enabled;
    book_.bus_master = old.bus_master;
    return;
  }
  if (book_.started || book_.draining || !now.ready()) return;
  Start(now);
}

void NvmeReferee::Start(const Registers& now) {
  const uint32_t submission = nvme::AqaSubmissionSize(now.aqa);
  const uint32_t completion = nvme::AqaCompletionSize(now.aqa);
  const uint64_t misplaced = (now.asq | now.acq) & (page_size() - 1);
  if (submission < 2 || completion < 2 || misplaced != 0 ||
      nvme::CcPageShift(now.cc) > nvme::kMaxPageShift) {
    Violation("nvme-registers",
              "the controller is ready with CC {:#x}, AQA {:#x}, ASQ {:#x}, ACQ {:#x}", now.cc,
              now.aqa, now.asq, now.acq);
  }
  book_.started = true;
  AddRing(book_.sq[0], now.asq, submission, sizeof(Sqe));
  AddRing(book_.cq[0], now.acq, completion, sizeof(Cqe));
  book_.cq[0].interrupts = true;
}

void NvmeReferee::AddRing(Ring& ring, uint64_t base, uint32_t size, uint32_t entry) {
  const Ring made{base, size, entry};
  const auto shares = [&](const Ring& other) {
    return &other != &ring && other.Overlaps(base, made.bytes());
  };
  const auto points = [&](const Fetched& one) { return PointsInto(made, one.sqe); };
  bool lost = std::ranges::any_of(book_.sq, shares) || std::ranges::any_of(book_.cq, shares) ||
              std::ranges::any_of(book_.passed, points);
  for (const SubmissionRing& sq : book_.sq) lost |= std::ranges::any_of(sq.fetched, points);
  ring = made;
  if (lost) Lose();
}

void NvmeReferee::BeginDma(const char* what, uint64_t iova) {
  if (resetting_ || ReadRegisters().ready()) return;
  Violation("nvme-registers", "the controller {} memory at {:#x} with CSTS.RDY at 0", what, iova);
}

void NvmeReferee::FollowModes() {
  const bool msix = host_.msix_enabled();
  const bool master = host_.bus_master();
  // What a mode was left with is not due in the next one.
  if (msix != book_.msix_enabled) {
    for (CompletionRing& cq : book_.cq) cq.unsignalled = false;
  }
  // Entries that are decided by now may never be written.
  if (master != book_.bus_master) Lose();
  book_.msix_enabled = msix;
  book_.bus_master = master;
}

// Section 3.1.24. A value that the host may not write is ignored.
void NvmeReferee::OnDoorbell(uint32_t queue, bool completion, uint32_t value) {
  const Registers now = ReadRegisters();
  if (now.hidden() || !now.ready() || now.fatal()) return;
  if (!book_.started || QueuesMayChange()) return Lose();
  if (queue >= kQueues) return;
  if (completion) return OnHead(queue, value);
  if (book_.sq[queue].exists()) OnTail(book_.sq[queue], value);
}

bool NvmeReferee::QueuesMayChange() const {
  const auto changes = [](const Fetched& one) { return one.sqid == 0 && ChangesQueues(one.sqe); };
  return std::ranges::any_of(book_.passed, changes) ||
         std::ranges::any_of(book_.sq[0].fetched, changes);
}

void NvmeReferee::OnTail(SubmissionRing& sq, uint32_t value) {
  if (value >= sq.size) return;
  const uint32_t added = sq.Distance(sq.tail, value);
  const uint32_t submitted = sq.Distance(sq.head, sq.tail);
  const auto fetched = static_cast<uint32_t>(sq.fetched.size());
  if (added <= sq.size - 1 - submitted) {
    sq.tail = value;
  } else if (added <= sq.size - 1 - (submitted - fetched)) {
    Lose();  // Places of entries that the host has not been told of.
  }
}

void NvmeReferee::OnHead(uint32_t cqid, uint32_t value) {
  CompletionRing& cq = book_.cq[cqid];
  if (!cq.exists() || value >= cq.size) return;
  if (cq.Distance(cq.head, value) <= cq.Distance(cq.head, cq.tail)) {
    cq.head = value;
    if (cq.head == cq.tail) cq.unsignalled = false;
  } else if (!cq.early.empty() || IsOutstanding(cqid)) {
    Lose();  // Entries that are decided and not written yet, perhaps.
  }
}

bool NvmeReferee::IsOutstanding(uint32_t cqid) const {
  const auto completes = [&](uint32_t sqid) { return book_.sq[sqid].cqid == cqid; };
  if (std::ranges::any_of(book_.passed, completes, &Fetched::sqid)) return true;
  return std::ranges::any_of(book_.sq, [&](const SubmissionRing& sq) {
    return sq.exists() && sq.cqid == cqid && !sq.fetched.empty();
  });
}

void NvmeReferee::OnDmaRead(uint64_t iova, ConstBytes out) {
  if (!book_.known) return;
  for (uint32_t sqid = 0; sqid < kQueues; ++sqid) {
    if (book_.sq[sqid].Overlaps(iova, out.size())) return OnFetch(sqid, iova, out);
  }
  list_iova_ = iova;
  list_.resize(out.size() / sizeof(uint64_t));
  if (!list_.empty()) Copy(std::as_writable_bytes(std::span(list_)), out.first(list_.size() * 8));
  if (std::ranges::any_of(list_, [&](uint64_t entry) { return LiesInQueue(entry); })) Lose();
}

void NvmeReferee::OnFetch(uint32_t sqid, uint64_t iova, ConstBytes entries) {
  SubmissionRing& sq = book_.sq[sqid];
  const auto first = sq.EntryAt(iova, entries.size());
  if (!first) return Lose();
  const uint32_t submitted = sq.Distance(sq.head, sq.tail);
  for (uint32_t i = 0; i < entries.size() / sizeof(Sqe); ++i) {
    const uint32_t entry = *first + i;
    const uint32_t place = sq.Distance(sq.head, entry);
    if (place >= submitted || place > sq.fetched.size()) {
      Violation("nvme-fetch",
                "the controller fetches entry {} of submission queue {}, where {} to {} are due",
                entry, sqid, (sq.head + sq.fetched.size()) % sq.size, sq.tail);
    }
    if (place == sq.fetched.size()) sq.fetched.emplace_back();
    Fetched& fetched = sq.fetched[place];
    fetched = {.sqid = sqid, .event = event_, .twin = false, .sqe = {}};
    Copy(AsWritableBytes(fetched.sqe), entries.subspan(i * sizeof(Sqe), sizeof(Sqe)));
    MarkTwins(fetched);
    ++fetched_in_event_;
    if (LiesInQueue(fetched.sqe.prp1) || LiesInQueue(fetched.sqe.prp2)) return Lose();
  }
}

// Which of the two completes can not be told.
void NvmeReferee::MarkTwins(Fetched& fetched) {
  const auto mark = [&](Fetched& other) {
    if (&other == &fetched || other.sqid != fetched.sqid || other.sqe.cid != fetched.sqe.cid)
      return;
    other.twin = fetched.twin = true;
  };
  std::ranges::for_each(book_.passed, mark);
  std::ranges::for_each(book_.sq[fetched.sqid].fetched, mark);
}

// Whether the page of `pointer` is memory of the ring, or of any.
bool NvmeReferee::LiesIn(const Ring& ring, uint64_t pointer) const {
  return ring.Overlaps(pointer & ~(page_size() - 1), page_size());
}

bool NvmeReferee::LiesInQueue(uint64_t pointer) const {
  const auto lies = [&](const Ring& ring) { return LiesIn(ring, pointer); };
  return std::ranges::any_of(book_.sq, lies) || std::ranges::any_of(book_.cq, lies);
}

bool NvmeReferee::PointsInto(const Ring& ring, const Sqe& sqe) const {
  return LiesIn(ring, sqe.prp1) || LiesIn(ring, sqe.prp2);
}

void NvmeReferee::OnDmaWrite(uint64_t iova, ConstBytes in) {
  if (!book_.known) return;
  for (uint32_t cqid = 0; cqid < kQueues; ++cqid) {
    if (book_.cq[cqid].Overlaps(iova, in.size())) return OnEntry(cqid, iova, in);
  }
  const auto overlaps = [&](const Ring& ring) { return ring.Overlaps(iova, in.size()); };
  if (std::ranges::any_of(book_.sq, overlaps)) Lose();
}

// Entries are decided in the order of the ring; their DMA may end in another.
void NvmeReferee::OnEntry(uint32_t cqid, uint64_t iova, ConstBytes in) {
  CompletionRing& cq = book_.cq[cqid];
  const auto entry = cq.EntryAt(iova, in.size());
  if (!entry || in.size() != sizeof(Cqe)) return Lose();
  const uint32_t free = cq.size - 1 - cq.Distance(cq.head, cq.tail);
  const bool again =
      std::ranges::find(cq.early, *entry, &CompletionRing::Early::entry) != cq.early.end();
  if (cq.Distance(cq.tail, *entry) >= free || again) {
    Violation("nvme-completion",
              "entry {} of completion queue {} is written; its head is {}, its tail {}", *entry,
              cqid, cq.head, cq.tail);
  }
  cq.early.push_back({.entry = *entry, .cqe = {}});
  Copy(AsWritableBytes(cq.early.back().cqe), in);
  cq.unsignalled = true;
  if (cq.vector < kVectors) ++book_.signals[cq.vector];
  while (book_.known) {
    const auto next = std::ranges::find(cq.early, cq.tail, &CompletionRing::Early::entry);
    if (next == cq.early.end()) return;
    const Cqe cqe = next->cqe;
    cq.early.erase(next);
    Complete(cqid, cqe);
  }
}

// Section 4.6.
void NvmeReferee::Complete(uint32_t cqid, const Cqe& cqe) {
  CompletionRing& cq = book_.cq[cqid];
  if (nvme::PhaseOf(cqe) != cq.phase) {
    Violation("nvme-completion", "entry {} of completion queue {} has the wrong phase tag", cq.tail,
              cqid);
  }
  cq.tail = (cq.tail + 1) % cq.size;
  if (cq.tail == 0) cq.phase = !cq.phase;
  const bool lawful =
      cqe.sqid < kQueues && book_.sq[cqe.sqid].exists() && book_.sq[cqe.sqid].cqid == cqid;
  if (!lawful) {
    Violation("nvme-completion", "completion queue {} gets an entry of submission queue {}", cqid,
              cqe.sqid);
  }
  SubmissionRing& sq = book_.sq[cqe.sqid];
  const uint32_t moved = cqe.sq_head < sq.size ? sq.Distance(sq.head, cqe.sq_head) : sq.size;
  if (moved > sq.fetched.size()) {
    Violation("nvme-completion",
              "submission queue {} is said to have its head at {}; up to {} was fetched", cqe.sqid,
              cqe.sq_head, (sq.head + sq.fetched.size()) % sq.size);
  }
  const auto end = sq.fetched.begin() + static_cast<ptrdiff_t>(moved);
  book_.passed.insert(book_.passed.end(), sq.fetched.begin(), end);
  sq.fetched.erase(sq.fetched.begin(), end);
  sq.head = cqe.sq_head;

  const auto same = [&](const Fetched& one) {
    return one.sqid == cqe.sqid && one.sqe.cid == cqe.cid;
  };
  const auto found = std::ranges::find_if(book_.passed, same);
  if (found == book_.passed.end()) {
    Violation("nvme-completion",
              "command {} of submission queue {} completes, which no entry up to head {} was",
              cqe.cid, cqe.sqid, cqe.sq_head);
  }
  const Fetched command = *found;
  book_.passed.erase(found);
  const auto waits = [](const Fetched& one) { return IsEventRequest(one.sqid, one.sqe); };
  if (std::ranges::count_if(book_.passed, waits) > facts_.event_requests) {
    Violation("nvme-status", "more than {} event requests wait", facts_.event_requests);
  }
  if (command.twin && command.sqid == 0) return Lose();
  if (command.twin || IsEventRequest(command.sqid, command.sqe)) return;
  const bool others = !std::ranges::all_of(book_.passed, waits) ||
                      std::ranges::any_of(book_.sq, [](const SubmissionRing& ring) {
                        return !ring.fetched.empty();
                      });
  const bool alone = !others && command.event == event_ && fetched_in_event_ == 1;
  if (const auto status = nvme::StatusOf(cqe); status != nvme::Status::kSuccess) {
    if (alone) JudgeFailure(command, status);
    return;
  }
  if (alone) CheckPointer(command.sqe, command.sqid == 0);
  if (command.sqid == 0) return JudgeAdmin(command.sqe, cqe, alone);
  JudgeIo(command.sqe, alone);
}

// What succeeded. Section 5.
void NvmeReferee::JudgeAdmin(const Sqe& sqe, const Cqe& cqe, bool alone) {
  const uint32_t id = QueueId(sqe);
  switch (AdminOpcode{sqe.opcode}) {
    case AdminOpcode::kCreateCq:
    case AdminOpcode::kCreateSq:
      return Create(sqe, AdminOpcode{sqe.opcode} == AdminOpcode::kCreateCq);
    case AdminOpcode::kDeleteCq: {
      const auto uses = [&](const SubmissionRing& sq) { return sq.exists() && sq.cqid == id; };
      if (id == 0 || id >= kQueues || !book_.cq[id].exists() ||
          std::ranges::any_of(book_.sq, uses)) {
        Violation("nvme-status", "completion queue {} is deleted, which is not there or in use",
                  id);
      }
      book_.cq[id] = {};
      return;
    }
    case AdminOpcode::kDeleteSq:
      if (id == 0 || id >= kQueues || !book_.sq[id].exists()) {
        Violation("nvme-status", "submission queue {} is deleted, which is not there", id);
      }
      book_.sq[id] = {};
      std::erase_if(book_.passed, [&](const Fetched& one) { return one.sqid == id; });
      return;
    case AdminOpcode::kSetFeatures: {
      const auto feature = FeatureId{static_cast<uint8_t>(sqe.cdw10)};
      if (feature == FeatureId::kNumberOfQueues) {
        book_.max_sqid = (cqe.dw0 & 0xffff) + 1;
        book_.max_cqid = (cqe.dw0 >> 16) + 1;
        if (std::max(book_.max_sqid, book_.max_cqid) > facts_.io_pairs) {
          Violation("nvme-status", "Number of Queues gives {:#x}; there are {} pairs", cqe.dw0,
                    facts_.io_pairs);
        }
      }
      if (feature == FeatureId::kInterruptVectorConfiguration &&
          (sqe.cdw11 & 0xffff) >= std::max(device_.info().msix_count, device_.info().msi_count)) {
        Violation("nvme-status", "vector {} is configured, which is not there", sqe.cdw11 & 0xffff);
      }
      return;
    }
    case AdminOpcode::kIdentify: {
      if (!alone || (sqe.cdw10 & 0xff) != 0) return;
      const ConstBytes nsze = host_.Peek(sqe.prp1, sizeof(uint64_t));
      const bool whole = sqe.prp1 % page_size() == 0;  // In one page, which nothing else is in.
      if (whole && !nsze.empty() && LoadLe<uint64_t>(nsze) != Disk::kSize / kBlockSize) {
        Violation("nvme-data", "Identify says that the namespace has {} blocks, of {}",
                  LoadLe<uint64_t>(nsze), Disk::kSize / kBlockSize);
      }
      return;
    }
    default:
      return;
  }
}

// Sections 5.3 and 5.4.
void NvmeReferee::Create(const Sqe& sqe, bool completion) {
  const uint32_t id = QueueId(sqe);
  const uint32_t size = (sqe.cdw10 >> 16) + 1;
  const uint32_t upper = sqe.cdw11 >> 16;
  const bool room = id != 0 && id <= facts_.io_pairs && id < kQueues &&
                    !(completion ? book_.cq[id].exists() : book_.sq[id].exists());
  const bool shape =
      size >= 2 && size <= kMaxQueueEntries && (sqe.cdw11 & 1) != 0 && sqe.prp1 % page_size() == 0;
  const uint32_t vectors = std::max(device_.info().msix_count, device_.info().msi_count);
  const bool partner =
      completion ? upper < vectors : upper != 0 && upper < kQueues && book_.cq[upper].exists();
  if (!room || !shape || !partner) {
    Violation("nvme-status", "{} queue {} of {} entries at {:#x} is created, for {} {}",
              completion ? "completion" : "submission", id, size, sqe.prp1,
              completion ? "vector" : "completion queue", upper);
  }
  if (completion) {
    book_.cq[id] = {};
    AddRing(book_.cq[id], sqe.prp1, size, sizeof(Cqe));
    book_.cq[id].interrupts = (sqe.cdw11 & 2) != 0;
    book_.cq[id].vector = upper;
    return;
  }
  book_.sq[id] = {};
  AddRing(book_.sq[id], sqe.prp1, size, sizeof(Sqe));
  book_.sq[id].cqid = upper;
}

// Section 6.
void NvmeReferee::JudgeIo(const Sqe& sqe, bool alone) {
  const auto opcode = IoOpcode{sqe.opcode};
  const bool moves = opcode == IoOpcode::kRead || opcode == IoOpcode::kWrite;
  if (!moves && opcode != IoOpcode::kCompare && opcode != IoOpcode::kWriteZeroes) return;
  if (sqe.nsid != nvme::kNamespaceId) {
    Violation("nvme-status", "{} succeeds in namespace {}", nvme::OpcodeName(false, sqe.opcode),
              sqe.nsid);
  }
  if (!InRange(FirstBlock(sqe), Blocks(sqe), Disk::kSize / kBlockSize)) {
    Violation("nvme-status", "{} of {} blocks at {:#x} succeeds; there are {}",
              nvme::OpcodeName(false, sqe.opcode), Blocks(sqe), FirstBlock(sqe),
              Disk::kSize / kBlockSize);
  }
  if (moves && alone && !host_.by_message()) CheckData(sqe);
}

// A device does not reach itself by DMA.
void NvmeReferee::CheckPointer(const Sqe& sqe, bool admin) const {
  const auto command = AdminOpcode{sqe.opcode};
  const auto io = IoOpcode{sqe.opcode};
  const bool has_data =
      admin ? command == AdminOpcode::kIdentify || command == AdminOpcode::kGetLogPage
            : io == IoOpcode::kRead || io == IoOpcode::kWrite || io == IoOpcode::kCompare;
  if (!has_data) return;
  if (const auto bar = host_.OwnBar(sqe.prp1, 1)) {
    Violation("self-access", "{} with its data at {:#x}, in the device's own BAR {}, succeeds",
              nvme::OpcodeName(admin, sqe.opcode), sqe.prp1, *bar);
  }
}

// Memory and the disk had no fault: a command that is in order succeeds.
void NvmeReferee::JudgeFailure(const Fetched& command, nvme::Status status) const {
  const Sqe& sqe = command.sqe;
  if (host_.counts().faults != faults_before_ || disk_.failures() != failures_before_) return;
  if (sqe.flags != 0) return;
  bool in_order = false;
  if (command.sqid != 0) {
    in_order = status != nvme::Status::kCompareFailure && IoIsInOrder(sqe);
  } else if (AdminOpcode{sqe.opcode} == AdminOpcode::kCreateCq) {
    in_order = CreateIsInOrder(sqe, true);
  } else if (AdminOpcode{sqe.opcode} == AdminOpcode::kCreateSq) {
    in_order = CreateIsInOrder(sqe, false);
  }
  if (!in_order) return;
  Violation("nvme-status", "{} of submission queue {} is in order, and fails with status {:#x}",
            nvme::OpcodeName(command.sqid == 0, sqe.opcode), command.sqid,
            static_cast<uint32_t>(status));
}

bool NvmeReferee::CreateIsInOrder(const Sqe& sqe, bool completion) const {
  const uint32_t id = QueueId(sqe);
  const uint32_t size = (sqe.cdw10 >> 16) + 1;
  const uint32_t upper = sqe.cdw11 >> 16;
  const uint32_t most = std::min(facts_.io_pairs, completion ? book_.max_cqid : book_.max_sqid);
  if (id == 0 || id > most || id >= kQueues) return false;
  if (size < 2 || size > kMaxQueueEntries || (sqe.cdw11 & 1) == 0) return false;
  if (sqe.prp1 % page_size() != 0) return false;
  if (nvme::CcSqeShift(last_.cc) != nvme::kSqeShift) return false;
  if (nvme::CcCqeShift(last_.cc) != nvme::kCqeShift) return false;
  if (completion) return !book_.cq[id].exists() && upper == 0;
  return !book_.sq[id].exists() && upper != 0 && upper < kQueues && book_.cq[upper].exists();
}

bool NvmeReferee::IoIsInOrder(const Sqe& sqe) const {
  constexpr uint32_t kDirectiveType = 0xf << 20;
  const auto opcode = IoOpcode{sqe.opcode};
  if (sqe.nsid != nvme::kNamespaceId) return false;
  if (opcode == IoOpcode::kFlush) return true;
  if (!InRange(FirstBlock(sqe), Blocks(sqe), Disk::kSize / kBlockSize)) return false;
  if (opcode == IoOpcode::kWriteZeroes) return true;
  if (opcode == IoOpcode::kWrite && (sqe.cdw12 & kDirectiveType) != 0) return false;
  if (opcode != IoOpcode::kWrite && opcode != IoOpcode::kRead && opcode != IoOpcode::kCompare) {
    return false;
  }
  const uint64_t size = Blocks(sqe) * kBlockSize;
  if (size > facts_.max_transfer || sqe.prp1 % sizeof(uint32_t) != 0) return false;
  const auto pages = Pages(sqe, size);
  if (!pages) return false;
  const DmaAccess access = opcode == IoOpcode::kRead ? DmaAccess::kWrite : DmaAccess::kRead;
  // Pages that follow each other are reached as one, and so are one window's.
  DmaSegment run{sqe.prp1, 0};
  const auto reachable = [&] {
    return run.size == 0 ||
           (!host_.Peek(run.iova, run.size, access).empty() && !host_.OwnBar(run.iova, run.size));
  };
  for (const DmaSegment& page : *pages) {
    if (&page != &pages->front() && page.iova % page_size() != 0) return false;
    if (page.iova != run.iova + run.size || page.iova == 0) {
      if (!reachable()) return false;
      run = {page.iova, 0};
    }
    run.size += page.size;
  }
  return reachable();
}

// The disk and the memory that the command names hold the same.
void NvmeReferee::CheckData(const Sqe& sqe) {
  const uint64_t size = Blocks(sqe) * kBlockSize;
  const auto segments = Pages(sqe, size);
  if (!segments || AnyOverlap(*segments)) return;
  ConstBytes medium = disk_.data().subspan(FirstBlock(sqe) * kBlockSize, size);
  for (const DmaSegment& segment : *segments) {
    const ConstBytes memory = host_.Peek(segment.iova, segment.size);
    if (memory.empty()) return;
    if (!std::ranges::equal(memory, medium.first(segment.size))) {
      Violation("nvme-data",
                "after {} of {} blocks at {:#x} memory at {:#x} and the disk hold other bytes",
                nvme::OpcodeName(false, sqe.opcode), Blocks(sqe), FirstBlock(sqe), segment.iova);
    }
    medium = medium.subspan(segment.size);
  }
}

// Of a command that ended before it was read; nothing where it has more than one part.
std::vector<uint64_t> NvmeReferee::ListInMemory(uint64_t iova, uint64_t pages) const {
  const uint64_t size = pages * sizeof(uint64_t);
  if (iova % sizeof(uint64_t) != 0 || iova % page_size() + size > page_size()) return {};
  const ConstBytes bytes = host_.Peek(iova, size);
  std::vector<uint64_t> list(bytes.size() / sizeof(uint64_t));
  Copy(std::as_writable_bytes(std::span(list)), bytes);
  return list;
}

// Section 4.3.
std::optional<std::vector<DmaSegment>> NvmeReferee::Pages(const Sqe& sqe, uint64_t size) const {
  const uint64_t first = std::min(size, page_size() - sqe.prp1 % page_size());
  std::vector<DmaSegment> segments{{sqe.prp1, first}};
  const uint64_t pages = (size - first + page_size() - 1) / page_size();
  std::vector<uint64_t> unread;
  if (pages > 1 && list_.empty()) unread = ListInMemory(sqe.prp2, pages);
  const std::vector<uint64_t>& list = list_.empty() ? unread : list_;
  if (pages > 1 && (list.size() != pages || (!list_.empty() && list_iova_ != sqe.prp2))) {
    return std::nullopt;
  }
  uint64_t left = size - first;
  for (uint64_t i = 0; i < pages; ++i) {
    segments.push_back({pages == 1 ? sqe.prp2 : list[i], std::min(left, page_size())});
    left -= segments.back().size;
  }
  return segments;
}

void NvmeReferee::OnMsix(uint32_t vector) {
  for (CompletionRing& cq : book_.cq) {
    if (cq.vector == vector) cq.unsignalled = false;
  }
  if (!book_.known || !book_.started || vector >= kVectors) return;
  if (book_.signals[vector] == 0) {
    Violation("interrupt-twice", "vector {} is signalled with nothing new behind it", vector);
  }
  --book_.signals[vector];
}

void NvmeReferee::OnIdle() {
  const Registers now = ReadRegisters();
  if (now.hidden()) return;
  book_.draining = false;
  Follow(now);
  if (now.fatal()) return;
  if ((now.csts & nvme::kCstsShst) == nvme::kCstsShstOccurring) {
    Violation("nvme-registers", "nothing is left to do, and the shutdown has not ended");
  }
  if (!book_.started || !book_.known) return;
  CheckVectors();
  if (host_.intx_mode()) CheckIntx();
}

void NvmeReferee::CheckVectors() {
  if (!host_.msix_enabled()) return;
  for (uint32_t cqid = 0; cqid < kQueues; ++cqid) {
    const CompletionRing& cq = book_.cq[cqid];
    if (!cq.exists() || !cq.interrupts || !cq.unsignalled) continue;
    if (cq.vector >= device_.info().msix_count || host_.MsixMasked(cq.vector)) continue;
    Violation("interrupt-lost",
              "completion queue {} has a new entry and vector {} is not signalled", cqid,
              cq.vector);
  }
}

// Section 7.5.1.
void NvmeReferee::CheckIntx() {
  const auto masks = ReadRegisters().intms;
  const bool due = std::ranges::any_of(book_.cq, [&](const CompletionRing& cq) {
    const bool masked = cq.vector < 32 && (masks >> cq.vector & 1) != 0;
    return cq.exists() && cq.interrupts && cq.head != cq.tail && !masked;
  });
  if (due == host_.intx()) return;
  Violation("interrupt-lost", "INTx is {} while the host has {} to take", due ? "down" : "up",
            due ? "entries" : "nothing");
}

}  // namespace farside::fuzz
