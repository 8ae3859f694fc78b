// Scripts for the LSI53C895A, written as a driver writes them: one call an instruction, in the
// order of memory. Dwords are those of the manual, chapter 5.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "devices/lsi53c895a/registers.h"

namespace farside::lsi53c895a {

class Script {
 public:
  enum Phase : uint32_t {
    kDataOut = 0,
    kDataIn = 1,
    kCommand = 2,
    kStatus = 3,
    kMessageOut = 6,
    kMessageIn = 7,
  };
  enum Operator : uint32_t { kLoad, kShl, kOr, kXor, kAnd, kShr, kAdd, kAddc };
  enum Flags : uint32_t { kCarry = 1 << 10, kTarget = 1 << 9, kAck = 1 << 6, kAtn = 1 << 3 };
  // Conditions of transfers, to be or-ed.
  static constexpr uint32_t kIfTrue = 1 << 19;
  static constexpr uint32_t kIfCarry = 1 << 21;
  static constexpr uint32_t If(Phase phase) { return phase << 24 | 1 << 17; }
  static constexpr uint32_t When(Phase phase) { return If(phase) | 1 << 16; }
  static constexpr uint32_t Data(uint8_t data, uint8_t ignored = 0) {
    return 1 << 18 | uint32_t{ignored} << 8 | data;
  }

  // `base`: the bus address that the script will lie at.
  explicit Script(uint32_t base) : base_(base) {}

  uint32_t here() const { return base_ + static_cast<uint32_t>(4 * words_.size()); }
  std::span<const uint32_t> words() const { return words_; }

  Script& Raw(uint32_t first, uint32_t second) { return Words({first, second}); }
  Script& Move(Phase phase, uint32_t count, uint32_t address) {
    return Raw(1 << 27 | phase << 24 | count, address);
  }
  Script& MoveIndirect(Phase phase, uint32_t count, uint32_t pointer) {
    return Raw(1 << 29 | 1 << 27 | phase << 24 | count, pointer);
  }
  Script& MoveTable(Phase phase, int32_t offset) {
    return Raw(1 << 28 | 1 << 27 | phase << 24, static_cast<uint32_t>(offset) & 0xff'ffff);
  }
  Script& Select(uint32_t target, uint32_t alternate, bool atn = true) {
    return Raw(0x4000'0000 | (atn ? 1 << 24 : 0) | target << 16, alternate);
  }
  Script& SelectTable(int32_t offset, uint32_t alternate) {
    return Raw(0x4300'0000 | (static_cast<uint32_t>(offset) & 0xff'ffff), alternate);
  }
  Script& WaitDisconnect() { return Raw(0x4800'0000, 0); }
  Script& WaitReselect(uint32_t alternate) { return Raw(0x5000'0000, alternate); }
  Script& Set(uint32_t flags) { return Raw(0x5800'0000 | flags, 0); }
  Script& Clear(uint32_t flags) { return Raw(0x6000'0000 | flags, 0); }
  Script& SfbrToRegister(uint32_t reg, Operator op, uint32_t data) {
    return Raw(0x6800'0000 | op << 24 | Register(reg) | data << 8, 0);
  }
  Script& RegisterToSfbr(uint32_t reg, Operator op, uint32_t data) {
    return Raw(0x7000'0000 | op << 24 | Register(reg) | data << 8, 0);
  }
  Script& Modify(uint32_t reg, Operator op, uint32_t data) {
    return Raw(0x7800'0000 | op << 24 | Register(reg) | data << 8, 0);
  }
  // The carry is set, cleared, ...: see the conditions above. None: always.
  Script& Jump(uint32_t address, uint32_t condition = kIfTrue) {
    return Raw(0x8000'0000 | condition, address);
  }
  Script& JumpBy(int32_t distance, uint32_t condition = kIfTrue) {
    return Raw(0x8080'0000 | condition, static_cast<uint32_t>(distance) & 0xff'ffff);
  }
  Script& Call(uint32_t address, uint32_t condition = kIfTrue) {
    return Raw(0x8800'0000 | condition, address);
  }
  Script& Return(uint32_t condition = kIfTrue) { return Raw(0x9000'0000 | condition, 0); }
  Script& Int(uint32_t code, uint32_t condition = kIfTrue) {
    return Raw(0x9800'0000 | condition, code);
  }
  Script& IntFly() { return Raw(0x9818'0000, 0); }
  Script& MoveMemory(uint32_t count, uint32_t source, uint32_t target) {
    return Words({0xc000'0000 | count, source, target});
  }
  Script& Load(uint32_t reg, uint32_t count, uint32_t address) {
    return Raw(0xe100'0000 | reg << 16 | count, address);
  }
  Script& LoadRelative(uint32_t reg, uint32_t count, int32_t offset) {
    return Raw(0xf100'0000 | reg << 16 | count, static_cast<uint32_t>(offset) & 0xff'ffff);
  }
  Script& Store(uint32_t reg, uint32_t count, uint32_t address) {
    return Raw(0xe000'0000 | reg << 16 | count, address);
  }
  Script& StoreRelative(uint32_t reg, uint32_t count, int32_t offset) {
    return Raw(0xf000'0000 | reg << 16 | count, static_cast<uint32_t>(offset) & 0xff'ffff);
  }

 private:
  static constexpr uint32_t Register(uint32_t reg) { return (reg & 0x7f) << 16 | (reg & 0x80); }
  Script& Words(std::initializer_list<uint32_t> words) {
    words_.insert(words_.end(), words);
    return *this;
  }

  uint32_t base_;
  std::vector<uint32_t> words_;
};

}  // namespace farside::lsi53c895a
