#include "harness/replay/replayer.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <utility>

#include "base/clock.h"
#include "harness/replay/polls.h"
#include "harness/trace/device_view.h"
#include "harness/trace/guest_writes.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::replay {
namespace {

using trace::Event;
using trace::GuestWrites;
using vfio_user::Command;
using vfio_user::RegionAccess;

// Memory that the device wrote and the recording has not may be early; after so many guest events
// it is wrong.
constexpr uint64_t kEarlyGuestEvents = 64;
constexpr uint32_t kProgressEvery = 4096;
// The server lets a device make as many steps between two commands.
constexpr uint64_t kQuantum = 64;
constexpr uint32_t kConfigRegion = 7;
constexpr uint64_t kAskAgainNs = 500'000;
constexpr uint64_t kLookAgainNs = 200'000;
constexpr uint64_t kReadTimeNs = 2'000'000;

std::string Hex(ConstBytes bytes) {
  constexpr size_t kShown = 32;
  std::string text;
  for (const std::byte byte : bytes.first(std::min(bytes.size(), kShown))) {
    text += fmt::format("{:02x}", std::to_integer<int>(byte));
  }
  return bytes.size() > kShown ? fmt::format("{}... ({} bytes)", text, bytes.size()) : text;
}

// "DMA_WRITE 0x1000 size 16 = 00ff": what `payload` says as a command of the device.
std::string OutputText(uint16_t command, ConstBytes payload) {
  if (command == static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt)) {
    vfio_user::Interrupt interrupt{};
    Copy(AsWritableBytes(interrupt), payload.first(sizeof interrupt));
    return fmt::format("interrupt {} vector {}", trace::IrqText(interrupt.index), interrupt.vector);
  }
  vfio_user::DmaAccess access{};
  Copy(AsWritableBytes(access), payload.first(sizeof access));
  const ConstBytes data = payload.subspan(sizeof access);
  return fmt::format("{} {:#x} size {}{}{}", vfio_user::CommandName(Command{command}), access.iova,
                     access.count, data.empty() ? "" : " = ", Hex(data));
}

// Commands that set up the recorded session; a replay has one of its own.
bool IsSessionCommand(Command command) {
  switch (command) {
    case Command::kVersion:
    case Command::kDmaMap:
    case Command::kDmaUnmap:
    case Command::kDeviceSetIrqs:
    case Command::kDeviceGetRegionIoFds:
    case Command::kDeviceGetInfo:
    case Command::kDeviceGetRegionInfo:
    case Command::kDeviceGetIrqInfo:
      return true;
    default:
      return false;
  }
}

bool IsClockAdvance(const Event& event) {
  return event.header().command ==
         static_cast<uint16_t>(vfio_user::ExtensionCommand::kClockAdvance);
}

bool IsInterrupt(const Event& event) {
  return event.header().command == static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);
}

class Replayer final : private Outputs {
 public:
  Replayer(Target& target, const ReplayOptions& options, trace::EventSource& source,
           GuestWrites& guest)
      : target_(target), options_(options), source_(source), guest_(guest) {}

  Result<ReplayResult> Run();

 private:
  struct Recorded {
    uint32_t event = 0;
    uint64_t time_ns = 0;
    uint64_t iova = 0;
    uint64_t size = 0;
  };
  struct Output {
    Command command{};
    std::vector<std::byte> payload;  // Fixed fields and, for writes, data.
  };

  int OnDmaRead(uint64_t iova, Bytes out) override;
  int OnDmaWrite(uint64_t iova, ConstBytes data) override;
  void OnInterrupt(uint32_t index, uint32_t vector) override;
  bool RefuseLease(uint64_t iova, uint64_t size) override;

  // kExact: the recorded access, if it is this one.
  std::optional<GuestWrites::Access> TakeRecorded(Command command, vfio_user::DmaAccess range);
  void Push(Command command, ConstBytes fields, ConstBytes data);

