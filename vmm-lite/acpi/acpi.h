// The ACPI tables of the machine in machine/layout.h, written for a guest that starts without
// firmware, or whose firmware passes them on.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "vmm-lite/machine/guest_ram.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {

struct AcpiConfig {
  uint32_t cpus = 1;          // 1 to 255; their local APIC ids are 0, 1, ...
  uint64_t at = kAcpiTables;  // Where the tables lie; 64 byte aligned, below 4 GiB.
};

// The most bytes that WriteAcpi puts at `at`.
inline constexpr uint64_t kAcpiMaxSize = 0x4000;
// The size of the RSDP, which holds for any place: firmware copies it to where guests look.
inline constexpr uint64_t kRsdpSize = 36;

// Writes RSDP, XSDT, FADT, FACS, MADT, MCFG and DSDT; returns where the RSDP is.
Result<uint64_t> WriteAcpi(GuestRam& ram, const AcpiConfig& config);

}  // namespace farside::vmm
