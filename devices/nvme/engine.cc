// Fetching, executing, completing: NVM Express 1.4, section 7.2.
#include <algorithm>
#include <coroutine>
#include <vector>

#include "base/log.h"
#include "base/mutant.h"
#include "devices/nvme/controller.h"
#include "devices/nvme/identify.h"

namespace farside::nvme {
namespace {

// Lets the loop do something else first.
struct Yield {
  Loop& loop;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> task) { loop.Post(task); }
  void await_resume() const noexcept {}
};

}  // namespace

bool Controller::CanFetch(const SubmissionQueue& sq) const {
  return phase_ == Phase::kRunning && !paused_ && (csts() & kCstsShst) == 0 && !sq.deleting &&
         config().may_master();
}

void Controller::Kick(uint32_t sqid) {
  SubmissionQueue& sq = queues_.sq[sqid];
  if (!sq.exists() || sq.serving || sq.pending() == 0 || !CanFetch(sq)) return;
  sq.serving = true;
  scope_.Spawn(Serve(sqid));
}

void Controller::KickAll() {
  for (uint32_t sqid = 0; sqid < queues_.sq.size(); ++sqid) Kick(sqid);
}

// A place for an I/O command became free: the next queue that ran out of them goes on.
void Controller::KickStarved() {
  const auto count = static_cast<uint32_t>(queues_.sq.size());
  for (uint32_t i = 0; i < count && starved_queues_ != 0; ++i) {
    const uint32_t sqid = (next_starved_ + i) % count;
    SubmissionQueue& sq = queues_.sq[sqid];
    if (!sq.starved) continue;
    sq.starved = false;
    --starved_queues_;
    Kick(sqid);
    if (!sq.serving) continue;
    next_starved_ = sqid + 1;
    return;
  }
}

// Promises places for the commands of a round and returns their number.
uint32_t Controller::ReserveFetch(uint32_t sqid) {
  SubmissionQueue& sq = queues_.sq[sqid];
  CommandPool& pool = PoolOf(sqid);
  if (!CanFetch(sq)) return 0;
  CompletionQueue& cq = queues_.cq[sq.cqid];
  const uint32_t wanted = std::min({kFetchRound, sq.pending(), cq.available()});
  const uint32_t count = std::min(wanted, pool.available());
  if (wanted != 0 && count == 0 && sqid != 0 && !sq.starved) {
    sq.starved = true;
    ++starved_queues_;
  }
  cq.reserved += count;
  pool.Reserve(count);
  return count;
}

void Controller::UnreserveFetch(uint32_t sqid, uint32_t count) {
  queues_.cq[queues_.sq[sqid].cqid].reserved -= count;
  PoolOf(sqid).Unreserve(count);
}

void Controller::EndServing(SubmissionQueue& sq) {
  sq.serving = false;
  changed_.NotifyAll();
  // It was woken for a place that it had no use for.
  if (io_commands_.available() != 0) KickStarved();
}

// Reads the next `count` entries into the queue's round. kCancelled also when the epoch is over.
Task<DmaStatus> Controller::Fetch(uint32_t sqid, uint32_t count, uint64_t epoch) {
  std::vector<Sqe>& round = rounds_[sqid];
  round.resize(kFetchRound);
  for (uint32_t done = 0; done < count;) {
    const SubmissionQueue& sq = queues_.sq[sqid];
    const uint32_t index = (sq.head() + done) % sq.size;
    const uint32_t part = std::min({options_.fetch_batch, count - done, sq.size - index});
    const auto entries = std::as_writable_bytes(std::span(round).subspan(done, part));
    const DmaStatus status = co_await dma().Read(sq.base + uint64_t{index} * sizeof(Sqe), entries);
    if (epoch != epoch_) co_return DmaStatus::kCancelled;
    if (status != DmaStatus::kOk) co_return status;
    done += part;
  }
  co_return DmaStatus::kOk;
}

