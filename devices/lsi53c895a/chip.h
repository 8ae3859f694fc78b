// The LSI53C895A PCI to Ultra2 SCSI controller.
//
// A write of DSP starts SCRIPTS; a task of ours fetches and executes its instructions. What a
// driver reads back at once (status, masks, interrupts, connection) is settled in its write. The
// task ends when the script halts or waits, and is started anew by whatever it waits for; what a
// script waits with lies in members, so that it can be saved. It yields to the loop after so many
// instructions: a script that never waits holds up nobody, and ABRT and SRST get at it.
//
// Across each DMA the script may be halted, restarted or reset, by the guest or by the DMA itself,
// which may lead into our own BARs: every halt and start changes generation_, and an instruction
// that finds it changed is abandoned. So the chip never executes inside an access to its registers.
//
// Where the manual leaves time or luck to hardware: a selection that nobody answers times out when
// the script first needs the bus, whatever STIME0 says; the chip wins every arbitration; CMP and
// RSL are recorded only when they are enabled; parity is never wrong; transfers are never odd.
// Target mode is not there: its instructions are illegal.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "devices/core/pci_device.h"
#include "devices/core/register_block.h"
#include "devices/lsi53c895a/interrupts.h"
#include "devices/lsi53c895a/registers.h"
#include "devices/lsi53c895a/scripts.h"
#include "devices/lsi53c895a/target_link.h"
#include "devices/scsi/bus.h"

namespace farside::lsi53c895a {

inline constexpr std::string_view kModelName = "lsi53c895a";

// Instructions (or DMA accesses of one) between two turns of the loop.
inline constexpr uint32_t kQuantum = 4096;

struct Options {
  uint32_t quantum = kQuantum;  // 1 to kQuantum.
};

class Chip final : public PciDevice, private scsi::Initiator {
 public:
  explicit Chip(DeviceEnv env, Options options = {});
  ~Chip() override = default;

  scsi::Bus& bus() { return bus_; }

  void OnDmaChanged() override;
  std::optional<uint64_t> NextDeadline() const override;
  void OnDeadline() override;
  Task<void> Drain() override;
  void Resume() override;

  // Instructions executed since the chip was made.
  uint64_t instructions() const { return instructions_; }

 private:
  // What the script waits for, with its instruction in execution_.
  enum class Wait : uint8_t { kNone, kMove, kPhase, kDisconnect, kReselect };

  // A block move that has begun. Registers follow it; what a driver writes to them meanwhile does
  // not count.
  struct Move {
    uint64_t address = 0;
    uint32_t left = 0;
    uint32_t moved = 0;
    uint8_t phase = 0;   // A BusPhase, or a reserved one, which never comes.
    uint8_t top = 0;     // RBC[31:24]: of the table entry, or the operation code.
    uint32_t entry = 0;  // ESA.
  };

  struct Execution {
    bool running = false;
    Wait wait = Wait::kNone;
    bool carry = false;
    bool selection_failed = false;  // STO comes when the bus is needed.
    uint32_t address = 0;           // Of the instruction.
    Instruction instruction;
    Move move;
  };

  // Counts our task, which has it as a local, until it has ended.
  class Busy {
   public:
    explicit Busy(Chip& chip) : chip_(chip) {}
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() { chip_.OnTaskEnd(); }

   private:
    Chip& chip_;
  };

  struct Loaded;  // A state that was read and is not taken over yet.

  // PciDevice.
  void ReadBar(uint32_t bar, uint64_t offset, Bytes out) override;
  void WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) override;
  void OnReset(ResetKind kind) override;
  void OnBusMasterChanged() override { Kick(); }
  DmaStatus SelfAccess(uint32_t bar, uint64_t offset, Bytes data, DmaAccess access) override;
  void SaveModel(StateWriter& out) const override;
  Result<void> LoadModel(StateReader& in) override;
  void SaveModelFast(FastState& out) const override;
  void LoadModelFast(FastReader& in) override;

  // scsi::Initiator.
  void OnPhase(scsi::Request&) override { Kick(); }

  // chip.cc: registers, starting and halting.
  void ReadRegisters(uint64_t offset, Bytes out);
  void WriteRegisters(uint64_t offset, ConstBytes in);
  void ReadWindow(uint64_t offset, Bytes out);
  void OnRegisterWrite(size_t row, uint64_t old, uint64_t mask);
  void OnIstat0Write(uint64_t old);
  void SoftReset();
  void ResetScsiBus();
  void Start();
  void Halt();
  void Post(InterruptBits bits);
  void UpdateInterrupts();
  void OnConnectionChanged(bool expected);
  void OnConnected(bool atn);
  void SetOutputLatch(uint64_t value);
  InterruptBits enabled_interrupts() const;

