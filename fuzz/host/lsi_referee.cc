#include "fuzz/host/lsi_referee.h"

#include <algorithm>
#include <utility>

#include "devices/lsi53c895a/scripts.h"
#include "devices/scsi/big_endian.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

using namespace lsi53c895a;  // NOLINT: this file reads its registers.
using scsi::Byte;

constexpr uint32_t kInstructionSize = 8;  // Of most.
constexpr uint32_t kCount = 0xff'ffff;
constexpr uint32_t kInput = 1;  // Of a phase: the I/O signal.

// Kinds of instructions by their upper bits: chapter 5.
constexpr bool IsBlockMove(uint32_t first) { return first >> 30 == 0; }
constexpr bool IsIo(uint32_t first) { return first >> 30 == 1 && (first >> 27 & 7) < 5; }
constexpr bool IsTransfer(uint32_t first) { return first >> 30 == 2; }
constexpr bool IsMemoryMove(uint32_t first) { return first >> 29 == 6; }
constexpr bool IsLoadStore(uint32_t first) { return first >> 29 == 7; }
constexpr bool IsDirect(uint32_t first) {
  return IsBlockMove(first) && (first & (kMoveIndirect | kMoveTable)) == 0;
}
constexpr bool IsSelect(uint32_t first) { return first >> 27 == 8; }
constexpr uint8_t SelectedId(uint32_t first) { return static_cast<uint8_t>(first >> 16 & 0xf); }
// An interrupt without a condition.
constexpr bool IsInt(uint32_t first) {
  constexpr uint32_t kConditions =
      kTransferCarry | kTransferCompareData | kTransferComparePhase | kTransferWait;
  return first >> 27 == 0x13 && (first & kTransferOnTheFly) == 0 &&
         (first & kTransferIfTrue) != 0 && (first & kConditions) == 0;
}
constexpr bool IsCarryFlag(uint32_t first) {
  const uint32_t opcode = first >> 27;
  return (opcode == 0xb || opcode == 0xc) && (first & kFlagCarry) != 0;  // SET, CLEAR.
}
// JUMP to an absolute address if carry.
constexpr bool IsCarryJump(uint32_t first) {
  return first >> 27 == 0x10 && (first & kTransferCarry) != 0 &&
         (first & (kTransferRelative | kTransferWait | kTransfer64)) == 0;
}

// Sections 5.2, 5.5, 5.6, 5.7. An empty dword is passed over (SeaBIOS leaves such).
constexpr bool IsIllegal(uint32_t first) {
  if (IsDirect(first) || IsMemoryMove(first)) return first != 0 && (first & kCount) == 0;
  if (IsLoadStore(first)) return (first & 7) == 0 || (first & 7) > sizeof(uint32_t);
  return IsTransfer(first) && (first >> 27 & 7) > static_cast<uint32_t>(TransferOpcode::kInterrupt);
}

constexpr uint32_t Displacement(uint32_t value) {
  return (value & 0x80'0000) != 0 ? value | 0xff00'0000 : value & 0xff'ffff;
}

// What an access of registers has of one of them.
std::optional<uint8_t> ByteOf(Region region, uint64_t offset, ConstBytes bytes, Reg reg) {
  if (region != Region{kIoBar} && region != Region{kMemoryBar}) return std::nullopt;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if ((offset + i) % kRegisterSize == OffsetOf(reg)) return Byte(bytes, i);
  }
  return std::nullopt;
}

}  // namespace

template <typename T>
T LsiReferee::Read(Reg reg) const {
  T value{};
  device_.ReadRegion(Region{kIoBar}, OffsetOf(reg), AsWritableBytes(value));
  return value;
}

LsiReferee::Program LsiReferee::ReadProgram() const {
  static_assert(kRegisters[kDsps].offset == kRegisters[kDbc].offset + 12);
  return Read<Program>(kDbc);
}

LsiReferee::Status LsiReferee::ReadStatus() const {
  static_assert(kRegisters[kIstat1].offset == kRegisters[kIstat0].offset + 1);
  return Read<Status>(kIstat0);
}

