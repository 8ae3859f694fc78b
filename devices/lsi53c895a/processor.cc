// The SCRIPTS processor: fetching, and the instructions that need no SCSI bus. Manual, chapter 5.
#include <algorithm>
#include <coroutine>

#include "base/mutant.h"
#include "devices/lsi53c895a/chip.h"

namespace farside::lsi53c895a {
namespace {

// Lets the loop do something else first.
struct Turn {
  Loop& loop;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> task) { loop.Post(task); }
  void await_resume() const noexcept {}
};

constexpr uint32_t kInstructionSize = 8;
constexpr size_t kBytesPerTurn = 256;  // Of an access, which costs as long as an instruction.
constexpr int kPatience = 2;           // Turns of the loop before a target that works disconnects.

}  // namespace

bool Chip::WaitIsOver() const {
  if (execution_.selection_failed) return true;
  switch (execution_.wait) {
    case Wait::kNone:
      return true;
    case Wait::kMove:
    case Wait::kPhase:
      return link_.WantsBus() || (MUTANT("lsi-move-without-nexus") && !link_.connected());
    case Wait::kDisconnect:
      return !link_.connected();
    case Wait::kReselect:
      return link_.connected() || link_.HasReselection() || bit(kIstat0, kIstat0Sigp);
  }
  return false;
}

bool Chip::CanRun() const {
  return execution_.running && !paused_ && config().may_master() && WaitIsOver();
}

// Something has happened that the script may wait for.
void Chip::Kick() {
  if (busy_ || !CanRun()) return;
  busy_ = true;
  scope_.Spawn(Run());
}

void Chip::OnTaskEnd() {
  busy_ = false;
  idle_.NotifyAll();
  Kick();
}

Task<void> Chip::Run() {
  const Busy busy(*this);
  // Never inside the access that started it.
  co_await Turn{loop()};
  turns_left_ = MUTANT("lsi-endless-script") ? 16 * options_.quantum : options_.quantum;
  while (CanRun()) {
    if (turns_left_ == 0) {
      if (!MUTANT("lsi-script-never-yields")) co_await Turn{loop()};
      turns_left_ = options_.quantum;
      continue;
    }
    --turns_left_;
    if (execution_.wait != Wait::kNone && link_.WouldDisconnect() && !patience_over_) {
      for (int i = 0; i < kPatience; ++i) co_await Turn{loop()};
      patience_over_ = true;
      continue;
    }
    const uint64_t generation = generation_;
    if (execution_.wait == Wait::kNone) {
      ++instructions_;
      if (!FetchFromRam()) {
        const bool fetched = co_await FetchFromMemory();
        if (!fetched) continue;
      }
      // An empty dword is passed over: SeaBIOS leaves it where a command has no data to move.
      if (execution_.instruction.first == 0) {
        regs_.Set(kDsp, execution_.address + sizeof(uint32_t));
        continue;
      }
    }
    if (!ExecuteAtOnce()) co_await Execute();
    if (generation != generation_) continue;
    UpdateHandshakeTimer();
    if (execution_.wait == Wait::kNone && bit(kDcntl, kDcntlSsm)) Post({.dstat = kDstatSsi});
  }
}

uint64_t Chip::Widen(uint32_t low, Reg selector) const {
  if (bit(kCcntl1, kCcntl1Ddac)) return low;
  return regs_[selector] << 32 | low;
}

// An address that is not ours to read is left to FetchFromMemory.
bool Chip::FetchFromRam() {
  const auto base = config().bar_address(kRamBar);
  const uint64_t address = Widen(reg32(kDsp), kSfs);
  if (!base || address < *base || !InRange(address - *base, fetch_.size(), kRamSize)) return false;
  Copy(fetch_, ConstBytes(ram_).subspan(address - *base, fetch_.size()));
  Decode();
  if (execution_.instruction.HasThird(bit(kCcntl1, kCcntl1EnDbmv))) DecodeThird();
  return true;
}

Task<bool> Chip::FetchFromMemory() {
  const uint64_t address = Widen(reg32(kDsp), kSfs);
  if (!co_await ReadMemory(address, Bytes(fetch_).first(kInstructionSize))) co_return false;
  Decode();
  if (!execution_.instruction.HasThird(bit(kCcntl1, kCcntl1EnDbmv))) co_return true;
  const Bytes third = Bytes(fetch_).subspan(kInstructionSize);
  if (!co_await ReadMemory(address + kInstructionSize, third)) co_return false;
  DecodeThird();
  co_return true;
}

