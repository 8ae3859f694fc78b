// The machine's address map: what lies where in guest memory, ports and configuration space. The
// DSDT (acpi/dsdt.asl) says the same to the guest; acpi_test.cc holds the two together.
#pragma once

#include <cstdint>

namespace farside::vmm {

// Guest physical memory. RAM fills [0, kLowRamEnd), the rest of it starts at kHighRamStart.
inline constexpr uint64_t kLowRamEnd = 0xb000'0000;
inline constexpr uint64_t kHighRamStart = 0x1'0000'0000;

// The legacy area that no guest takes for RAM: from the extended BIOS data area up to 1 MiB.
inline constexpr uint64_t kLegacyStart = 0x9'fc00;
inline constexpr uint64_t kLegacyEnd = 0x10'0000;
// The ACPI tables of a kernel that is loaded without firmware.
inline constexpr uint64_t kAcpiTables = 0xe'0000;

// The enhanced configuration access mechanism: 1 MiB for each of 256 buses.
inline constexpr uint64_t kEcamBase = 0xb000'0000;
inline constexpr uint64_t kEcamSize = 0x1000'0000;

// Where memory BARs may lie: [start, end).
inline constexpr uint64_t kPciMem32Start = 0xc000'0000;
inline constexpr uint64_t kPciMem32End = 0xfec0'0000;
inline constexpr uint64_t kPciMem64Start = 0x40'0000'0000;
inline constexpr uint64_t kPciMem64End = 0x80'0000'0000;

inline constexpr uint64_t kIoApicBase = 0xfec0'0000;
inline constexpr uint64_t kLocalApicBase = 0xfee0'0000;
// Pages that KVM wants for itself on Intel hosts: one, and three for the TSS.
inline constexpr uint64_t kIdentityMap = 0xfeff'c000;
inline constexpr uint64_t kTssAddress = 0xfeff'd000;
inline constexpr uint64_t kTssEnd = 0xff00'0000;
inline constexpr uint64_t kBiosEnd = 0x1'0000'0000;

// Ports.
inline constexpr uint16_t kCom1Port = 0x3f8;
inline constexpr uint16_t kCom1Irq = 4;
inline constexpr uint16_t kI8042DataPort = 0x60;
inline constexpr uint16_t kI8042CommandPort = 0x64;
inline constexpr uint16_t kCmosIndexPort = 0x70;
inline constexpr uint16_t kCmosDataPort = 0x71;
inline constexpr uint16_t kFwCfgPort = 0x510;  // And 0x511.
inline constexpr uint16_t kElcrPort = 0x4d0;   // And 0x4d1.
inline constexpr uint16_t kPciConfigAddressPort = 0xcf8;
inline constexpr uint16_t kPciConfigDataPort = 0xcfc;
inline constexpr uint16_t kResetPort = 0xcf9;  // One byte; in the middle of the address port.
inline constexpr uint8_t kResetValue = 0x06;

// ACPI's fixed hardware (ACPI 6.4, section 4.8).
inline constexpr uint16_t kPmBase = 0x600;
inline constexpr uint16_t kPm1EventPort = kPmBase;        // 4 bytes: status, enable.
inline constexpr uint16_t kPm1ControlPort = kPmBase + 4;  // 2 bytes.
inline constexpr uint16_t kPmTimerPort = kPmBase + 8;     // 4 bytes; 24 bits count.
inline constexpr uint16_t kPmSize = 12;
inline constexpr uint16_t kSciIrq = 9;
inline constexpr uint8_t kSleepTypeS5 = 5;  // SLP_TYPa of \_S5: power off.

// Where port BARs may lie: [start, end).
inline constexpr uint32_t kPciIoStart = 0x1000;
inline constexpr uint32_t kPciIoEnd = 0x1'0000;

// Bus 0: the host bridge is 00:00.0, the ISA bridge 00:01.0. The PIRQ route registers of the latter
// are PIIX3's (82371SB, section 2.3.9): bit 7 set is not routed, the low nibble is the ISA IRQ.
inline constexpr uint32_t kHostBridgeSlot = 0;
inline constexpr uint32_t kIsaBridgeSlot = 1;
inline constexpr uint16_t kPirqRoute = 0x60;  // PIRQ A; B, C and D follow.
inline constexpr uint32_t kPirqCount = 4;
inline constexpr uint8_t kPirqDisabled = 0x80;
inline constexpr uint8_t kPirqIrqMask = 0x0f;

// The PIRQ of a slot's pin (0 is INTA) on bus 0: the wiring of QEMU's `-M pc`, so that guests made
// for it find their interrupts here.
constexpr uint32_t PirqOf(uint32_t slot, uint32_t pin) {
  return (slot + pin + kPirqCount - 1) % kPirqCount;
}

}  // namespace farside::vmm
