// Saved state. Sections, all version 1 but nvme.queues, integers little-endian, in this order:
//
//   nvme.registers  u8 phase, u32 number of rows, then a u64 for each row of kRegisters
//   nvme.queues     u32 n, then for each completion queue: u16 id, u64 base, u32 size, u32 head,
//                   u32 tail, u8 phase tag, u8 interrupts, u16 vector; u32 n, then for each
//                   submission queue: u16 id, u64 base, u32 size, u32 tail, u64 fetched,
//                   u64 reported, u16 cqid; since version 2: u8 an I/O queue was created since
//                   the controller's reset (before that: one is there)
//   nvme.commands   u32 n, then for each command, oldest first: u8 state, u16 sqid, u64 sequence,
//                   SQE, CQE, u32 completion queue index; u32 n, then for each waiting event
//                   request: u16 cid, u64 sequence; u8 pending events, u8 masked event types
//   nvme.features   see Features::Save
//   nvme.health     see Health::Save
#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "devices/nvme/controller.h"
#include "devices/nvme/identify.h"

namespace farside::nvme {
namespace {

constexpr uint16_t kStateVersion = 1;
constexpr uint16_t kQueuesVersion = 2;
constexpr uint64_t kMaxSequence = uint64_t{1} << 62;  // Counters never wrap in a device's life.

// In the order of fetching.
std::vector<const Command*> InFlight(const CommandPool& io, const CommandPool& admin) {
  std::vector<const Command*> commands;
  for (const CommandPool* pool : {&io, &admin}) {
    for (const Command& command : pool->commands()) {
      if (command.state != Command::State::kFree && !command.cancelled) {
        commands.push_back(&command);
      }
    }
  }
  std::ranges::sort(commands, {}, &Command::order);
  return commands;
}

Result<void> Open(StateReader& in, std::string_view section) {
  const auto version = in.Section(section, kStateVersion);
  if (!version) return tl::unexpected(version.error());
  return {};
}

Result<void> Close(const StateReader& in, std::string_view section) {
  if (in.remaining() == 0) return {};
  return Fail("the device state's section '{}' has {} bytes too many", section, in.remaining());
}

}  // namespace

struct Controller::Loaded {
  explicit Loaded(const Options& options)
      : queues(options.max_ioqpairs), features(options.max_ioqpairs, options.msix_qsize) {}

