// Puts a kernel where it wants to be and tells how the first CPU starts it: ELF vmlinux by the PVH
// or the 64-bit Linux entry, bzImage by the 64-bit entry.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"
#include "vmm-lite/machine/guest_ram.h"

namespace farside::vmm {

// The state of the first CPU. Where it does not say otherwise: interrupts off, registers 0.
struct CpuEntry {
  enum class Mode {
    kReal,         // The reset vector: firmware.
    kProtected32,  // PVH: flat 32-bit segments, paging off, rip and rbx (the hvm_start_info).
    // Linux: long mode with paging by cr3, the GDT at gdt_base with CS 0x10 and DS, ES, SS 0x18,
    // rip and rsi (the boot_params).
    kLong64,
  };
  Mode mode = Mode::kReal;
  uint64_t rip = 0;
  uint64_t rsi = 0;
  uint64_t rbx = 0;
  uint64_t cr3 = 0;
  uint64_t gdt_base = 0;
  uint16_t gdt_limit = 0;
};

struct BootSource {
  int kernel = -1;  // Regular files, which stay the caller's.
  int initrd = -1;  // -1: none.
  std::string command_line = {};
  uint64_t rsdp = 0;  // Where WriteAcpi put it; 0: none.
};

// `ram` has nothing but zeroes and ACPI tables. Every malformed image gets a sentence; guest RAM is
// of no use then.
Result<CpuEntry> LoadKernel(GuestRam& ram, const BootSource& source);

}  // namespace farside::vmm