Task<void> Controller::Serve(uint32_t sqid) {
  const Busy busy(*this);
  const uint64_t epoch = epoch_;
  SubmissionQueue& sq = queues_.sq[sqid];  // Ours while the epoch lasts.
  CommandPool& pool = PoolOf(sqid);
  co_await Yield{loop()};
  while (epoch == epoch_) {
    const uint32_t count = ReserveFetch(sqid);
    if (count == 0) co_return EndServing(sq);
    const uint64_t changes = dma_changes_;
    const DmaStatus status = co_await Fetch(sqid, count, epoch);
    if (epoch != epoch_) co_return pool.Unreserve(count);
    if (status != DmaStatus::kOk) {
      UnreserveFetch(sqid, count);
      if (status == DmaStatus::kCancelled && changes != dma_changes_) continue;
      if (status == DmaStatus::kFault && config().may_master()) co_return SetFatal();
      co_return EndServing(sq);
    }
    uint32_t started = 0;
    while (started < count && CanFetch(sq)) {
      Start(sqid, rounds_[sqid][started++]);
      if (epoch != epoch_) co_return pool.Unreserve(count - started);
      if (started % kCommandsPerTurn != 0) continue;
      co_await Yield{loop()};
      if (epoch != epoch_) co_return pool.Unreserve(count - started);
    }
    UnreserveFetch(sqid, count - started);
  }
}

// Consumes the next entry of a queue, for which places are promised.
void Controller::Start(uint32_t sqid, const Sqe& sqe) {
  SubmissionQueue& sq = queues_.sq[sqid];
  ++sq.fetched;
  if (sqid == 0 && AdminOpcode{sqe.opcode} == AdminOpcode::kAsyncEventRequest && sqe.flags == 0 &&
      events_.requests.size() < kMaxEventRequests) {
    UnreserveFetch(sqid, 1);
    events_.requests.push_back({.cid = sqe.cid, .sequence = sq.fetched});
    return DeliverEvents();
  }
  Command& command = PoolOf(sqid).Take(++commands_taken_);
  command.sqid = static_cast<uint16_t>(sqid);
  command.sequence = sq.fetched;
  command.sqe = sqe;
  command.turn = ++sq.started;
  ++sq.executing;
  scope_.Spawn(Execute(command));
}

Task<void> Controller::Execute(Command& command) {
  const Busy busy(*this);
  Outcome outcome;
  if (command.sqe.flags != 0) {
    outcome.status = Status::kInvalidField;  // No fused commands and no SGLs; Identify says so.
  } else if (command.sqid == 0) {
    outcome = co_await ExecuteAdmin(command);
  } else {
    outcome = co_await namespace_.Execute(memory(), command, !features_.write_cache());
  }
  if (options_.ordered_completions && command.sqid != 0) co_await AwaitTurn(command);
  if (!command.cancelled) {
    Decide(command, outcome);
    co_await Post(command);
  }
  Release(command);
}

Task<void> Controller::PostEvent(Command& command) {
  const Busy busy(*this);
  co_await Yield{loop()};
  if (!command.cancelled) co_await Post(command);
  Release(command);
}

// Of a loaded state.
Task<void> Controller::ResumeCommand(Command& command) {
  const Busy busy(*this);
  co_await Yield{loop()};
  if (command.cancelled) co_return Release(command);
  scope_.Spawn(command.state == Command::State::kPosting ? PostEvent(command) : Execute(command));
}

// Nothing of an I/O command that waits is saved: done again, it does the same again.
Task<void> Controller::AwaitTurn(Command& command) {
  const SubmissionQueue& sq = queues_.sq[command.sqid];
  while (!command.cancelled && sq.decided + 1 != command.turn) co_await decided_.Wait();
}

// From here on the outcome is part of the state: nothing of the command is done again.
void Controller::Decide(Command& command, Outcome outcome) {
  SubmissionQueue& sq = queues_.sq[command.sqid];
  const CompletionQueue::Entry entry = queues_.cq[sq.cqid].Take();
  command.state = Command::State::kPosting;
  command.cq_index = entry.index;
  command.cqe = {.dw0 = outcome.dw0,
                 .sq_head = sq.Report(command.sequence),
                 .sqid = command.sqid,
                 .cid = command.sqe.cid,
                 .status = StatusField(outcome.status, entry.phase)};
  ++sq.decided;
  if (decided_.has_waiters()) decided_.NotifyAll();
  health_.CountCommand(command, outcome, namespace_.block_size());
}

