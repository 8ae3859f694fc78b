// The header of a function's configuration space as register rows. PCI Local Bus 3.0, section 6.1.
#pragma once

#include "devices/core/pci_registers.h"
#include "devices/core/register_block.h"

namespace farside::diff {

// What random traffic writes: registers whose every value keeps the device where it is. BARs are
// placed once; decoding and bus mastering stay on (KeepsDecoding).
inline constexpr RegisterDef kConfigHeader[] = {
    {.offset = pci::kVendorId, .width = 2, .name = "Vendor ID"},
    {.offset = pci::kDeviceId, .width = 2, .name = "Device ID"},
    {.offset = pci::kCommand, .width = 2, .name = "Command", .writable = 0x0547},
    {.offset = pci::kStatus, .width = 2, .name = "Status", .clear = pci::kStatusErrors},
    {.offset = pci::kRevision, .width = 1, .name = "Revision ID"},
    {.offset = 0x09, .width = 1, .name = "Interface"},
    {.offset = 0x0a, .width = 1, .name = "Subclass"},
    {.offset = 0x0b, .width = 1, .name = "Base Class"},
    {.offset = pci::kCacheLineSize, .width = 1, .name = "Cache Line Size", .writable = 0xff},
    {.offset = pci::kLatencyTimer, .width = 1, .name = "Latency Timer", .writable = 0xff},
    {.offset = pci::kHeaderType, .width = 1, .name = "Header Type"},
    {.offset = 0x0f, .width = 1, .name = "BIST"},
    {.offset = 0x10, .name = "BAR0"},
    {.offset = 0x14, .name = "BAR1"},
    {.offset = 0x18, .name = "BAR2"},
    {.offset = 0x1c, .name = "BAR3"},
    {.offset = 0x20, .name = "BAR4"},
    {.offset = 0x24, .name = "BAR5"},
    {.offset = 0x28, .name = "CIS Pointer"},
    {.offset = pci::kSubsystemVendorId, .width = 2, .name = "Subsystem Vendor ID"},
    {.offset = pci::kSubsystemId, .width = 2, .name = "Subsystem ID"},
    {.offset = pci::kRomAddress, .name = "Expansion ROM Base Address"},
    {.offset = pci::kCapabilities, .width = 1, .name = "Capabilities Pointer"},
    {.offset = 0x38, .name = "Reserved"},
    {.offset = pci::kInterruptLine, .width = 1, .name = "Interrupt Line", .writable = 0xff},
    {.offset = pci::kInterruptPin, .width = 1, .name = "Interrupt Pin"},
    {.offset = 0x3e, .width = 1, .name = "Min_Gnt"},
    {.offset = 0x3f, .width = 1, .name = "Max_Lat"},
};
static_assert(IsWellFormed(kConfigHeader));
inline constexpr uint32_t kConfigHeaderSize = 0x40;

}  // namespace farside::diff