void Chip::Decode() {
  execution_.address = reg32(kDsp);
  execution_.instruction = {.first = LoadLe<uint32_t>(fetch_),
                            .second = LoadLe<uint32_t>(ConstBytes(fetch_).subspan(4))};
  regs_.Set(kDsp, execution_.address + kInstructionSize);
  regs_.Set(kDbc, execution_.instruction.first);
  regs_.Set(kDnad, execution_.instruction.second);
  if (!MUTANT("lsi-dsps-stale")) regs_.Set(kDsps, execution_.instruction.second);
}

void Chip::DecodeThird() {
  execution_.instruction.third = LoadLe<uint32_t>(ConstBytes(fetch_).subspan(kInstructionSize));
  regs_.Set(kDsp, regs_[kDsp] + sizeof(uint32_t));
}

// True: the bytes are there, and the script is still the one that asked for them.
Task<bool> Chip::ReadMemory(uint64_t address, Bytes out) {
  const uint64_t generation = generation_;
  for (;;) {
    const uint64_t changes = dma_changes_;
    if (TurnIsOver(out.size())) co_await Turn{loop()};
    if (generation != generation_) co_return false;
    const DmaStatus status = co_await dma().Read(address, out);
    if (status == DmaStatus::kCancelled && changes != dma_changes_) continue;
    co_return OnDmaEnd(status, generation);
  }
}

Task<bool> Chip::WriteMemory(uint64_t address, ConstBytes in) {
  const uint64_t generation = generation_;
  for (;;) {
    const uint64_t changes = dma_changes_;
    if (TurnIsOver(in.size())) co_await Turn{loop()};
    if (generation != generation_) co_return false;
    const DmaStatus status = co_await dma().Write(address, in);
    if (status == DmaStatus::kCancelled && changes != dma_changes_) continue;
    co_return OnDmaEnd(status, generation);
  }
}

// An access of an instruction that has many of them counts like an instruction, and a long one like
// several. True: the loop is to do something else before it.
bool Chip::TurnIsOver(size_t size) {
  const auto cost = static_cast<uint32_t>(1 + size / kBytesPerTurn);
  const bool over = turns_left_ == 0;
  turns_left_ = over ? options_.quantum : turns_left_ - std::min(turns_left_, cost);
  return over && !MUTANT("lsi-script-never-yields");
}

bool Chip::OnDmaEnd(DmaStatus status, uint64_t generation) {
  if (generation != generation_ && !MUTANT("lsi-move-outlives-restart")) return false;
  if (status == DmaStatus::kOk) return true;
  Post({.dstat = kDstatBf});  // Target or master abort: a bus fault (section 4.2, DSTAT).
  return false;
}

// False: the instruction may reach memory, and is left to Execute.
bool Chip::ExecuteAtOnce() {
  switch (execution_.instruction.kind()) {
    case InstructionKind::kReadWrite:
      ReadWrite();
      return true;
    case InstructionKind::kTransfer:
      Transfer();
      return true;
    case InstructionKind::kIo:
      return InputOutput();
    case InstructionKind::kBlockMove:
    case InstructionKind::kMemoryMove:
    case InstructionKind::kLoadStore:
      return false;
  }
  return false;
}

Task<void> Chip::Execute() {
  const InstructionKind kind = execution_.instruction.kind();
  if (kind == InstructionKind::kIo) return Select();
  if (kind == InstructionKind::kMemoryMove) return MemoryMove();
  if (kind == InstructionKind::kLoadStore) return LoadStore();
  return BlockMove();
}

uint8_t Chip::ReadByte(uint32_t reg) {
  std::array<std::byte, 1> byte{};
  ReadRegisters(reg, byte);
  return std::to_integer<uint8_t>(byte[0]);
}

void Chip::WriteByte(uint32_t reg, uint8_t value) {
  // Nothing but these instructions writes SFBR.
  if (reg == OffsetOf(kSfbr)) return regs_.Set(kSfbr, value);
  const std::array byte = {std::byte{value}};
  WriteRegisters(reg, byte);
}

// Section 5.4.
void Chip::ReadWrite() {
  constexpr uint8_t kSfbrToRegister = 5;
  constexpr uint8_t kRegisterToSfbr = 6;
  constexpr uint8_t kLoad = 0;
  const Instruction& instruction = execution_.instruction;
  const uint32_t reg = instruction.read_write_register();
  const uint8_t operation = instruction.phase();
  const uint8_t data = (instruction.first & kReadWriteSfbr) != 0 ? reg8(kSfbr) : instruction.mask();
  uint8_t operand = reg8(kSfbr);
  if (instruction.opcode() != kSfbrToRegister && operation != kLoad) operand = ReadByte(reg);
  const uint8_t result = Compute(operation, operand, data, &execution_.carry);
  WriteByte(instruction.opcode() == kRegisterToSfbr ? OffsetOf(kSfbr) : reg, result);
}