  Result<void> Handle(const Event& event);
  Result<void> HandleGuestEvent(const Event& event);
  Result<void> HandleReply(const Event& event);
  Result<void> HandleOutput(const Event& event);
  Result<void> HandleOutputExactly(const Event& event);
  Result<void> CompareReply(const Event& event, const Target::Reply& reply);
  Result<bool> AskAgain(ConstBytes expected);
  Result<void> SettlePoll();
  void DivergeAtPoll();
  Result<void> Settle();
  Result<void> SettleByMemory();
  void LookAtMemory(uint64_t iova, uint64_t size);
  bool Settled();
  std::optional<Divergence> WhatIsMissing();
  Result<void> CheckMemory(bool at_end);
  Result<void> Finish();
  void Pace(uint64_t time_ns) const;
  void Diverge(uint32_t event, uint64_t time_ns, std::string what, std::string expected,
               std::string got);

  Target& target_;
  const ReplayOptions& options_;
  trace::EventSource& source_;
  GuestWrites& guest_;
  MonotonicClock clock_;
  uint64_t start_ns_ = clock_.now_ns();
  MemoryImage memory_;
  ReplayResult result_;

  std::optional<uint16_t> dma_asked_;  // kExact: the DMA whose answer is the next event.
  Polls polls_;
  uint64_t guest_ordinal_ = 0;
  Event current_;                       // The recorded event being handled.
  std::optional<Target::Reply> reply_;  // Of the guest event before.
  Event command_;                       // That guest event.
  std::vector<Recorded> unsettled_;     // Recorded writes that were not yet seen.
  std::map<std::pair<uint32_t, uint32_t>, uint64_t> recorded_irqs_;
  std::map<std::pair<uint32_t, uint32_t>, uint64_t> actual_irqs_;
  uint64_t recorded_read_bytes_ = 0;
  uint64_t actual_read_bytes_ = 0;
  uint64_t recorded_write_bytes_ = 0;
  uint64_t actual_write_bytes_ = 0;
  uint64_t differs_since_ = 0;  // Guest ordinal, while memory differs.
  bool differs_ = false;
  std::vector<std::byte> looked_at_;
  std::deque<Output> outputs_;  // kExact: made and not yet compared.
};

void Replayer::Push(Command command, ConstBytes fields, ConstBytes data) {
  Output output{command, {fields.begin(), fields.end()}};
  output.payload.insert(output.payload.end(), data.begin(), data.end());
  outputs_.push_back(std::move(output));
}

std::optional<GuestWrites::Access> Replayer::TakeRecorded(Command command,
                                                          vfio_user::DmaAccess range) {
  const auto next = guest_.NextAccess();
  if (!next || *next == nullptr) return std::nullopt;
  const GuestWrites::Access& access = **next;
  if (access.command != command || access.range.iova != range.iova ||
      access.range.count != range.count) {
    return std::nullopt;
  }
  return guest_.TakeAccess();
}

int Replayer::OnDmaRead(uint64_t iova, Bytes out) {
  actual_read_bytes_ += out.size();
  if (options_.level == Level::kExact) {
    const vfio_user::DmaAccess range{.iova = iova, .count = out.size()};
    Push(Command::kDmaRead, AsBytes(range), {});
    if (const auto recorded = TakeRecorded(Command::kDmaRead, range)) {
      if (recorded->error != 0) return recorded->error;
      Copy(out, recorded->data);
      result_.dma_bytes += out.size();
      return 0;
    }
  } else if (guest_.Refused(iova, out.size())) {
    return EFAULT;
  }
  memory_.DeviceReads(iova, out);
  result_.dma_bytes += out.size();
  return 0;
}

int Replayer::OnDmaWrite(uint64_t iova, ConstBytes data) {
  actual_write_bytes_ += data.size();
  if (options_.level == Level::kExact) {
    const vfio_user::DmaAccess range{.iova = iova, .count = data.size()};
    Push(Command::kDmaWrite, AsBytes(range), data);
    const auto recorded = TakeRecorded(Command::kDmaWrite, range);
    if (recorded && recorded->error != 0) return recorded->error;
  } else if (guest_.Refused(iova, data.size())) {
    return EFAULT;
  }
  memory_.DeviceWrites(iova, data);
  result_.dma_bytes += data.size();
  return 0;
}

