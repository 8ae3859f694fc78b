#include "devices/lsi53c895a/scripts.h"

#include <utility>

namespace farside::lsi53c895a {

InstructionKind Instruction::kind() const {
  switch (first >> 30) {
    case 0:
      return InstructionKind::kBlockMove;
    case 1:
      return opcode() <= static_cast<uint8_t>(IoOpcode::kClear) ? InstructionKind::kIo
                                                                : InstructionKind::kReadWrite;
    case 2:
      return InstructionKind::kTransfer;
    default:
      return (first & 1u << 29) == 0 ? InstructionKind::kMemoryMove : InstructionKind::kLoadStore;
  }
}

bool Instruction::HasThird(bool direct64) const {
  switch (kind()) {
    case InstructionKind::kMemoryMove:
      return true;
    case InstructionKind::kBlockMove:
      return direct64 && (first & (kMoveIndirect | kMoveTable)) == 0;
    case InstructionKind::kTransfer:
      return (first & kTransfer64) != 0 && opcode() <= static_cast<uint8_t>(TransferOpcode::kCall);
    default:
      return false;
  }
}

uint8_t Compute(uint8_t opcode, uint8_t operand, uint8_t data, bool* carry) {
  switch (opcode & 7) {
    case 0:
      return data;
    case 1: {
      const bool in = std::exchange(*carry, (operand & 0x80) != 0);
      return static_cast<uint8_t>(operand << 1 | (in ? 1 : 0));
    }
    case 2:
      return operand | data;
    case 3:
      return operand ^ data;
    case 4:
      return operand & data;
    case 5: {
      const bool in = std::exchange(*carry, (operand & 1) != 0);
      return static_cast<uint8_t>(operand >> 1 | (in ? 0x80 : 0));
    }
    default: {
      const uint32_t in = (opcode & 7) == 7 && *carry ? 1 : 0;
      const uint32_t sum = uint32_t{operand} + data + in;
      *carry = sum > 0xff;
      return static_cast<uint8_t>(sum);
    }
  }
}

}  // namespace farside::lsi53c895a
