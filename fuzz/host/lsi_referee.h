// LsiReferee: the LSI53C895A Technical Manual as a driver sees it. It follows SCRIPTS by what is
// fetched from memory, commands by what crosses the SCSI bus, and interrupts by the pin.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "devices/lsi53c895a/registers.h"
#include "fuzz/host/host.h"
#include "fuzz/host/referee.h"
#include "fuzz/host/scsi_referee.h"

namespace farside::fuzz {

// Oracles: "lsi-script" (an instruction does not do what it says), "lsi-bus" (a phase that no
// target could be in), "lsi-interrupt" (the pin, or ISTAT0, does not tell of what has happened),
// "lsi-gate" (SCRIPTS run with bus mastering off, or a timer after a reset); and those of
// ScsiReferee.
//
// Only instructions that are fetched from memory are seen. What crosses the bus is, wherever the
// script lies: CSBC tells whether anything has crossed unseen. Where that, a message or a
// selection can not be followed the referee waits for the bus to be free again.
class LsiReferee final : public Referee {
 public:
  // All outlive this.
  LsiReferee(Host& host, Device& device, const ScsiReferee& scsi)
      : host_(host), device_(device), scsi_(scsi) {}

  void Begin(bool ready) override;
  void MarkReady() override {}
  void BeginReset() override;
  void EndReset() override;
  void Lose() override;

  void OnEvent() override;
  void OnRead(Region region, uint64_t offset, ConstBytes out) override;
  void BeginWrite(Region region, uint64_t offset, ConstBytes in) override;
  void EndWrite(Region region, uint64_t offset, ConstBytes in) override;
  void BeginDma(const char* what, uint64_t iova) override;
  void OnDmaRead(uint64_t iova, ConstBytes out) override;
  void OnDmaWrite(uint64_t iova, ConstBytes in) override;
  void OnMsix(uint32_t) override {}
  void OnIdle() override;

 private:
  // DBC with DCMD, DNAD, DSP and DSPS, which lie side by side.
  struct Program {
    uint32_t dbc = 0;
    uint32_t dnad = 0;
    uint32_t dsp = 0;
    uint32_t dsps = 0;
  };
  // As it was fetched from memory.
  struct Instruction {
    uint32_t address = 0;
    uint32_t first = 0;
    uint32_t second = 0;
    uint32_t third = 0;
    uint32_t size = 8;       // Bytes.
    bool third_due = false;  // It has a third dword, which has not come yet.
    bool entry_due = false;  // It has a table entry, which has not come yet.
    bool illegal = false;
    bool moves = false;              // A direct block move that has not reached memory.
    std::optional<bool> carry = {};  // Before it, if that is certain.
    bool behind_select = false;      // The one before it selects a target that is not there.

    uint32_t next() const { return address + size; }
  };
  // What is known of the bus.
  enum class Link : uint8_t {
    kUnknown,
    kFree,
    kMessage,      // A target was selected and has its messages.
    kCommand,      // And its command.
    kShortCommand  // Not all of it.
  };

  // Registers that lie side by side are read at once, for every event comes here.
  struct Status {
    uint8_t istat0 = 0;
    uint8_t istat1 = 0;
    // In D3 no register is to be seen; bits of ISTAT1 are fixed.
    bool asleep() const { return istat1 == 0xff; }
  };

  template <typename T>
  T Read(lsi53c895a::Reg reg) const;
  Program ReadProgram() const;
  Status ReadStatus() const;

  // SCRIPTS.
  void OnFetch(const Program& now, ConstBytes words);
  void CheckPassed(const Instruction& passed, const Program& now) const;
  void CheckTarget(const Instruction& move, uint64_t iova) const;
  bool HasThird(uint32_t first) const;
  bool MayEndEarly(const Program& move) const;
  void OnTableEntry(ConstBytes entry);
  void NoteHalt(const Program& now, Status status);

  // The SCSI bus.
  void OnBus(const Program& now, uint64_t iova, ConstBytes bytes, bool out);
  void OnMessageOut(const Program& now, ConstBytes message);
  void OnCommand(const Program& now, ConstBytes cdb);
  void OnData(ConstBytes data, bool out);
  void OnStatus(uint8_t status);
  void OnMessageIn(ConstBytes message);
  std::optional<uint8_t> SelectedBehind(uint32_t address) const;
  std::array<uint32_t, 2> InstructionAt(uint32_t address) const;
  void CheckIsWhole(const char* phase) const;
  void LoseBus();

  // Interrupts and gates.
  void CheckOwed(uint8_t istat) const;
  void CheckPin(Status status) const;
  void CheckGate(const Program& now, Status status);
  void CloseGate();

  Host& host_;
  Device& device_;
  ScsiReferee scsi_;

  std::optional<Instruction> last_;  // In this event.

  Link link_ = Link::kUnknown;
  uint32_t csbc_ = 0;        // When the last byte was seen to cross.
  bool alone_ = false;       // No command but the one that is followed is at work.
  bool freeing_ = false;     // The messages make the target go to BUS FREE.
  bool rejecting_ = false;   // They have one that it has to reject.
  uint32_t message_at_ = 0;  // Their block move.
  uint8_t lun_ = 0;
  ScsiExchange exchange_;

  bool idle_ = false;       // At the end of the last event.
  bool in_flight_ = false;  // Maybe, of an instruction that this event has halted.
  uint8_t old_istat_ = 0;   // Before a write.
  uint8_t old_scntl1_ = 0;  // And so.
  bool was_reset_ = false;  // In this event.
  // Conditions that a driver has not read yet, and that no script can have.
  uint8_t owed_dstat_ = 0;
  uint8_t owed_sist1_ = 0;
  // Bus mastering is off, and SCRIPTS stay as they were: DSP, and DIP.
  struct Gate {
    uint32_t dsp = 0;
    bool pending = false;
  };
  std::optional<Gate> gate_;
};

}  // namespace farside::fuzz