bool Chip::ConditionHolds() const {
  const Instruction& instruction = execution_.instruction;
  if ((instruction.first & kTransferCarry) != 0) return execution_.carry;
  bool holds = true;
  if ((instruction.first & kTransferComparePhase) != 0) {
    holds &= (regs_[kSstat1] & kBusPhase) == instruction.phase();
  }
  if ((instruction.first & kTransferCompareData) != 0) {
    holds &= ((reg8(kSfbr) ^ instruction.data()) & ~instruction.mask() & 0xff) == 0;
  }
  return holds;
}

// Section 5.5.
void Chip::Transfer() {
  const Instruction& instruction = execution_.instruction;
  if (instruction.opcode() > static_cast<uint8_t>(TransferOpcode::kInterrupt)) {
    return IllegalInstruction();
  }
  if ((instruction.first & kTransferWait) != 0 && !AwaitPhase(Wait::kPhase)) return;
  if (ConditionHolds() != ((instruction.first & kTransferIfTrue) != 0)) return;
  const uint32_t next = reg32(kDsp);
  uint32_t target = instruction.second;
  if ((instruction.first & kTransferRelative) != 0) {
    target = next + SignExtend24(instruction.second);
    regs_.Set(kAdder, target);
  }
  switch (TransferOpcode{instruction.opcode()}) {
    case TransferOpcode::kCall:
      regs_.Set(kTemp, next);
      [[fallthrough]];
    case TransferOpcode::kJump:
      if ((instruction.first & kTransfer64) != 0) regs_.Set(kSfs, instruction.third);
      regs_.Set(kDsp, target);
      return;
    case TransferOpcode::kReturn:
      regs_.Set(kDsp, regs_[kTemp]);
      return;
    case TransferOpcode::kInterrupt:
      if ((instruction.first & kTransferOnTheFly) == 0) return Post({.dstat = kDstatSir});
      SetBits(kIstat0, kIstat0Intf, true);
      return UpdateInterrupts();
  }
}

// Section 5.6.
Task<void> Chip::MemoryMove() {
  const Instruction instruction = execution_.instruction;
  uint32_t left = instruction.count();
  if (left == 0) co_return IllegalInstruction();
  uint32_t source = instruction.second;
  uint32_t target = instruction.third;
  while (left != 0) {
    const auto size = static_cast<uint32_t>(std::min<size_t>(left, buffer_.size()));
    if (!co_await MoveMemoryPart(source, target, size)) co_return;
    source += size;
    target += size;
    left -= size;
  }
  regs_.Set(kDbc, regs_[kDbc] & 0xff00'0000);
  regs_.Set(kDnad, target);
}

Task<bool> Chip::MoveMemoryPart(uint32_t source, uint32_t target, size_t size) {
  const Bytes part = Bytes(buffer_).first(size);
  if (bit(kDmode, kDmodeSiom)) {
    if (!IoAccess(source, part, DmaAccess::kRead)) co_return false;
  } else if (!co_await ReadMemory(Widen(source, kMmrs), part)) {
    co_return false;
  }
  if (bit(kDmode, kDmodeDiom)) co_return IoAccess(target, part, DmaAccess::kWrite);
  co_return co_await WriteMemory(Widen(target, kMmws), part);
}

// I/O space: nothing in it is within our reach but our own registers.
bool Chip::IoAccess(uint32_t address, Bytes data, DmaAccess access) {
  const uint64_t generation = generation_;
  const auto base = config().bar_address(kIoBar);
  const bool ours =
      base && address >= *base && InRange(address - *base, data.size(), kRegisterSize);
  return OnDmaEnd(ours ? SelfAccess(kIoBar, address - *base, data, access) : DmaStatus::kFault,
                  generation);
}

// Section 5.7.
Task<void> Chip::LoadStore() {
  const Instruction instruction = execution_.instruction;
  const uint32_t size = instruction.first & 7;
  if (size == 0 || size > sizeof(uint32_t)) co_return IllegalInstruction();
  const bool load = (instruction.first & kLoadStoreLoad) != 0;
  const uint64_t address = (instruction.first & kLoadStoreDsa) != 0
                               ? Widen(reg32(kDsa) + SignExtend24(instruction.second), kDrs)
                               : Widen(instruction.second, load ? kMmrs : kMmws);
  const uint32_t reg = instruction.load_store_register();
  const Bytes data = Bytes(entry_).first(size);
  if (load) {
    if (co_await ReadMemory(address, data)) WriteRegisters(reg, data);
    co_return;
  }
  ReadRegisters(reg, data);
  co_await WriteMemory(address, data);
}

}  // namespace farside::lsi53c895a
