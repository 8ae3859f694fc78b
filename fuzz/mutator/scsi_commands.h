// What an initiator sends to SCSI targets: commands (SPC-4, SBC-3, MMC-6) and messages (SPI-3).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "devices/scsi/definitions.h"
#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

struct ScsiCommand {
  std::array<uint8_t, 16> cdb{};
  uint32_t size = 6;
  bool out = false;  // Data goes to the target.
  uint32_t data = 0;
  std::vector<std::byte> list = {};  // What goes to the target, if it is a parameter list.
};

// Any command: most mean something, some nothing, and some are cut.
ScsiCommand MakeScsiCommand(Making& making);
// One that says something about the unit, or to it.
ScsiCommand MakeScsiCommand(Making& making, scsi::Opcode opcode);
// A read or write of some blocks that a disk has.
ScsiCommand MakeTransfer(Making& making, uint8_t opcode, uint32_t block_size);

// IDENTIFY, and maybe a queue tag, an abort, negotiations.
std::vector<std::byte> MakeScsiMessages(Making& making);
// IDENTIFY, and more negotiations than a target has room for replies to.
std::vector<std::byte> MakeManyMessages(Making& making);

}  // namespace farside::fuzz
