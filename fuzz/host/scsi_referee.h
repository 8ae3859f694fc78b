// ScsiReferee: SPC-4, SBC-3 and MMC-6 as an initiator sees them. It judges commands by what crossed
// the bus for them, and by the disks behind the units.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "devices/scsi/definitions.h"
#include "fuzz/host/disk.h"

namespace farside::fuzz {

// A logical unit 0.
struct ScsiUnit {
  const Disk* disk = nullptr;  // None: nothing answers here.
  uint32_t block_size = 0;
  bool is_cd = false;
  uint64_t wwn = 0;  // 0: it has none.
};

// A command from its CDB to its status.
struct ScsiExchange {
  uint8_t target = 0;
  bool alone = false;  // No other command was at work meanwhile.
  std::vector<std::byte> cdb;
  std::vector<std::byte> in;
  std::vector<std::byte> out;

  scsi::Opcode opcode() const { return scsi::Opcode{std::to_integer<uint8_t>(cdb[0])}; }
};

// Oracles: "scsi-status" (success of what has to fail, or failure for a reason that there is not),
// "scsi-data" (a successful command carries other data than it must).
class ScsiReferee {
 public:
  static constexpr uint8_t kTargets = 4;

  explicit ScsiReferee(const std::array<ScsiUnit, kTargets>& units) : units_(units) {}

  // Of a unit after power on, or after commands that made it ready.
  void Begin(bool ready) {
    tray_open_ = false;
    attention_due_.fill(!ready);
    failures_ = {};
  }
  // A bus reset, or one of the adapter.
  void Reset() {
    attention_due_.fill(true);
    failures_ = {};
  }
  // Commands may have run that were not seen.
  void Lose() {
    tray_open_ = false;
    attention_due_.fill(false);
    failures_ = {};
  }
  bool HasUnit(uint8_t target) const { return target < kTargets && units_[target].disk != nullptr; }
  bool AnyInFlight() const;

  void Judge(const ScsiExchange& exchange, uint8_t status);
  // Of commands that are at work now.
  void JudgeTaskSets() const;

 private:
  // What the sense data of a command can have, if it is told of what is wrong with the request.
  struct Failure {
    scsi::Opcode opcode{};
    bool after_reset = false;             // It has to hear of that, and of nothing else.
    bool lawful = false;                  // Nothing is wrong with it.
    std::optional<uint16_t> reason = {};  // The one additional sense code.
  };

  // True if the unit had to tell of a reset first.
  bool JudgeAttention(const ScsiExchange& exchange, bool good);
  static std::optional<Failure> FailureOf(const ScsiExchange& exchange, const ScsiUnit& unit);
  static void JudgeReason(const Failure& failure, ConstBytes sense);
  void JudgeGood(const ScsiExchange& exchange);
  void JudgeMedium(const ScsiExchange& exchange, const ScsiUnit& unit) const;
  void JudgeTransfer(const ScsiExchange& exchange, const ScsiUnit& unit) const;
  void FollowTray(const ScsiExchange& exchange);

  const std::array<ScsiUnit, kTargets> units_;
  bool tray_open_ = false;  // Of the CD drive, for certain.
  std::array<bool, kTargets> attention_due_{};
  // Of the last commands, until the next ones.
  std::array<std::optional<Failure>, kTargets> failures_;
};

}  // namespace farside::fuzz