void LsiReferee::Begin(bool ready) {
  scsi_.Begin(ready);
  last_.reset();
  link_ = Link::kFree;
  csbc_ = Read<uint32_t>(kCsbc);
  alone_ = true;
  idle_ = true;
  was_reset_ = false;
  owed_dstat_ = owed_sist1_ = 0;
  gate_.reset();
}

void LsiReferee::BeginReset() {
  last_.reset();
  link_ = Link::kUnknown;
  owed_dstat_ = owed_sist1_ = 0;
  gate_.reset();
}

void LsiReferee::EndReset() {
  scsi_.Reset();
  link_ = Link::kFree;
  csbc_ = Read<uint32_t>(kCsbc);
  alone_ = true;
  was_reset_ = true;
}

void LsiReferee::Lose() {
  LoseBus();
  last_.reset();
  owed_dstat_ = owed_sist1_ = 0;
  gate_.reset();
}

void LsiReferee::OnEvent() {
  scsi_.JudgeTaskSets();
  last_.reset();
  was_reset_ = false;
  gate_.reset();
  in_flight_ = !idle_;
  // Nothing runs, and nothing may from now on.
  if (std::exchange(idle_, false) && !host_.bus_master()) CloseGate();
}

void LsiReferee::CloseGate() {
  gate_ = Gate{.dsp = Read<uint32_t>(kDsp), .pending = (ReadStatus().istat0 & kIstat0Dip) != 0};
}

void LsiReferee::OnRead(Region region, uint64_t offset, ConstBytes out) {
  if (const auto dstat = ByteOf(region, offset, out, kDstat)) {
    owed_dstat_ = static_cast<uint8_t>(owed_dstat_ & ~*dstat);
  }
  if (const auto sist1 = ByteOf(region, offset, out, kSist1)) {
    owed_sist1_ = static_cast<uint8_t>(owed_sist1_ & ~*sist1);
  }
  if (gate_) CloseGate();  // What was stacked is pending now.
}

void LsiReferee::BeginWrite(Region region, uint64_t offset, ConstBytes in) {
  last_.reset();
  if (ByteOf(region, offset, in, kIstat0)) old_istat_ = ReadStatus().istat0;
  if (ByteOf(region, offset, in, kScntl1)) old_scntl1_ = Read<uint8_t>(kScntl1);
}

void LsiReferee::EndWrite(Region region, uint64_t offset, ConstBytes in) {
  if (gate_) CloseGate();
  if (region == Region::kConfig || region == Region{kRamBar}) return;
  const Status status = ReadStatus();
  if (status.asleep()) return;
  const auto istat = ByteOf(region, offset, in, kIstat0);
  const auto scntl1 = ByteOf(region, offset, in, kScntl1);
  // A long write does more than one thing.
  if (in.size() > sizeof(uint64_t)) return Lose();
  // A block move that has begun is told by registers that are a driver's to write.
  if (link_ != Link::kFree) LoseBus();
  const bool soft_reset = istat && (*istat & kIstat0Srst) != 0 && (old_istat_ & kIstat0Srst) == 0;
  if (soft_reset) {
    if (device_.NextDeadline()) {
      Violation("lsi-gate", "a timer runs on through a software reset");
    }
    Lose();
  } else if (istat && (*istat & kIstat0Abrt) != 0) {
    owed_dstat_ |= kDstatAbrt;
  }
  if (scntl1 && (*scntl1 & kScntl1Rst) != 0 && (old_scntl1_ & kScntl1Rst) == 0) {
    LoseBus();
    scsi_.Reset();
    alone_ = !scsi_.AnyInFlight();
  }
  // A script may read what is owed.
  if ((status.istat1 & kIstat1Srun) != 0) owed_dstat_ = owed_sist1_ = 0;
}

void LsiReferee::BeginDma(const char*, uint64_t iova) {
  if (!last_ || last_->third_due || !std::exchange(last_->moves, false)) return;
  const Program now = ReadProgram();
  // Another phase may have made it a jump.
  const bool is_its_own = now.dbc == last_->first && now.dsp == last_->next();
  if (is_its_own && static_cast<uint32_t>(iova) != now.dsp) CheckTarget(*last_, iova);
}