  // timers.cc.
  uint64_t TimerPeriod(uint8_t code, bool scaled) const;
  void OnStime1Write();
  void UpdateHandshakeTimer();

  // processor.cc: the SCRIPTS task and what is not on the SCSI bus.
  void Kick();
  bool CanRun() const;
  bool WaitIsOver() const;
  void OnTaskEnd();
  Task<void> Run();
  bool FetchFromRam();
  Task<bool> FetchFromMemory();
  void Decode();
  void DecodeThird();
  Task<bool> ReadMemory(uint64_t address, Bytes out);
  Task<bool> WriteMemory(uint64_t address, ConstBytes in);
  bool TurnIsOver(size_t size);
  bool OnDmaEnd(DmaStatus status, uint64_t generation);
  uint64_t Widen(uint32_t low, Reg selector) const;
  bool ExecuteAtOnce();
  Task<void> Execute();
  void ReadWrite();
  void Transfer();
  bool ConditionHolds() const;
  Task<void> MemoryMove();
  Task<bool> MoveMemoryPart(uint32_t source, uint32_t target, size_t size);
  bool IoAccess(uint32_t address, Bytes data, DmaAccess access);
  Task<void> LoadStore();
  void IllegalInstruction() { Post({.dstat = kDstatIid}); }
  uint8_t ReadByte(uint32_t reg);
  void WriteByte(uint32_t reg, uint8_t value);

  // bus_instructions.cc: block moves and I/O instructions.
  std::optional<BusPhase> AwaitPhase(Wait wait);
  bool ReachBus();
  Task<void> BlockMove();
  Task<bool> StartMove();
  Task<bool> ReadTableEntry();
  std::optional<Reg> Selector(uint8_t index) const;
  Task<void> ContinueMove();
  Task<bool> MoveData(BusPhase phase);
  Task<bool> MoveOut(BusPhase phase);
  Task<bool> MoveIn(BusPhase phase);
  void Advance(size_t size);
  void OnReceived(ConstBytes bytes);
  void ShowMove();
  void PhaseMismatch();
  bool InputOutput();
  Task<void> Select();
  void WaitDisconnect();
  void WaitReselect();
  void SetClear(bool set);
  void JumpToAlternate();

  // state.cc.
  void SaveExecution(StateWriter& out) const;
  Result<void> LoadRegisters(StateReader& in, Loaded& loaded) const;
  Result<void> LoadExecution(StateReader& in, Loaded& loaded) const;
  void TakeOver(Loaded& loaded);

  uint8_t reg8(Reg reg) const { return static_cast<uint8_t>(regs_[reg]); }
  uint32_t reg32(Reg reg) const { return static_cast<uint32_t>(regs_[reg]); }
  bool bit(Reg reg, uint8_t mask) const { return (regs_[reg] & mask) != 0; }
  void SetBits(Reg reg, uint8_t mask, bool on) {
    regs_.Set(reg, on ? regs_[reg] | mask : regs_[reg] & ~uint64_t{mask});
  }

  const Options options_;
  scsi::Bus bus_;
  TargetLink link_;
  TaskScope scope_;
  Wakeup idle_;  // busy_ became false.

  RegisterBlock<kRegCount> regs_{kRegisters};
  std::vector<std::byte> ram_ = std::vector<std::byte>(kRamSize);
  Interrupts interrupts_;
  Execution execution_;
  std::optional<uint64_t> general_deadline_;    // GEN, on our clock.
  std::optional<uint64_t> handshake_deadline_;  // HTH.

  bool busy_ = false;         // Our task has not ended.
  bool paused_ = false;       // Between Drain and Resume.
  uint64_t generation_ = 0;   // Of the script: changes when it starts, halts or is restarted.
  uint64_t dma_changes_ = 0;  // An access that was cancelled because of one is tried again.
  uint64_t instructions_ = 0;
  uint32_t turns_left_ = 0;     // Until the task yields.
  bool patience_over_ = false;  // A target that works may disconnect.

  // Of the task, which has at most one DMA in flight.
  std::array<std::byte, 12> fetch_{};
  std::array<std::byte, 8> entry_{};
  std::vector<std::byte> buffer_ = std::vector<std::byte>(4096);
};

}  // namespace farside::lsi53c895a
