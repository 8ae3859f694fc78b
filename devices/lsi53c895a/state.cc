// Saved state. Sections, all version 1, integers little-endian, in this order; those of the SCSI
// bus follow (devices/scsi):
//
//   lsi.registers  u32 number of rows, then a u64 for each row of kRegisters
//   lsi.ram        SCRIPTS RAM
//   lsi.chip       u8 running, wait, carry, selection failed; u32 instruction address and its three
//                  dwords; the block move: u64 address, u32 left, u32 moved, u8 phase, u8 top, u32
//                  entry; the interrupts of both levels: u8 DSTAT, SIST0, SIST1 each; u32 raised;
//                  then for GEN and HTH: u8 armed, u64 ns until it is due
//   lsi.target     see TargetLink::Save
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "devices/lsi53c895a/chip.h"

namespace farside::lsi53c895a {
namespace {

constexpr uint16_t kStateVersion = 1;

Result<void> Open(StateReader& in, std::string_view section) {
  const auto version = in.Section(section, kStateVersion);
  if (!version) return tl::unexpected(version.error());
  return {};
}

Result<void> Close(const StateReader& in, std::string_view section) {
  if (in.remaining() == 0) return {};
  return Fail("the device state's section '{}' has {} bytes too many", section, in.remaining());
}

void SaveInterrupts(const InterruptBits& bits, StateWriter& out) {
  out.Put(bits.dstat);
  out.Put(bits.sist0);
  out.Put(bits.sist1);
}

InterruptBits LoadInterrupts(StateReader& in) {
  InterruptBits bits;
  bits.dstat = in.Get<uint8_t>() & kFatal.dstat;
  bits.sist0 = in.Get<uint8_t>();
  bits.sist1 = in.Get<uint8_t>();
  return bits;
}

void SaveDeadline(const std::optional<uint64_t>& deadline, uint64_t now, StateWriter& out) {
  out.Put(static_cast<uint8_t>(deadline.has_value()));
  out.Put(deadline ? *deadline - std::min(*deadline, now) : uint64_t{0});
}

std::optional<uint64_t> LoadDeadline(StateReader& in, uint64_t now) {
  constexpr uint64_t kLongestNs = uint64_t{1} << 40;  // More than any timer code times its scale.
  const bool armed = in.Get<uint8_t>() != 0;
  const uint64_t left = std::min(in.Get<uint64_t>(), kLongestNs);
  if (!armed) return std::nullopt;
  return now + left;
}

}  // namespace

struct Chip::Loaded {
  RegisterBlock<kRegCount> regs{kRegisters};
  std::vector<std::byte> ram = std::vector<std::byte>(kRamSize);
  Execution execution;
  Interrupts::State interrupts;
  std::optional<uint64_t> general_deadline;
  std::optional<uint64_t> handshake_deadline;
};

void Chip::SaveModel(StateWriter& out) const {
  out.Section("lsi.registers", kStateVersion);
  out.Put(static_cast<uint32_t>(kRegCount));
  for (const uint64_t value : regs_.values()) out.Put(value);
  out.Section("lsi.ram", kStateVersion);
  out.PutBytes(ram_);
  SaveExecution(out);
  link_.Save(out);
  bus_.Save(out);
}

void Chip::SaveExecution(StateWriter& out) const {
  out.Section("lsi.chip", kStateVersion);
  out.Put(static_cast<uint8_t>(execution_.running));
  out.Put(static_cast<uint8_t>(execution_.wait));
  out.Put(static_cast<uint8_t>(execution_.carry));
  out.Put(static_cast<uint8_t>(execution_.selection_failed));
  out.Put(execution_.address);
  out.Put(execution_.instruction.first);
  out.Put(execution_.instruction.second);
  out.Put(execution_.instruction.third);
  const Move& move = execution_.move;
  out.Put(move.address);
  out.Put(move.left);
  out.Put(move.moved);
  out.Put(move.phase);
  out.Put(move.top);
  out.Put(move.entry);
  SaveInterrupts(interrupts_.state().first, out);
  SaveInterrupts(interrupts_.state().second, out);
  out.Put(interrupts_.state().raised);
  SaveDeadline(general_deadline_, clock().now_ns(), out);
  SaveDeadline(handshake_deadline_, clock().now_ns(), out);
}

Result<void> Chip::LoadModel(StateReader& in) {
  Loaded loaded;
  if (auto result = LoadRegisters(in, loaded); !result) return result;
  if (auto result = LoadExecution(in, loaded); !result) return result;
  const auto link = TargetLink::Load(in);
  if (!link) return tl::unexpected(link.error());
  const auto load_bus = [&]() -> Result<void> {
    if (auto result = bus_.Load(in); !result) return result;
    if (auto result = in.Finish(); !result) return result;
    return link_.TakeOver(**link);
  };
  if (auto result = load_bus(); !result) {
    bus_.ResetAll();
    return result;
  }
  TakeOver(loaded);
  return {};
}

Result<void> Chip::LoadRegisters(StateReader& in, Loaded& loaded) const {
  if (auto result = Open(in, "lsi.registers"); !result) return result;
  if (const auto rows = in.Get<uint32_t>(); rows != kRegCount) {
    return Fail("the saved chip has {} registers: it is of another build", rows);
  }
  for (size_t row = 0; row < kRegCount; ++row) loaded.regs.Set(row, in.Get<uint64_t>());
  if (auto result = Close(in, "lsi.registers"); !result) return result;
  if (auto result = Open(in, "lsi.ram"); !result) return result;
  in.GetBytes(loaded.ram);
  return Close(in, "lsi.ram");
}

Result<void> Chip::LoadExecution(StateReader& in, Loaded& loaded) const {
  if (auto result = Open(in, "lsi.chip"); !result) return result;
  Execution& execution = loaded.execution;
  execution.running = in.Get<uint8_t>() != 0;
  const auto wait = in.Get<uint8_t>();
  execution.carry = in.Get<uint8_t>() != 0;
  execution.selection_failed = in.Get<uint8_t>() != 0;
  execution.address = in.Get<uint32_t>();
  execution.instruction.first = in.Get<uint32_t>();
  execution.instruction.second = in.Get<uint32_t>();
  execution.instruction.third = in.Get<uint32_t>();
  Move& move = execution.move;
  move.address = in.Get<uint64_t>();
  move.left = in.Get<uint32_t>();
  move.moved = in.Get<uint32_t>();
  move.phase = in.Get<uint8_t>();
  move.top = in.Get<uint8_t>();
  move.entry = in.Get<uint32_t>();
  loaded.interrupts.first = LoadInterrupts(in);
  loaded.interrupts.second = LoadInterrupts(in);
  loaded.interrupts.raised = in.Get<uint32_t>();
  loaded.general_deadline = LoadDeadline(in, clock().now_ns());
  loaded.handshake_deadline = LoadDeadline(in, clock().now_ns());
  if (auto result = Close(in, "lsi.chip"); !result) return result;
  execution.wait = Wait{wait};
  // Each wait is one of its instruction.
  bool consistent = wait <= static_cast<uint8_t>(Wait::kReselect) &&
                    (execution.running || execution.wait == Wait::kNone) &&
                    move.left <= 0xff'ffff && move.phase <= 7;
  const InstructionKind kind = execution.instruction.kind();
  const auto opcode = IoOpcode{execution.instruction.opcode()};
  switch (execution.wait) {
    case Wait::kNone:
      break;
    case Wait::kMove:
      consistent &= kind == InstructionKind::kBlockMove && move.left != 0;
      break;
    case Wait::kPhase:
      consistent &= kind == InstructionKind::kTransfer;
      break;
    case Wait::kDisconnect:
      consistent &= kind == InstructionKind::kIo && opcode == IoOpcode::kWaitDisconnect;
      break;
    case Wait::kReselect:
      consistent &= kind == InstructionKind::kIo && opcode == IoOpcode::kWaitReselect;
      break;
  }
  if (!consistent) {
    return Fail(
        "the saved script waits for what its instruction {:#x} does not: the state is "
        "damaged",
        execution.instruction.first);
  }
  return {};
}

void Chip::TakeOver(Loaded& loaded) {
  ++generation_;
  regs_ = loaded.regs;
  ram_ = std::move(loaded.ram);
  execution_ = loaded.execution;
  interrupts_.set_state(loaded.interrupts);
  general_deadline_ = loaded.general_deadline;
  handshake_deadline_ = loaded.handshake_deadline;
  // What follows from the rest.
  SetBits(kIstat1, kIstat1Srun, execution_.running);
  SetBits(kScntl1, kScntl1Con, link_.connected());
  SetBits(kIstat0, kIstat0Con, link_.connected());
  UpdateInterrupts();
  Kick();
}

// What no stream tells of is here, too, where a script's later steps depend on it.
void Chip::SaveModelFast(FastState& out) const {
  CHECK(paused_ && !busy_);
  out.Put(regs_);
  out.PutArray(ram_);
  out.Put(execution_);
  out.Put(interrupts_);
  out.Put(general_deadline_);
  out.Put(handshake_deadline_);
  out.Put(instructions_);
  out.Put(patience_over_);
  bus_.SaveFast(out);
  link_.SaveFast(out);
}

void Chip::LoadModelFast(FastReader& in) {
  CHECK(paused_ && !busy_);
  ++generation_;
  in.Get(regs_);
  in.GetArray(std::span(ram_));
  in.Get(execution_);
  in.Get(interrupts_);
  in.Get(general_deadline_);
  in.Get(handshake_deadline_);
  in.Get(instructions_);
  in.Get(patience_over_);
  bus_.LoadFast(in);
  link_.LoadFast(in);
}

}  // namespace farside::lsi53c895a