void LsiReferee::OnDmaRead(uint64_t iova, ConstBytes out) {
  const Program now = ReadProgram();
  const auto address = static_cast<uint32_t>(iova);
  const bool abandoned = std::exchange(in_flight_, false);
  // A move may lead to the instruction behind it: a table entry comes first, and its bytes then.
  const bool is_entry = last_ && std::exchange(last_->entry_due, false);
  const bool is_data = IsBlockMove(now.dbc) && now.dnad == address && (now.dbc & kCount) != 0;
  if (address == now.dsp && out.size() == kInstructionSize && !is_entry && !is_data) {
    if (!abandoned) OnFetch(now, out);
    return;
  }
  if (last_ && last_->third_due && out.size() == sizeof(uint32_t) &&
      address == last_->address + kInstructionSize) {
    last_->third = LoadLe<uint32_t>(out);
    last_->third_due = false;
    return;
  }
  OnBus(now, iova, out, true);
}

void LsiReferee::OnDmaWrite(uint64_t iova, ConstBytes in) {
  in_flight_ = false;
  OnBus(ReadProgram(), iova, in, false);
}

void LsiReferee::OnFetch(const Program& now, ConstBytes words) {
  const uint32_t address = now.dsp;
  if (last_) CheckPassed(*last_, now);
  Instruction fetched{.address = address,
                      .first = LoadLe<uint32_t>(words),
                      .second = LoadLe<uint32_t>(words.subspan(4))};
  fetched.entry_due = IsBlockMove(fetched.first) && (fetched.first & kMoveTable) != 0;
  fetched.third_due = HasThird(fetched.first);
  if (fetched.third_due) fetched.size += sizeof(uint32_t);
  fetched.illegal = IsIllegal(fetched.first);
  fetched.moves = IsDirect(fetched.first) && fetched.first != 0 && !fetched.illegal;
  if (last_ && address == last_->next()) {
    if (IsCarryFlag(last_->first)) fetched.carry = last_->first >> 27 == 0xb;
    fetched.behind_select = IsSelect(last_->first) && (last_->first & kIoTable) == 0 &&
                            !scsi_.HasUnit(SelectedId(last_->first)) && last_->second != address;
  }
  last_ = fetched;
}

// Sections 5.2, 5.5 and 5.6.
bool LsiReferee::HasThird(uint32_t first) const {
  if (IsDirect(first)) return (Read<uint8_t>(kCcntl1) & kCcntl1EnDbmv) != 0;
  return IsMemoryMove(first) || (first >> 28 == 8 && (first & kTransfer64) != 0);
}

// What ends a block move early, and does not halt the script: another phase, or a move into the
// chip's own registers, which may start another script even where this one would have gone on.
bool LsiReferee::MayEndEarly(const Program& move) const {
  if (move.dsp == Read<uint32_t>(kPmjad1) || move.dsp == Read<uint32_t>(kPmjad2)) return true;
  const uint64_t base = host_.BarAddress(kMemoryBar);
  const uint64_t size = device_.info().region(Region{kMemoryBar}).size;
  const uint64_t left = move.dbc & kCount;
  return base != 0 && move.dnad < base + size && base < move.dnad + left;
}

// The instruction before the one that is fetched now, unless others came between them: DBC has
// the first dword of what was executed last, but for a count.
void LsiReferee::CheckPassed(const Instruction& passed, const Program& now) const {
  const uint32_t next = now.dsp;
  const uint32_t counted = IsBlockMove(passed.first) || IsMemoryMove(passed.first) ? kCount : 0;
  if (((now.dbc ^ passed.first) & ~counted) != 0) return;
  if (passed.illegal) {
    Violation("lsi-script", "instruction {:#010x} {:#010x} is illegal, and the script goes on",
              passed.first, passed.second);
  }
  const bool moved = IsBlockMove(passed.first) && passed.first != 0 && next == passed.next();
  const bool stopped = moved && (now.dbc & kCount) != 0;
  if (stopped && !MayEndEarly(now)) {
    Violation("lsi-script", "block move {:#010x} is passed with {} bytes left", passed.first,
              now.dbc & kCount);
  }
  const bool follows = next == passed.next() || next == passed.second;
  const bool keeps = IsTransfer(passed.first) || IsIo(passed.first);
  if (keeps && follows && now.dsps != passed.second) {
    Violation("lsi-script", "DSPS is {:#x} after instruction {:#010x} {:#010x}", now.dsps,
              passed.first, passed.second);
  }
  if (!passed.carry || !IsCarryJump(passed.first) || !follows) return;
  const bool taken = *passed.carry == ((passed.first & kTransferIfTrue) != 0);
  if (next != (taken ? passed.second : passed.next())) {
    Violation("lsi-script", "{:#010x} with carry {} goes on at {:#x}", passed.first, *passed.carry,
              next);
  }
}