Task<void> Controller::Post(Command& command) {
  CompletionQueue& cq = queues_.cq[queues_.sq[command.sqid].cqid];  // Ours until it is cancelled.
  const uint64_t iova = cq.base + uint64_t{command.cq_index} * sizeof(Cqe);
  for (;;) {
    const uint64_t changes = dma_changes_;
    const DmaStatus status = co_await dma().Write(iova, AsBytes(command.cqe));
    if (command.cancelled) co_return;
    if (status == DmaStatus::kOk) break;
    if (status == DmaStatus::kFault) co_return SetFatal();
    if (changes == dma_changes_) co_return;
  }
  --cq.writing;
  SignalCompletion(cq);
}

void Controller::SignalCompletion(const CompletionQueue& cq) {
  UpdateIntx();
  if (!cq.interrupts || !vectors_enabled()) return;
  // INTMS masks MSI but not MSI-X, which has masks of its own (section 7.5.1).
  if (!config().msix_enabled() && InterruptMasked(cq.vector)) return;
  if (MUTANT("nvme-irq-lost") && cq.tail % 16 == 0) return;
  if (MUTANT("nvme-irq-twice") && cq.tail % 16 == 0) SignalVector(cq.vector);
  SignalVector(cq.vector);
}

void Controller::Release(Command& command) {
  const bool cancelled = command.cancelled;
  const uint16_t sqid = command.sqid;
  PoolOf(sqid).Release(command);
  changed_.NotifyAll();
  if (cancelled) return;
  --queues_.sq[sqid].executing;
  if (sqid != 0) return KickStarved();
  Kick(0);
  DeliverEvents();
}

void Controller::RaiseEvent(Event event) {
  events_.Raise(event);
  DeliverEvents();
}

// Answers waiting requests with pending events, as far as there are places for that.
void Controller::DeliverEvents() {
  Event event;
  while (!events_.requests.empty() && events_.Next(&event)) {
    if (phase_ != Phase::kRunning || paused_ || admin_commands_.available() == 0 ||
        queues_.cq[0].available() == 0) {
      return;
    }
    const EventRequest request = events_.requests.front();
    events_.requests.erase(events_.requests.begin());
    ++queues_.cq[0].reserved;
    admin_commands_.Reserve(1);
    Command& command = admin_commands_.Take(++commands_taken_);
    command.sqid = 0;
    command.sequence = request.sequence;
    command.sqe = {.opcode = static_cast<uint8_t>(AdminOpcode::kAsyncEventRequest),
                   .cid = request.cid};
    ++queues_.sq[0].executing;
    Decide(command, {.dw0 = events_.Report(event)});
    scope_.Spawn(PostEvent(command));
  }
}

void Controller::BeginShutdown() {
  SetCsts(kCstsShst, kCstsShstOccurring);
  scope_.Spawn(Shutdown(epoch_));
}

// Section 7.6.2: commands that were fetched end, then what they wrote is made stable.
Task<void> Controller::Shutdown(uint64_t epoch) {
  const Busy busy(*this);
  co_await Yield{loop()};
  while (epoch == epoch_ && io_commands_.in_use() + admin_commands_.in_use() != 0) {
    co_await changed_.Wait();
  }
  const Status status = co_await namespace_.Flush();
  if (status != Status::kSuccess) {
    LogWarning(id(), "the disk could not be flushed at the guest's shutdown: {}",
               StatusName(status));
  }
  if (MUTANT("nvme-shutdown-forever")) co_return;
  if (epoch == epoch_) SetCsts(kCstsShst, kCstsShstComplete);
}

// After a load: a reset or a start that waited for tasks which are not there any more goes on when
// this one ends.
Task<void> Controller::SettleLater() {
  const Busy busy(*this);
  co_await Yield{loop()};
}

}  // namespace farside::nvme