  RegisterBlock<kRegCount> regs{kRegisters};
  Phase phase = Phase::kDisabled;
  QueueSet queues;
  std::vector<Command> commands;
  EventState events;
  Features features;
  Health health;
};

void Controller::SaveModel(StateWriter& out) const {
  out.Section("nvme.registers", kStateVersion);
  out.Put(static_cast<uint8_t>(phase_));
  out.Put(static_cast<uint32_t>(kRegCount));
  for (const uint64_t value : regs_.values()) out.Put(value);
  SaveQueues(out);
  SaveCommands(out);
  out.Section("nvme.features", kStateVersion);
  features_.Save(out, clock().now_ns());
  out.Section("nvme.health", kStateVersion);
  health_.Save(out);
}

void Controller::SaveQueues(StateWriter& out) const {
  const auto exists = [](const auto& queue) { return queue.exists(); };
  out.Section("nvme.queues", kQueuesVersion);
  out.Put(static_cast<uint32_t>(std::ranges::count_if(queues_.cq, exists)));
  for (size_t id = 0; id < queues_.cq.size(); ++id) {
    const CompletionQueue& cq = queues_.cq[id];
    if (!cq.exists()) continue;
    out.Put(static_cast<uint16_t>(id));
    out.Put(cq.base);
    out.Put(cq.size);
    out.Put(cq.head);
    out.Put(cq.tail);
    out.Put(static_cast<uint8_t>(cq.phase));
    out.Put(static_cast<uint8_t>(cq.interrupts));
    out.Put(cq.vector);
  }
  out.Put(static_cast<uint32_t>(std::ranges::count_if(queues_.sq, exists)));
  for (size_t id = 0; id < queues_.sq.size(); ++id) {
    const SubmissionQueue& sq = queues_.sq[id];
    if (!sq.exists()) continue;
    out.Put(static_cast<uint16_t>(id));
    out.Put(sq.base);
    out.Put(sq.size);
    out.Put(sq.tail);
    out.Put(sq.fetched);
    out.Put(sq.reported);
    out.Put(sq.cqid);
  }
  out.Put(static_cast<uint8_t>(queues_.io_created));
}

void Controller::SaveCommands(StateWriter& out) const {
  const auto commands = InFlight(io_commands_, admin_commands_);
  out.Section("nvme.commands", kStateVersion);
  out.Put(static_cast<uint32_t>(commands.size()));
  for (const Command* command : commands) {
    const bool posting = command->state == Command::State::kPosting;
    out.Put(static_cast<uint8_t>(command->state));
    out.Put(command->sqid);
    out.Put(command->sequence);
    out.PutBytes(AsBytes(command->sqe));
    out.PutBytes(AsBytes(posting ? command->cqe : Cqe{}));
    out.Put(posting ? command->cq_index : 0);
  }
  out.Put(static_cast<uint32_t>(events_.requests.size()));
  for (const EventRequest& request : events_.requests) {
    out.Put(request.cid);
    out.Put(request.sequence);
  }
  out.Put(events_.pending);
  out.Put(events_.masked_types);
}

Result<void> Controller::LoadModel(StateReader& in) {
  CHECK(tasks_ == 0);
  Loaded loaded(options_);
  if (auto result = LoadRegisters(in, loaded); !result) return result;
  if (auto result = LoadQueues(in, loaded); !result) return result;
  if (auto result = LoadCommands(in, loaded); !result) return result;
  if (auto result = Open(in, "nvme.features"); !result) return result;
  if (auto result = loaded.features.Load(in, clock().now_ns()); !result) return result;
  if (auto result = Close(in, "nvme.features"); !result) return result;
  if (auto result = Open(in, "nvme.health"); !result) return result;
  loaded.health.Load(in);
  if (auto result = Close(in, "nvme.health"); !result) return result;
  if (auto result = in.Finish(); !result) return result;
  TakeOver(loaded);
  return {};
}

Result<void> Controller::LoadRegisters(StateReader& in, Loaded& loaded) const {
  if (auto result = Open(in, "nvme.registers"); !result) return result;
  const auto phase = in.Get<uint8_t>();
  const auto rows = in.Get<uint32_t>();
  if (phase > static_cast<uint8_t>(Phase::kResetting) || rows != kRegCount) {
    return Fail("the saved controller has phase {} and {} registers: it is of another build", phase,
                rows);
  }
  loaded.phase = Phase{phase};
  for (size_t row = 0; row < kRegCount; ++row) {
    const RegisterDef& def = kRegisters[row];
    const auto value = in.Get<uint64_t>();
    const uint64_t moving =
        row == kCsts ? kCstsRdy | kCstsCfs | kCstsShst : def.writable | def.set | def.clear;
    if ((value & ~moving) != def.reset) {
      return Fail("the saved value {:#x} of register {} is not one that this controller has", value,
                  def.name);
    }
    loaded.regs.Set(row, value);
  }
  if (auto result = Close(in, "nvme.registers"); !result) return result;

  const uint64_t csts = loaded.regs[kCsts];
  const bool en = (loaded.regs[kCc] & kCcEn) != 0;
  const bool rdy = (csts & kCstsRdy) != 0;
  const bool cfs = (csts & kCstsCfs) != 0;
  bool consistent = loaded.regs[kIntms] == loaded.regs[kIntmc] && (csts & kCstsShst) != kCstsShst;
  switch (loaded.phase) {
    case Phase::kDisabled:
      consistent &= !rdy && !cfs;
      break;
    case Phase::kRunning:
      consistent &= en && rdy && !cfs && ConfigurationIsValid(loaded.regs);
      break;
    case Phase::kFatal:
      consistent &= en && cfs;
      break;
    case Phase::kResetting:
      consistent &= rdy && !cfs;
      break;
  }
  if (!consistent) {
    return Fail(
        "the saved registers CC={:#x} and CSTS={:#x} contradict phase {}: the state is "
        "damaged",
        loaded.regs[kCc], csts, phase);
  }
  return {};
}

Result<void> Controller::LoadQueues(StateReader& in, Loaded& loaded) const {
  const auto version = in.Section("nvme.queues", kQueuesVersion);
  if (!version) return tl::unexpected(version.error());
  const auto damaged = [](std::string_view kind, uint32_t id) {
    return Fail("the saved {} queue {} is not one that a driver can create", kind, id);
  };
  const auto max_size = [](uint32_t id) { return id == 0 ? 0x1000 : kMaxQueueEntries; };
  const uint32_t vectors = std::max(options_.msix_qsize, kMsiVectors);

  const auto cq_count = in.Get<uint32_t>();
  for (uint32_t i = 0; i < cq_count; ++i) {
    const uint32_t id = in.Get<uint16_t>();
    CompletionQueue cq{.base = in.Get<uint64_t>(), .size = in.Get<uint32_t>()};
    cq.head = in.Get<uint32_t>();
    cq.tail = in.Get<uint32_t>();
    cq.phase = in.Get<uint8_t>() != 0;
    cq.interrupts = in.Get<uint8_t>() != 0;
    cq.vector = in.Get<uint16_t>();
    if (id >= loaded.queues.cq.size() || loaded.queues.HasCq(id) || cq.size < 2 ||
        cq.size > max_size(id) || cq.head >= cq.size || cq.tail >= cq.size ||
        cq.vector >= vectors) {
      return damaged("completion", id);
    }
    loaded.queues.cq[id] = cq;
  }
  const auto sq_count = in.Get<uint32_t>();
  for (uint32_t i = 0; i < sq_count; ++i) {
    const uint32_t id = in.Get<uint16_t>();
    SubmissionQueue sq{.base = in.Get<uint64_t>(), .size = in.Get<uint32_t>()};
    sq.tail = in.Get<uint32_t>();
    sq.fetched = in.Get<uint64_t>();
    sq.reported = in.Get<uint64_t>();
    sq.cqid = in.Get<uint16_t>();
    if (id >= loaded.queues.sq.size() || loaded.queues.HasSq(id) || sq.size < 2 ||
        sq.size > max_size(id) || sq.tail >= sq.size || sq.fetched > kMaxSequence ||
        sq.reported > sq.fetched || !loaded.queues.HasCq(sq.cqid) || (id == 0) != (sq.cqid == 0)) {
      return damaged("submission", id);
    }
    loaded.queues.sq[id] = sq;
  }
  const bool has_io = loaded.queues.HasIoQueues();
  const bool io_created = *version >= 2 ? in.Get<uint8_t>() != 0 : has_io;
  loaded.queues.io_created = io_created;
  const bool may_have_queues = loaded.phase == Phase::kRunning || loaded.phase == Phase::kFatal;
  const bool has_admin = loaded.queues.HasSq(0) && loaded.queues.HasCq(0);
  if ((!may_have_queues && (cq_count + sq_count != 0 || io_created)) || (has_io && !io_created) ||
      (loaded.phase == Phase::kRunning && !has_admin)) {
    return Fail("the saved queues contradict the saved phase: the state is damaged");
  }
  return Close(in, "nvme.queues");
}

Result<void> Controller::LoadCommands(StateReader& in, Loaded& loaded) const {
  if (auto result = Open(in, "nvme.commands"); !result) return result;
  const auto count = in.Get<uint32_t>();
  if (count > kMaxIoCommands + kMaxAdminCommands) {
    return Fail("the saved state has {} commands in flight, more than there are places", count);
  }
  for (uint32_t i = 0; i < count; ++i) {
    Command& command = loaded.commands.emplace_back();
    const auto state = in.Get<uint8_t>();
    command.sqid = in.Get<uint16_t>();
    command.sequence = in.Get<uint64_t>();
    in.GetBytes(AsWritableBytes(command.sqe));
    in.GetBytes(AsWritableBytes(command.cqe));
    command.cq_index = in.Get<uint32_t>();
    command.state = Command::State{std::min<uint8_t>(state, 2)};
    if (auto result = CheckCommand(command, loaded); !result) return result;
  }
  const auto requests = in.Get<uint32_t>();
  for (uint32_t i = 0; i < requests && i <= kMaxEventRequests; ++i) {
    const auto cid = in.Get<uint16_t>();
    loaded.events.requests.push_back({.cid = cid, .sequence = in.Get<uint64_t>()});
    if (loaded.events.requests.back().sequence > loaded.queues.sq[0].fetched) {
      return Fail("a saved event request was never submitted: the state is damaged");
    }
  }
  loaded.events.pending = in.Get<uint8_t>();
  loaded.events.masked_types = in.Get<uint8_t>();
  if (requests > kMaxEventRequests || loaded.events.pending >= 1 << kEventCount ||
      loaded.events.masked_types >= 1 << kEventTypes) {
    return Fail("the saved events are not those of this controller: the state is damaged");
  }
  return Close(in, "nvme.commands");
}

// Also counts what follows from the commands in flight into their queues.
Result<void> Controller::CheckCommand(const Command& command, Loaded& loaded) const {
  const auto damaged = [&](std::string_view why) {
    return Fail("the saved command {} of queue {} {}: the state is damaged", command.sqe.cid,
                command.sqid, why);
  };
  if (loaded.phase != Phase::kRunning || !loaded.queues.HasSq(command.sqid)) {
    return damaged("has no queue");
  }
  const auto of_pool = std::ranges::count_if(loaded.commands, [&](const Command& other) {
    return (other.sqid == 0) == (command.sqid == 0);
  });
  if (of_pool > (command.sqid == 0 ? kMaxAdminCommands : kMaxIoCommands)) {
    return damaged("is one too many");
  }
  SubmissionQueue& sq = loaded.queues.sq[command.sqid];
  CompletionQueue& cq = loaded.queues.cq[sq.cqid];
  if (command.sequence > sq.fetched) return damaged("was never submitted");
  ++sq.executing;
  if (command.state == Command::State::kExecuting) {
    if (cq.available() == 0) return damaged("has no completion queue entry");
    ++cq.reserved;
    return {};
  }
  if (command.state != Command::State::kPosting || command.cq_index >= cq.size ||
      (command.cq_index + cq.size - cq.head) % cq.size >= cq.used() || cq.writing >= cq.used()) {
    return damaged("has a completion queue entry that is not its own");
  }
  ++cq.writing;
  return {};
}

void Controller::TakeOver(Loaded& loaded) {
  ++epoch_;
  regs_ = loaded.regs;
  phase_ = loaded.phase;
  queues_ = std::move(loaded.queues);
  events_ = std::move(loaded.events);
  features_ = std::move(loaded.features);
  health_ = loaded.health;
  for (const Command& saved : loaded.commands) {
    CommandPool& pool = PoolOf(saved.sqid);
    pool.Reserve(1);
    Command& command = pool.Take(++commands_taken_);
    command.state = saved.state;
    command.sqid = saved.sqid;
    command.sequence = saved.sequence;
    command.sqe = saved.sqe;
    command.cqe = saved.cqe;
    command.cq_index = saved.cq_index;
    if (saved.state == Command::State::kExecuting) {
      command.turn = ++queues_.sq[saved.sqid].started;
    }
    scope_.Spawn(ResumeCommand(command));
  }
  if ((csts() & kCstsShst) == kCstsShstOccurring) scope_.Spawn(Shutdown(epoch_));
  scope_.Spawn(SettleLater());
  KickAll();
  DeliverEvents();
}

// No command has a place, none is being fetched, and what waited for that has happened.
void Controller::CheckAtRest() const {
  CHECK(paused_ && tasks_ == 0 && phase_ != Phase::kResetting);
  CHECK(io_commands_.available() == kMaxIoCommands);
  CHECK(admin_commands_.available() == kMaxAdminCommands);
}

// What no stream tells of is here, too: what ends up in a dead controller's queues, and whose turn
// it is to have a place for a command.
void Controller::SaveModelFast(FastState& out) const {
  CheckAtRest();
  out.Put(regs_);
  out.Put(phase_);
  out.PutArray(queues_.sq);
  out.PutArray(queues_.cq);
  out.Put(queues_.io_created);
  out.Put(starved_queues_);
  out.Put(next_starved_);
  out.Put(features_);
  out.PutArray(events_.requests);
  out.Put(events_.pending);
  out.Put(events_.masked_types);
  out.Put(health_);
  out.Put(guest_errors_);
}

void Controller::LoadModelFast(FastReader& in) {
  CheckAtRest();
  ++epoch_;
  in.Get(regs_);
  in.Get(phase_);
  in.GetArray(std::span(queues_.sq));
  in.GetArray(std::span(queues_.cq));
  in.Get(queues_.io_created);
  in.Get(starved_queues_);
  in.Get(next_starved_);
  in.Get(features_);
  in.GetArray(events_.requests);
  in.Get(events_.pending);
  in.Get(events_.masked_types);
  in.Get(health_);
  in.Get(guest_errors_);
}

}  // namespace farside::nvme