// Section 5.2: where a direct block move of 32 or 64 bits leads (section 4.2, CCNTL1, SBMS).
void LsiReferee::CheckTarget(const Instruction& move, uint64_t iova) const {
  const auto ccntl1 = Read<uint8_t>(kCcntl1);
  uint64_t high = Read<uint32_t>(kSbms);
  if ((ccntl1 & kCcntl1EnDbmv) != 0) high = move.third;
  if ((ccntl1 & kCcntl1Ddac) != 0) high = 0;
  if (iova == (high << 32 | move.second)) return;
  Violation("lsi-script", "block move {:#010x} to {:#x} reaches {:#x}", move.first,
            high << 32 | move.second, iova);
}

// Section 4.2, CCNTL1: which registers an index may name. And section 5.2: no move of no bytes.
void LsiReferee::OnTableEntry(ConstBytes entry) {
  if (!last_ || !IsBlockMove(last_->first) || (last_->first & kMoveTable) == 0) return;
  constexpr uint32_t kSelectors = 22;  // SCRATCHC to SCRATCHR, MMRS to DBMS.
  const auto ccntl1 = Read<uint8_t>(kCcntl1);
  const auto word = LoadLe<uint32_t>(entry);
  const bool indexed = (ccntl1 & (kCcntl1EnTibmv | kCcntl1Timod)) == kCcntl1EnTibmv;
  last_->illegal = (word & kCount) == 0 || (indexed && (word >> 24 & 0x1f) >= kSelectors);
}

void LsiReferee::OnBus(const Program& now, uint64_t iova, ConstBytes bytes, bool out) {
  if (!IsBlockMove(now.dbc)) return;
  if ((now.dbc & kMoveIndirect) != 0) return LoseBus();
  // A table entry may lie where DNAD points before it has that entry's address.
  const bool against_phase = out == ((now.dbc >> 24 & kInput) != 0);
  if (now.dnad != static_cast<uint32_t>(iova) || against_phase) {
    if (out && bytes.size() == kInstructionSize) OnTableEntry(bytes);
    return;
  }
  const auto csbc = Read<uint32_t>(kCsbc);
  if (csbc != csbc_) LoseBus();
  csbc_ = csbc + static_cast<uint32_t>(bytes.size());
  if (link_ == Link::kUnknown) return;
  switch (now.dbc >> 24 & kBusPhase) {
    case 0:
    case 1:
      return OnData(bytes, out);
    case 2:
      return OnCommand(now, bytes);
    case 3:
      return OnStatus(Byte(bytes, 0));
    case 6:
      return OnMessageOut(now, bytes);
    case 7:
      return OnMessageIn(bytes);
    default:
      return LoseBus();
  }
}

std::array<uint32_t, 2> LsiReferee::InstructionAt(uint32_t address) const {
  std::array<uint32_t, 2> words{};
  const uint64_t ram = host_.BarAddress(kRamBar);
  if (ram != 0 && address >= ram && InRange(address - ram, kInstructionSize, kRamSize)) {
    device_.ReadRegion(Region{kRamBar}, address - ram, AsWritableBytes(words));
  } else if (const ConstBytes memory = host_.Peek(address, kInstructionSize); !memory.empty()) {
    Copy(AsWritableBytes(words), memory);
  }
  return words;
}

// The target that the script has selected right before `address`, if SDID agrees.
std::optional<uint8_t> LsiReferee::SelectedBehind(uint32_t address) const {
  const auto [first, second] = InstructionAt(address - kInstructionSize);
  if (!IsSelect(first)) return std::nullopt;
  uint8_t id = SelectedId(first);
  if ((first & kIoTable) != 0) {
    const ConstBytes entry =
        host_.Peek(Read<uint32_t>(kDsa) + Displacement(first), sizeof(uint32_t));
    if (entry.empty()) return std::nullopt;
    id = Byte(entry, 2) & 0xf;
  }
  if ((Read<uint8_t>(kSdid) & 0xf) != id || !scsi_.HasUnit(id)) return std::nullopt;
  return id;
}

