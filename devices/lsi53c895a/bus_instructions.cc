// Block moves and I/O instructions: what the SCRIPTS processor does on the SCSI bus. Manual,
// sections 5.2 and 5.3.
#include <algorithm>
#include <utility>

#include "base/mutant.h"
#include "devices/lsi53c895a/chip.h"

namespace farside::lsi53c895a {
namespace {

constexpr size_t kMaxDataPart = 64 << 10;
constexpr size_t kMaxMessagePart = 64;

}  // namespace

// The first thing of every instruction that needs the bus. False: the selection has failed.
bool Chip::ReachBus() {
  if (std::exchange(execution_.selection_failed, false)) {
    Post({.sist1 = kSist1Sto});
    return false;
  }
  // Scripts that leave ACK asserted mean well: SeaBIOS ends a command that way.
  if (link_.ack_held()) {
    link_.ReleaseAck();
    SetBits(kSocl, kBusAck, false);
  }
  return true;
}

// The phase that the target requests. None: the script waits for it as `wait`, or has halted.
std::optional<BusPhase> Chip::AwaitPhase(Wait wait) {
  const uint64_t generation = generation_;
  execution_.wait = Wait::kNone;
  if (!ReachBus()) return std::nullopt;
  // Most targets that work have more data at once.
  const bool patient = !std::exchange(patience_over_, false);
  if (patient && link_.WouldDisconnect()) {
    execution_.wait = wait;
    return std::nullopt;
  }
  const auto phase = link_.Poll();
  OnConnectionChanged(/*expected=*/false);
  if (generation != generation_) return std::nullopt;
  if (!phase) {
    execution_.wait = wait;
    return std::nullopt;
  }
  regs_.Set(kSstat1, (regs_[kSstat1] & ~uint64_t{kBusPhase}) | static_cast<uint8_t>(*phase));
  return phase;
}

Task<void> Chip::BlockMove() {
  if (execution_.wait == Wait::kNone) {
    const bool started = co_await StartMove();
    if (!started) co_return;
  }
  co_await ContinueMove();
}

// Where to, and how much.
Task<bool> Chip::StartMove() {
  const Instruction instruction = execution_.instruction;
  if (bit(kScntl0, kScntl0Trg)) {
    IllegalInstruction();
    co_return false;
  }
  if (!ReachBus()) co_return false;
  Move& move = execution_.move;
  move = {.address = Widen(instruction.second, kSbms),
          .left = instruction.count(),
          .phase = instruction.phase(),
          .top = static_cast<uint8_t>(instruction.first >> 24),
          .entry = execution_.address};
  if ((instruction.first & kMoveIndirect) != 0) {
    const Bytes pointer = Bytes(entry_).first(sizeof(uint32_t));
    if (!co_await ReadMemory(Widen(instruction.second, kSfs), pointer)) co_return false;
    move.address = Widen(LoadLe<uint32_t>(pointer), kSbms);
  } else if ((instruction.first & kMoveTable) != 0) {
    if (!co_await ReadTableEntry()) co_return false;
  } else if (bit(kCcntl1, kCcntl1EnDbmv)) {
    regs_.Set(kDbms, instruction.third);
    move.address = Widen(instruction.second, kDbms);
  }
  if (move.left == 0) {
    IllegalInstruction();
    co_return false;
  }
  ShowMove();
  co_return true;
}

Task<bool> Chip::ReadTableEntry() {
  Move& move = execution_.move;
  move.entry = reg32(kDsa) + SignExtend24(execution_.instruction.second);
  if (!co_await ReadMemory(Widen(move.entry, kDrs), entry_)) co_return false;
  const auto count = LoadLe<uint32_t>(entry_);
  const auto low = LoadLe<uint32_t>(ConstBytes(entry_).subspan(4));
  move.left = count & 0xff'ffff;
  move.top = static_cast<uint8_t>(count >> 24);
  move.address = Widen(low, kSbms);
  if (!bit(kCcntl1, kCcntl1EnTibmv)) co_return true;
  if (bit(kCcntl1, kCcntl1Timod)) {
    regs_.Set(kDbms, move.top);
  } else {
    const auto selector = Selector(move.top & 0x1f);
    if (!selector) {
      IllegalInstruction();
      co_return false;
    }
    regs_.Set(kDbms, regs_[*selector]);
  }
  move.address = Widen(low, kDbms);
  co_return true;
}

// Which register a table entry's index names (section 4.2, CCNTL1).
std::optional<Reg> Chip::Selector(uint8_t index) const {
  if (index < 16) return static_cast<Reg>(kScratchC + index);
  constexpr Reg kSelectors[] = {kMmrs, kMmws, kSfs, kDrs, kSbms, kDbms};
  if (index - 16u >= std::size(kSelectors)) return std::nullopt;
  return kSelectors[index - 16];
}

Task<void> Chip::ContinueMove() {
  while (execution_.move.left != 0) {
    const auto requested = AwaitPhase(Wait::kMove);
    if (!requested) {
      if (MUTANT("lsi-move-without-nexus") && !link_.connected()) execution_.wait = Wait::kNone;
      co_return;
    }
    const auto phase = static_cast<BusPhase>(execution_.move.phase);
    if (*requested != phase && !link_.Accepts(phase)) co_return PhaseMismatch();
    bool moved = false;
    switch (phase) {
      case BusPhase::kDataIn:
      case BusPhase::kDataOut:
        moved = co_await MoveData(phase);
        break;
      case BusPhase::kCommand:
      case BusPhase::kMessageOut:
        moved = co_await MoveOut(phase);
        break;
      case BusPhase::kStatus:
      case BusPhase::kMessageIn:
        moved = co_await MoveIn(phase);
        break;
    }
    if (!moved) co_return;
  }
}

// Straight between the target's buffer and memory.
Task<bool> Chip::MoveData(BusPhase phase) {
  const auto request = link_.request();
  const uint64_t address = execution_.move.address;
  const size_t most = std::min<size_t>(execution_.move.left, kMaxDataPart);
  if (phase == BusPhase::kDataIn) {
    const ConstBytes offered = request->data_in();
    const ConstBytes part = offered.first(std::min(most, offered.size()));
    if (!co_await WriteMemory(address, part)) co_return false;
    OnReceived(part);
    Advance(part.size());
    request->TakeIn(part.size());
    co_return true;
  }
  const Bytes room = request->data_out();
  const Bytes part = room.first(std::min(most, room.size()));
  if (!co_await ReadMemory(address, part)) co_return false;
  Advance(part.size());
  request->PutOut(part.size());
  co_return true;
}

Task<bool> Chip::MoveOut(BusPhase phase) {
  const Bytes part = Bytes(buffer_).first(std::min<size_t>(execution_.move.left, kMaxMessagePart));
  if (!co_await ReadMemory(execution_.move.address, part)) co_return false;
  Advance(part.size());
  const bool last = execution_.move.left == 0;
  if (phase == BusPhase::kCommand) {
    link_.PutCommand(part, last);
  } else {
    link_.PutMessageOut(part, last);
    if (last) SetBits(kSocl, kBusAtn, false);
  }
  co_return true;
}

Task<bool> Chip::MoveIn(BusPhase phase) {
  const bool status = phase == BusPhase::kStatus;
  const size_t size =
      status ? 1 : std::min<size_t>(execution_.move.left, link_.message_in().size());
  const Bytes part = Bytes(buffer_).first(size);
  if (status) {
    part[0] = std::byte{link_.status()};
  } else {
    Copy(part, link_.message_in().first(size));
  }
  if (!co_await WriteMemory(execution_.move.address, part)) co_return false;
  OnReceived(part);
  Advance(size);
  if (status) {
    link_.TakeStatus();
  } else {
    link_.TakeMessageIn(size);
    SetBits(kSocl, kBusAck, true);
  }
  co_return true;
}

void Chip::OnReceived(ConstBytes bytes) {
  if (execution_.move.moved == 0) regs_.Set(kSfbr, std::to_integer<uint8_t>(bytes.front()));
  regs_.Set(kSidl, std::to_integer<uint8_t>(bytes.back()));
}

void Chip::Advance(size_t size) {
  Move& move = execution_.move;
  const auto count = static_cast<uint32_t>(size);
  move.address += count;
  move.left -= count;
  move.moved += count;
  regs_.Set(kCsbc, regs_[kCsbc] + count);
  ShowMove();
}

// The registers that a phase mismatch, by interrupt or by jump, is handled with. No byte is ever on
// its way between memory and bus, so DFIFO tells the same as DBC.
void Chip::ShowMove() {
  const Move& move = execution_.move;
  regs_.Set(kDbc, (regs_[kDbc] & 0xff00'0000) | move.left);
  regs_.Set(kDnad, move.address);
  regs_.Set(kDnad64, move.address >> 32);
  regs_.Set(kDfifo, move.left & 0xff);
  regs_.Set(kCtest5, (regs_[kCtest5] & ~uint64_t{3}) | (move.left >> 8 & 3));
  regs_.Set(kRbc, move.left | uint64_t{move.top} << 24);
  regs_.Set(kUa, move.address);
  regs_.Set(kEsa, move.entry);
  regs_.Set(kIa, execution_.address);
  regs_.Set(kSbc, move.moved);
}

// Section 4.2, CCNTL0.
void Chip::PhaseMismatch() {
  constexpr uint8_t kInput = 1;
  const uint8_t phase = execution_.move.phase;
  const bool data = phase <= static_cast<uint8_t>(BusPhase::kDataIn);
  if (!bit(kCcntl0, kCcntl0Enpmj) || (!data && !bit(kCcntl0, kCcntl0Enndj))) {
    return Post({.sist0 = kSist0Ma});
  }
  const bool second =
      bit(kCcntl0, kCcntl0Pmjctl) ? (phase & kInput) != 0 : bit(kScntl2, kScntl2Wsr);
  regs_.Set(kDsp, regs_[second ? kPmjad2 : kPmjad1]);
}

// All I/O instructions but a selection, which may read its target from a table: false.
bool Chip::InputOutput() {
  const auto opcode = IoOpcode{execution_.instruction.opcode()};
  if (opcode == IoOpcode::kSet || opcode == IoOpcode::kClear) {
    SetClear(opcode == IoOpcode::kSet);
  } else if (bit(kScntl0, kScntl0Trg)) {
    IllegalInstruction();
  } else if (opcode == IoOpcode::kSelect) {
    return false;
  } else if (opcode == IoOpcode::kWaitDisconnect) {
    WaitDisconnect();
  } else {
    WaitReselect();
  }
  return true;
}

// The script goes on while the selection takes its time: it waits when it first needs the bus.
Task<void> Chip::Select() {
  const Instruction instruction = execution_.instruction;
  uint8_t id = instruction.first >> 16 & 0xf;
  if ((instruction.first & kIoTable) != 0) {
    const Bytes entry = Bytes(entry_).first(sizeof(uint32_t));
    const uint32_t address = reg32(kDsa) + SignExtend24(instruction.first);
    if (!co_await ReadMemory(Widen(address, kDrs), entry)) co_return;
    id = std::to_integer<uint8_t>(entry[2]) & 0xf;
    regs_.Set(kSxfer, std::to_integer<uint8_t>(entry[1]));
    regs_.Set(kScntl3, std::to_integer<uint8_t>(entry[3]));
  }
  if (!ReachBus()) co_return;
  link_.Poll();
  OnConnectionChanged(/*expected=*/true);
  if (link_.connected()) co_return JumpToAlternate();
  regs_.Set(kSdid, id);
  SetBits(kSstat0, kSstat0Woa, true);
  const bool atn = (instruction.first & kIoAtn) != 0;
  if (!link_.Select(id, atn)) {
    execution_.selection_failed = true;
    co_return;
  }
  OnConnected(atn);
  if (bit(kSien0, kSist0Cmp)) Post({.sist0 = kSist0Cmp});
}

void Chip::JumpToAlternate() {
  const Instruction& instruction = execution_.instruction;
  regs_.Set(kDsp, (instruction.first & kIoRelative) != 0
                      ? regs_[kDsp] + SignExtend24(instruction.second)
                      : instruction.second);
}

void Chip::WaitDisconnect() {
  execution_.wait = Wait::kNone;
  const uint64_t generation = generation_;
  if (!ReachBus()) return;
  link_.Poll();
  OnConnectionChanged(/*expected=*/false);
  if (generation == generation_ && link_.connected()) execution_.wait = Wait::kDisconnect;
}

void Chip::WaitReselect() {
  execution_.wait = Wait::kNone;
  const uint64_t generation = generation_;
  if (!ReachBus()) return;
  link_.Poll();
  OnConnectionChanged(/*expected=*/false);
  if (generation != generation_ || link_.connected()) return;
  if (link_.HasReselection()) {
    link_.Reselect();
    OnConnected(/*atn=*/false);
    regs_.Set(kSsid, kSsidVal | link_.target());
    if (bit(kSien0, kSist0Rsl)) Post({.sist0 = kSist0Rsl});
  } else if (bit(kIstat0, kIstat0Sigp)) {
    JumpToAlternate();
  } else {
    execution_.wait = Wait::kReselect;
  }
}

void Chip::SetClear(bool set) {
  const uint32_t flags = execution_.instruction.first;
  if ((flags & kFlagCarry) != 0) execution_.carry = set;
  if ((flags & kFlagTarget) != 0) SetBits(kScntl0, kScntl0Trg, set);
  const uint64_t old = regs_[kSocl];
  SetBits(kSocl, static_cast<uint8_t>(flags & (kFlagAck | kFlagAtn)), set);
  SetOutputLatch(old);
  // A target that has said all it had to goes at once.
  if (set || (flags & kFlagAck) == 0) return;
  link_.Poll();
  OnConnectionChanged(/*expected=*/false);
}

}  // namespace farside::lsi53c895a