bool Replayer::RefuseLease(uint64_t iova, uint64_t size) {
  if (options_.level != Level::kExact) return false;
  const auto next = guest_.NextAccess();
  if (!next || *next == nullptr) return false;
  const GuestWrites::Access& access = **next;
  const bool refused =
      access.command == Command::kDmaWrite && access.error != 0 && !access.has_payload;
  if (!refused || access.range.iova != iova || access.range.count > size) return false;
  Push(Command::kDmaWrite, AsBytes(guest_.TakeAccess().range), {});
  return true;
}

void Replayer::OnInterrupt(uint32_t index, uint32_t vector) {
  ++result_.interrupts;
  ++actual_irqs_[{index, vector}];
  if (options_.level != Level::kExact) return;
  const vfio_user::Interrupt interrupt{.index = index, .vector = vector};
  Push(static_cast<Command>(vfio_user::ExtensionCommand::kInterrupt), AsBytes(interrupt), {});
}

void Replayer::Diverge(uint32_t event, uint64_t time_ns, std::string what, std::string expected,
                       std::string got) {
  if (result_.divergence) return;
  result_.divergence = Divergence{.event = event,
                                  .time_ns = time_ns,
                                  .what = std::move(what),
                                  .expected = std::move(expected),
                                  .got = std::move(got)};
}