// SPI-3 section 16: IDENTIFY, and what may follow it.
void LsiReferee::OnMessageOut(const Program& now, ConstBytes message) {
  constexpr uint8_t kIdentify = 0x80;
  constexpr uint8_t kExtended = 0x01;
  constexpr uint8_t kLongest = 6;  // Of the extended messages that there are.
  const uint32_t at = now.dsp - kInstructionSize;
  const auto target = SelectedBehind(at);
  if (link_ != Link::kFree || !target || (Byte(message, 0) & kIdentify) == 0) return LoseBus();
  link_ = Link::kMessage;
  message_at_ = at;
  lun_ = Byte(message, 0) & 0x3f;
  freeing_ = rejecting_ = false;
  exchange_.target = *target;
  exchange_.alone = alone_;
  message = message.subspan(1);
  if (message.size() >= 2 && Byte(message, 0) >> 4 == 2 && Byte(message, 0) <= 0x22) {
    message = message.subspan(2);  // A queue tag.
  }
  if (message.empty()) return;
  constexpr uint8_t kManagement[] = {0x06, 0x0c, 0x0d, 0x0e, 0x17};  // Aborts and resets.
  freeing_ = message.size() == 1 &&
             std::ranges::find(kManagement, Byte(message, 0)) != std::end(kManagement);
  rejecting_ = message.size() > 2 && Byte(message, 0) == kExtended && Byte(message, 1) > kLongest &&
               message.size() == 2 + size_t{Byte(message, 1)};
  if (freeing_) {
    alone_ = false;
    scsi_.Lose();
  } else if (!rejecting_) {
    LoseBus();
  }
}

// SAM-3: a target asks for as many bytes as the operation code has.
void LsiReferee::OnCommand(const Program& now, ConstBytes cdb) {
  if (link_ != Link::kMessage) return LoseBus();
  const bool behind = now.dsp - 2 * kInstructionSize == message_at_ && last_.has_value();
  if (freeing_ && !behind) return LoseBus();
  if (freeing_) {
    Violation("lsi-bus", "a target takes a command after a message that aborts");
  }
  if (rejecting_) {
    Violation("lsi-bus", "a target takes a command and has not rejected a message");
  }
  const size_t size = scsi::CdbSize(Byte(cdb, 0));
  if (size == 0) return LoseBus();
  link_ = cdb.size() < size ? Link::kShortCommand : Link::kCommand;
  exchange_.cdb.assign(cdb.begin(),
                       cdb.begin() + static_cast<ptrdiff_t>(std::min(size, cdb.size())));
  exchange_.in.clear();
  exchange_.out.clear();
}

void LsiReferee::CheckIsWhole(const char* phase) const {
  if (link_ != Link::kShortCommand) return;
  Violation("lsi-bus", "a target goes to {} with {} bytes of command {:#x}", phase,
            exchange_.cdb.size(), Byte(exchange_.cdb, 0));
}

void LsiReferee::OnData(ConstBytes data, bool out) {
  CheckIsWhole("DATA");
  if (link_ != Link::kCommand) return LoseBus();
  auto& side = out ? exchange_.out : exchange_.in;
  side.insert(side.end(), data.begin(), data.end());
}

void LsiReferee::OnStatus(uint8_t status) {
  CheckIsWhole("STATUS");
  if (link_ != Link::kCommand) return LoseBus();
  if (lun_ == 0) scsi_.Judge(exchange_, status);
  link_ = Link::kFree;
}

// After a status COMMAND COMPLETE; before it the target may go away for a while.
void LsiReferee::OnMessageIn(ConstBytes message) {
  constexpr uint8_t kCommandComplete = 0x00;
  constexpr uint8_t kReject = 0x07;
  const uint8_t first = Byte(message, 0);
  if (link_ == Link::kMessage && rejecting_ && first == kReject && message.size() == 1) {
    rejecting_ = false;
    return;
  }
  if (link_ == Link::kMessage && rejecting_) {
    Violation("lsi-bus", "a target answers an extended message that there is not with {:#x}",
              first);
  }
  if (link_ == Link::kFree && first == kCommandComplete && message.size() == 1) return;
  LoseBus();
}

