// The PCI bus as the tiny guest sees it.
#pragma once

#include "ci/guest/tiny/cpu.h"

namespace tiny {

struct Bar {
  bool io, wide;  // wide: 64 bits, two registers
  uint8_t reg;    // offset in configuration space
  uint64_t base;
  uint64_t size;  // 0: there is none
};

struct Function {
  uint8_t bus = 0, slot = 0, function = 0;
  uint16_t vendor = 0, device = 0;
  uint32_t class_code = 0;           // base class, subclass, interface
  const Function* bridge = nullptr;  // that it lies behind
  Bar bars[6] = {};
};

constexpr uint16_t kCommand = 4, kStatus = 6, kInterruptLine = 0x3c, kInterruptPin = 0x3d;
constexpr uint16_t kIoDecode = 1, kMemoryDecode = 2, kBusMaster = 4, kIntxDisable = 0x400;
constexpr uint16_t kIntxStatus = 8;

// Finds the functions behind all bridges and gives addresses to BARs that have none.
void Enumerate();
Function* Functions();
size_t FunctionCount();

// By ports CF8 and CFC.
void SelectConfig(const Function& at, unsigned offset);

template <typename T>
T ReadConfig(const Function& at, unsigned offset) {
  SelectConfig(at, offset);
  return In<T>(static_cast<uint16_t>(0xcfc + (offset & 3)));
}

template <typename T>
void WriteConfig(const Function& at, unsigned offset, T value) {
  SelectConfig(at, offset);
  Out<T>(static_cast<uint16_t>(0xcfc + (offset & 3)), value);
}

void SetCommand(const Function& at, uint16_t set, uint16_t clear);
unsigned FindCapability(const Function& at, uint8_t id);

// Sets the BAR, with its decode off meanwhile.
void MoveBar(const Function& at, Bar& bar, uint64_t base);
Bar SizeBar(const Function& at, uint8_t reg);

// An address for a memory BAR of that size that nobody has and that reaches the function.
uint64_t FreeAddress(const Function& at, uint64_t size);

// Where ACPI's MCFG table says that configuration space is mapped; 0: nowhere. `rsdp` may be 0.
uint64_t FindEcam(uint64_t rsdp);

}  // namespace tiny