void Replayer::Pace(uint64_t time_ns) const {
  if (options_.speed <= 0) return;
  const auto due = start_ns_ + static_cast<uint64_t>(static_cast<double>(time_ns) / options_.speed);
  const uint64_t now = clock_.now_ns();
  if (due <= now) return;
  const timespec pause{static_cast<time_t>((due - now) / 1'000'000'000),
                       static_cast<long>((due - now) % 1'000'000'000)};
  nanosleep(&pause, nullptr);
}

bool Replayer::Settled() {
  for (const auto& [vector, count] : recorded_irqs_) {
    if (actual_irqs_[vector] < count) return false;
  }
  if (options_.level == Level::kGuest && !target_.shares_memory()) {
    return actual_write_bytes_ >= recorded_write_bytes_;
  }
  std::erase_if(unsettled_, [&](const Recorded& write) {
    LookAtMemory(write.iova, write.size);
    return !memory_.FindDifference(write.iova, write.size);
  });
  return unsettled_.empty();
}

// What a device that shares its memory has put there.
void Replayer::LookAtMemory(uint64_t iova, uint64_t size) {
  if (!target_.shares_memory()) return;
  looked_at_.resize(size);
  target_.ReadMemory(iova, looked_at_);
  memory_.DeviceWrites(iova, looked_at_);
}

std::optional<Divergence> Replayer::WhatIsMissing() {
  for (const Recorded& write : unsettled_) {
    const auto difference = memory_.FindDifference(write.iova, write.size);
    if (!difference) continue;
    return Divergence{
        .event = write.event,
        .time_ns = write.time_ns,
        .what = fmt::format("memory at {:#x}, {:#x} into a DMA_WRITE of {} bytes", difference->iova,
                            difference->iova - write.iova, write.size),
        .expected = fmt::format("{:02x}", difference->expected),
        .got = fmt::format("{:02x}", difference->actual)};
  }
  for (const auto& [vector, count] : recorded_irqs_) {
    if (actual_irqs_[vector] >= count) continue;
    return Divergence{.event = current_.number,
                      .time_ns = current_.time_ns,
                      .what = fmt::format("interrupts of {} vector {} before this event",
                                          trace::IrqText(vector.first), vector.second),
                      .expected = std::to_string(count),
                      .got = std::to_string(actual_irqs_[vector])};
  }
  return std::nullopt;
}

// Waits for the outputs that the recording has up to here. What the device reads has no result of
// its own: it is waited for as long as it keeps coming, and never missed.
Result<void> Replayer::Settle() {
  if (target_.shares_memory()) return SettleByMemory();
  const uint64_t deadline = clock_.now_ns() + options_.timeout_ns;
  while (!Settled() || actual_read_bytes_ < recorded_read_bytes_) {
    const bool only_reads = Settled();
    constexpr uint64_t kReadGraceNs = 50'000'000;
    const auto came = target_.Wait(only_reads ? kReadGraceNs : options_.timeout_ns);
    if (!came) return tl::unexpected(came.error());
    if (*came && clock_.now_ns() < deadline) continue;
    if (Settled()) {
      recorded_read_bytes_ = actual_read_bytes_;
      return {};
    }
    if (auto missing = WhatIsMissing()) {
      Diverge(missing->event, missing->time_ns, missing->what, missing->expected, missing->got);
    } else {
      Diverge(current_.number, current_.time_ns, "bytes that the device wrote before this event",
              std::to_string(recorded_write_bytes_), std::to_string(actual_write_bytes_));
    }
    return {};
  }
  return {};
}

// The same for a device whose writes are only seen by looking. At level guest they may be others:
// they are waited for, but not missed.
Result<void> Replayer::SettleByMemory() {
  constexpr uint64_t kGuestGraceNs = 20'000'000;
  const uint64_t start = clock_.now_ns();
  while (!Settled()) {
    const auto came = target_.Wait(kLookAgainNs);
    if (!came) return tl::unexpected(came.error());
    const uint64_t waited = clock_.now_ns() - start;
    const bool enough = waited > kGuestGraceNs && target_.seems_idle();
    if (options_.level == Level::kGuest && enough) unsettled_.clear();
    if (waited <= options_.timeout_ns || Settled()) continue;
    const auto missing = WhatIsMissing();
    Diverge(missing->event, missing->time_ns, missing->what, missing->expected, missing->got);
    return {};
  }
  // Nothing says that it has read what it was to read before the guest changes that: it is given
  // time for it.
  if (std::exchange(actual_read_bytes_, recorded_read_bytes_) != recorded_read_bytes_) {
    const uint64_t deadline = clock_.now_ns() + options_.timeout_ns;
    do {
      const auto came = target_.Wait(kReadTimeNs);
      if (!came) return tl::unexpected(came.error());
    } while (!target_.seems_idle() && clock_.now_ns() < deadline);
  }
  return {};
}

// What the device wrote and the recording has not.
Result<void> Replayer::CheckMemory(bool at_end) {
  // Of shared memory only what was recorded is looked at.
  const bool seen = options_.level == Level::kMemory && !target_.shares_memory();
  if (!seen || result_.divergence) return {};
  const auto difference = memory_.FindAnyDifference();
  if (!difference) {
    differs_ = false;
    return {};
  }
  if (!std::exchange(differs_, true)) differs_since_ = guest_ordinal_;
  if (!at_end && guest_ordinal_ - differs_since_ < kEarlyGuestEvents) return {};
  Diverge(current_.number, current_.time_ns,
          fmt::format("memory at {:#x}, which the recorded device had not written by then",
                      difference->iova),
          fmt::format("{:02x}", difference->expected), fmt::format("{:02x}", difference->actual));
  return {};
}

Result<void> Replayer::HandleGuestEvent(const Event& event) {
  if (IsSessionCommand(event.command())) {
    ++guest_ordinal_;
    return {};
  }
  if (options_.level != Level::kExact) {
    const bool polls_on =
        event.command() == Command::kRegionRead && polls_.Continues(event.payload());
    if (!polls_on) {
      if (auto settled = SettlePoll(); !settled || result_.divergence) return settled;
    }
    if (auto settled = Settle(); !settled || result_.divergence) return settled;
    target_.Step(kQuantum);
  } else if (!outputs_.empty()) {
    Diverge(event.number, event.time_ns, "outputs before this event", "none left",
            fmt::format("{} more, the first is {}", outputs_.size(),
                        OutputText(static_cast<uint16_t>(outputs_.front().command),
                                   outputs_.front().payload)));
    return {};
  }
  auto writes = guest_.Before(guest_ordinal_++, event.number);
  if (!writes) return tl::unexpected(writes.error());
  for (const auto& write : *writes) {
    memory_.GuestWrites(write.iova, write.data);
    target_.WriteMemory(write.iova, write.data);
  }
  if (guest_ordinal_ % 16 == 0) {
    if (auto checked = CheckMemory(false); !checked || result_.divergence) return checked;
  }
  Pace(event.time_ns);
  target_.AdvanceClock(event.time_ns);
  ++result_.guest_events;
  if (IsClockAdvance(event)) {
    target_.OnDeadline();
    return {};
  }
  command_ = event;
  reply_.reset();
  const bool wants_reply = event.command() != Command::kRegionWrite;
  Target::Reply reply;
  if (auto delivered = target_.Deliver(event, wants_reply ? &reply : nullptr); !delivered) {
    Diverge(event.number, event.time_ns, "the channel", "open", delivered.error().message);
    return {};
  }
  if (wants_reply) reply_ = std::move(reply);
  return {};
}

Result<void> Replayer::HandleReply(const Event& event) {
  if (!reply_ || event.header().message_id != command_.header().message_id) return {};
  const Target::Reply reply = std::move(*reply_);
  reply_.reset();
  if (event.command() != Command::kRegionRead) return {};
  return CompareReply(event, reply);
}

ConstBytes DataOf(const Target::Reply& reply) {
  return ConstBytes(reply.payload).subspan(std::min(reply.payload.size(), sizeof(RegionAccess)));
}

Result<void> Replayer::CompareReply(const Event& event, const Target::Reply& reply) {
  const int expected_error = (event.header().flags & vfio_user::kFlagError) != 0
                                 ? static_cast<int>(event.header().error)
                                 : 0;
  if (reply.error != expected_error) {
    Diverge(event.number, event.time_ns, "error of the reply", ErrnoText(expected_error),
            ErrnoText(reply.error));
    return {};
  }
  const ConstBytes expected = event.data_after<RegionAccess>();
  const ConstBytes got = DataOf(reply);
  const bool may_poll =
      options_.level != Level::kExact && event.fields<RegionAccess>().region != kConfigRegion;
  if (may_poll) {
    const auto verdict =
        polls_.OnReply(event.number, event.time_ns, command_.payload(), expected, got);
    if (verdict == Polls::Verdict::kWrong) DivergeAtPoll();
  } else if (!std::ranges::equal(expected, got)) {
    Diverge(event.number, event.time_ns, "the data of the reply", Hex(expected), Hex(got));
  }
  return {};
}

void Replayer::DivergeAtPoll() {
  const Polls::Open& open = *polls_.open();
  Diverge(open.event, open.time_ns, "the data of the reply", Hex(open.expected), Hex(open.got));
}

// At the end of a run of reads: the device may be later than the recorded one.
Result<void> Replayer::SettlePoll() {
  if (!polls_.open() || result_.divergence) return {};
  const auto same = AskAgain(polls_.open()->expected);
  if (!same) return tl::unexpected(same.error());
  if (*same) {
    polls_.Close();
  } else {
    DivergeAtPoll();
  }
  return {};
}

// A driver of this device would ask again, as one that polls does.
Result<bool> Replayer::AskAgain(ConstBytes expected) {
  const uint64_t deadline = clock_.now_ns() + options_.timeout_ns;
  while (clock_.now_ns() < deadline) {
    const auto came = target_.Wait(kAskAgainNs);
    if (!came) return tl::unexpected(came.error());
    Target::Reply again;
    if (auto read = target_.Deliver(command_, &again); !read) return tl::unexpected(read.error());
    target_.Step(kQuantum);
    if (again.error == 0 && std::ranges::equal(expected, DataOf(again))) return true;
    if (!*came && !target_.takes_time()) return false;
  }
  return false;
}

// kMemory and kGuest: notes what must be seen before the next guest event.
Result<void> Replayer::HandleOutput(const Event& event) {
  if (IsInterrupt(event)) {
    const auto interrupt = event.fields<vfio_user::Interrupt>();
    ++recorded_irqs_[{interrupt.index, interrupt.vector}];
    return {};
  }
  const auto access = event.fields<vfio_user::DmaAccess>();
  if (event.command() == Command::kDmaRead) {
    recorded_read_bytes_ += access.count;
  } else if (event.command() == Command::kDmaWrite && !guest_.Refused(access.iova, access.count)) {
    recorded_write_bytes_ += access.count;
    if (options_.level == Level::kMemory || target_.shares_memory()) {
      memory_.RecordedWrites(access.iova, event.data_after<vfio_user::DmaAccess>());
      // What is written again before the next guest event is not looked for twice.
      std::erase_if(unsettled_, [&](const Recorded& other) {
        return other.iova == access.iova && other.size <= access.count;
      });
      unsettled_.push_back({event.number, event.time_ns, access.iova, access.count});
    }
  }
  return {};
}

Result<void> Replayer::HandleOutputExactly(const Event& event) {
  if (!IsInterrupt(event)) dma_asked_ = event.header().message_id;
  while (outputs_.empty()) {
    const auto came = target_.Wait(0);
    if (!came) return tl::unexpected(came.error());
    if (*came) continue;
    Diverge(event.number, event.time_ns, "what comes from the device",
            OutputText(event.header().command, event.payload()), "nothing");
    return {};
  }
  const Output output = std::move(outputs_.front());
  outputs_.pop_front();
  const bool same =
      output.command == event.command() && std::ranges::equal(output.payload, event.payload());
  if (same) return {};
  Diverge(event.number, event.time_ns, "what comes from the device",
          OutputText(event.header().command, event.payload()),
          OutputText(static_cast<uint16_t>(output.command), output.payload));
  return {};
}

Result<void> Replayer::Handle(const Event& event) {
  current_.number = event.number;
  current_.time_ns = event.time_ns;
  if (dma_asked_) {
    const bool answer = event.is_message() && event.is_reply() &&
                        event.direction == trace::Direction::kIn &&
                        event.header().message_id == *dma_asked_;
    if (!answer) {
      return Fail(
          "event {} came while the device waited for a DMA, since its client's memory was "
          "reached by message: such a recording replays at --level memory, not exact",
          event.number);
    }
    dma_asked_.reset();
  }
  if (event.kind == trace::EventKind::kSteps && options_.level == Level::kExact) {
    target_.Step(LoadLe<uint64_t>(event.bytes));
    return {};
  }
  if (!event.is_message()) return {};
  if (trace::IsGuestEvent(event)) return HandleGuestEvent(event);
  if (event.direction == trace::Direction::kIn) return {};  // The answer to a DMA.
  if (event.is_reply()) return HandleReply(event);
  return options_.level == Level::kExact ? HandleOutputExactly(event) : HandleOutput(event);
}

Result<void> Replayer::Finish() {
  if (options_.level != Level::kExact && !result_.divergence) {
    if (auto settled = SettlePoll(); !settled) return settled;
    if (auto settled = Settle(); !settled) return settled;
    if (auto checked = CheckMemory(true); !checked) return checked;
    for (const auto& [vector, count] : actual_irqs_) {
      if (count == recorded_irqs_[vector]) continue;
      if (options_.level == Level::kGuest) continue;
      Diverge(current_.number, current_.time_ns,
              fmt::format("interrupts of {} vector {} in all", trace::IrqText(vector.first),
                          vector.second),
              std::to_string(recorded_irqs_[vector]), std::to_string(count));
    }
  }
  return {};
}

Result<ReplayResult> Replayer::Run() {
  if (auto attached = target_.Attach(*this); !attached) return tl::unexpected(attached.error());
  start_ns_ = clock_.now_ns();
  while (!result_.divergence) {
    auto event = source_.Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) break;
    if ((*event)->device != options_.device) continue;
    ++result_.events;
    result_.recorded_ns = (*event)->time_ns;
    if (auto handled = Handle(**event); !handled) return tl::unexpected(handled.error());
    if (options_.on_progress && result_.events % kProgressEvery == 0) {
      options_.on_progress((*event)->number);
    }
  }
  if (auto finished = Finish(); !finished) return tl::unexpected(finished.error());
  result_.polls = polls_.count();
  result_.truncated = source_.truncated();
  result_.elapsed_ns = clock_.now_ns() - start_ns_;
  return std::move(result_);
}

}  // namespace

Result<ReplayResult> Replay(const std::string& path, Target& target, const ReplayOptions& options) {
  auto source = trace::OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  auto guest = GuestWrites::Open(path, options.device, options.level == Level::kExact);
  if (!guest) return tl::unexpected(guest.error());
  Replayer replayer(target, options, **source, **guest);
  return replayer.Run();
}

}  // namespace farside::replay