void LsiReferee::LoseBus() {
  link_ = Link::kUnknown;
  alone_ = false;
  scsi_.Lose();
}

// A selection that nobody answers times out, at the latest when SCRIPTS halt (section 4.2, SIST1);
// that is stacked behind what halted them.
void LsiReferee::NoteHalt(const Program& now, Status status) {
  if (!last_ || !IsInt(last_->first) || now.dbc != last_->first) return;
  if ((status.istat1 & kIstat1Srun) != 0) return;
  if (now.dsps != last_->second) {
    Violation("lsi-script", "DSPS is {:#x} after INT {:#x}", now.dsps, last_->second);
  }
  if (last_->behind_select) owed_sist1_ |= kSist1Sto;
}

void LsiReferee::OnIdle() {
  idle_ = true;
  const Status status = ReadStatus();
  if (status.asleep()) return Lose();
  if (last_ || gate_) {
    const Program now = ReadProgram();
    NoteHalt(now, status);
    CheckGate(now, status);
  }
  CheckOwed(status.istat0);
  CheckPin(status);
  if (was_reset_ && device_.NextDeadline()) {
    Violation("lsi-gate", "a timer runs on through a reset");
  }
  if ((status.istat0 & kIstat0Con) != 0) return;
  if (link_ != Link::kFree) LoseBus();
  link_ = Link::kFree;
  csbc_ = Read<uint32_t>(kCsbc);
}

// Section 2.2.16.5: what is stacked comes up when the first was read.
void LsiReferee::CheckOwed(uint8_t istat) const {
  if ((owed_dstat_ | owed_sist1_) == 0 || (istat & (kIstat0Sip | kIstat0Dip)) != 0) return;
  Violation("lsi-interrupt",
            "DSTAT {:#x} and SIST1 {:#x} were not read, and ISTAT0 {:#x} has nothing", owed_dstat_,
            owed_sist1_, istat);
}

// Section 2.2.16: what is enabled and pending has the pin up.
void LsiReferee::CheckPin(Status status) const {
  constexpr uint8_t kAllDma = 0x7d;
  constexpr uint8_t kFatalScsi0 = 0x8f;
  constexpr uint8_t kFatalScsi1 = kSist1Sto;  // SBMC comes where somebody changes the bus.
  const uint8_t istat = status.istat0;
  const bool anything = (istat & (kIstat0Dip | kIstat0Sip | kIstat0Intf)) != 0;
  if (anything == host_.intx()) return;
  if (!host_.intx_mode() || (Read<uint8_t>(kDcntl) & kDcntlIrqd) != 0) return;
  const bool dma = (Read<uint8_t>(kDien) & kAllDma) == kAllDma && (istat & kIstat0Dip) != 0;
  const auto sien0 = Read<uint8_t>(kSien0);
  const auto sien1 = Read<uint8_t>(kSien1);
  const bool fatal = (sien0 & kFatalScsi0) == kFatalScsi0 && (sien1 & kFatalScsi1) != 0;
  const bool due = dma || (fatal && (istat & kIstat0Sip) != 0) || (istat & kIstat0Intf) != 0;
  // SYNC_IRQD keeps new causes off the pin, and lets it be.
  if (due && !host_.intx() && (status.istat1 & kIstat1Si) == 0) {
    Violation("lsi-interrupt", "INTx is down with ISTAT0 {:#x}", istat);
  }
  if (!anything && host_.intx() && sien0 == 0xff && sien1 == 0x17) {
    Violation("lsi-interrupt", "INTx is up with nothing pending");
  }
}

void LsiReferee::CheckGate(const Program& now, Status status) {
  if (!gate_ || host_.bus_master()) return;
  const bool pending = (status.istat0 & kIstat0Dip) != 0;
  if (now.dsp == gate_->dsp && (gate_->pending || !pending)) return;
  Violation("lsi-gate", "SCRIPTS run with bus mastering off: DSP {:#x} becomes {:#x}{}", gate_->dsp,
            now.dsp, pending ? ", and an interrupt is pending" : "");
}

}  // namespace farside::fuzz
