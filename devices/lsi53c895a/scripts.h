// SCRIPTS instructions: their fields and arithmetic, without a chip. Manual, chapter 5.
#pragma once

#include <cstdint>

namespace farside::lsi53c895a {

enum class InstructionKind : uint8_t {
  kBlockMove,
  kIo,
  kReadWrite,
  kTransfer,
  kMemoryMove,
  kLoadStore
};

// I/O instructions of an initiator.
enum class IoOpcode : uint8_t { kSelect, kWaitDisconnect, kWaitReselect, kSet, kClear };

enum class TransferOpcode : uint8_t { kJump, kCall, kReturn, kInterrupt };

// Bits of the first dword.
inline constexpr uint32_t kMoveIndirect = 1u << 29;
inline constexpr uint32_t kMoveTable = 1u << 28;
inline constexpr uint32_t kIoRelative = 1u << 26;
inline constexpr uint32_t kIoTable = 1u << 25;
inline constexpr uint32_t kIoAtn = 1u << 24;
inline constexpr uint32_t kFlagCarry = 1u << 10;
inline constexpr uint32_t kFlagTarget = 1u << 9;
inline constexpr uint32_t kFlagAck = 1u << 6;
inline constexpr uint32_t kFlagAtn = 1u << 3;
inline constexpr uint32_t kTransferRelative = 1u << 23;
inline constexpr uint32_t kTransfer64 = 1u << 22;
inline constexpr uint32_t kTransferCarry = 1u << 21;
inline constexpr uint32_t kTransferOnTheFly = 1u << 20;
inline constexpr uint32_t kTransferIfTrue = 1u << 19;
inline constexpr uint32_t kTransferCompareData = 1u << 18;
inline constexpr uint32_t kTransferComparePhase = 1u << 17;
inline constexpr uint32_t kTransferWait = 1u << 16;
inline constexpr uint32_t kReadWriteSfbr = 1u << 23;
inline constexpr uint32_t kLoadStoreDsa = 1u << 28;
inline constexpr uint32_t kLoadStoreLoad = 1u << 24;

struct Instruction {
  uint32_t first = 0;
  uint32_t second = 0;
  uint32_t third = 0;  // Of those that have three dwords.

  InstructionKind kind() const;
  // Bits 29:27; an IoOpcode or a TransferOpcode, if it is one.
  uint8_t opcode() const { return static_cast<uint8_t>(first >> 27 & 7); }
  uint8_t phase() const { return static_cast<uint8_t>(first >> 24 & 7); }
  uint32_t count() const { return first & 0xff'ffff; }
  // The register of a read-write instruction: bit 7 lies apart.
  uint32_t read_write_register() const { return (first >> 16 & 0x7f) | (first & 0x80); }
  uint32_t load_store_register() const { return first >> 16 & 0xff; }
  uint8_t data() const { return static_cast<uint8_t>(first); }
  uint8_t mask() const { return static_cast<uint8_t>(first >> 8); }

  // Whether a third dword follows. `direct64`: CCNTL1.EN64DBMV.
  bool HasThird(bool direct64) const;
};

// A 24-bit displacement.
constexpr uint32_t SignExtend24(uint32_t value) {
  return (value & 0x80'0000) != 0 ? value | 0xff00'0000 : value & 0xff'ffff;
}

// The operators of read-write instructions: LOAD, SHL, OR, XOR, AND, SHR, ADD, ADDC. Shifts go
// through the carry.
uint8_t Compute(uint8_t opcode, uint8_t operand, uint8_t data, bool* carry);

}  // namespace farside::lsi53c895a
