// Offsets and bits of PCI configuration space. PCI Local Bus 3.0 chapter 6, PCI Express Base 3.0
// section 7.8, PCI Power Management 1.2 section 3.2.
#pragma once

#include <cstdint>

namespace farside::pci {

inline constexpr uint32_t kConfigSize = 4096;  // PCI Express.
inline constexpr uint32_t kConventionalSize = 256;

// Type 0 header.
inline constexpr uint32_t kVendorId = 0x00;
inline constexpr uint32_t kDeviceId = 0x02;
inline constexpr uint32_t kCommand = 0x04;
inline constexpr uint32_t kStatus = 0x06;
inline constexpr uint32_t kRevision = 0x08;
inline constexpr uint32_t kClassCode = 0x09;  // Three bytes: interface, subclass, base class.
inline constexpr uint32_t kCacheLineSize = 0x0c;
inline constexpr uint32_t kLatencyTimer = 0x0d;
inline constexpr uint32_t kHeaderType = 0x0e;
inline constexpr uint32_t kBar0 = 0x10;
inline constexpr uint32_t kSubsystemVendorId = 0x2c;
inline constexpr uint32_t kSubsystemId = 0x2e;
inline constexpr uint32_t kRomAddress = 0x30;
inline constexpr uint32_t kCapabilities = 0x34;
inline constexpr uint32_t kInterruptLine = 0x3c;
inline constexpr uint32_t kInterruptPin = 0x3d;
inline constexpr uint32_t kFirstCapability = 0x40;

inline constexpr uint16_t kCommandIo = 1 << 0;
inline constexpr uint16_t kCommandMemory = 1 << 1;
inline constexpr uint16_t kCommandBusMaster = 1 << 2;
inline constexpr uint16_t kCommandParity = 1 << 6;
inline constexpr uint16_t kCommandSerr = 1 << 8;
inline constexpr uint16_t kCommandIntxDisable = 1 << 10;
inline constexpr uint16_t kStatusInterrupt = 1 << 3;
inline constexpr uint16_t kStatusCapabilities = 1 << 4;
inline constexpr uint16_t kStatusErrors = 0xf900;  // RW1C.

inline constexpr uint32_t kBarIo = 1 << 0;
inline constexpr uint32_t kBar64 = 1 << 2;
inline constexpr uint32_t kBarPrefetchable = 1 << 3;
inline constexpr uint32_t kBarMemoryFlags = 0xf;
inline constexpr uint32_t kBarIoFlags = 0x3;

// Capability ids.
inline constexpr uint8_t kCapPowerManagement = 0x01;
inline constexpr uint8_t kCapMsi = 0x05;
inline constexpr uint8_t kCapPcie = 0x10;
inline constexpr uint8_t kCapMsix = 0x11;

// Power management: offsets from the capability.
inline constexpr uint32_t kPmcsr = 4;
inline constexpr uint16_t kPmcsrStateMask = 3;
inline constexpr uint16_t kPmcsrD0 = 0;
inline constexpr uint16_t kPmcsrD3Hot = 3;
inline constexpr uint16_t kPmcsrNoSoftReset = 1 << 3;

// MSI with 64-bit address and per-vector masks: offsets from the capability.
inline constexpr uint32_t kMsiControl = 2;
inline constexpr uint32_t kMsiAddress = 4;
inline constexpr uint32_t kMsiData = 12;
inline constexpr uint32_t kMsiMask = 16;
inline constexpr uint32_t kMsiPending = 20;
inline constexpr uint32_t kMsiSize = 24;
inline constexpr uint16_t kMsiEnable = 1 << 0;
inline constexpr uint16_t kMsi64 = 1 << 7;
inline constexpr uint16_t kMsiPerVectorMask = 1 << 8;

// MSI-X: offsets from the capability, and the table's layout.
inline constexpr uint32_t kMsixControl = 2;
inline constexpr uint32_t kMsixTable = 4;
inline constexpr uint32_t kMsixPba = 8;
inline constexpr uint32_t kMsixSize = 12;
inline constexpr uint16_t kMsixEnable = 1 << 15;
inline constexpr uint16_t kMsixFunctionMask = 1 << 14;
inline constexpr uint32_t kMsixEntrySize = 16;
inline constexpr uint32_t kMsixEntryControl = 12;
inline constexpr uint32_t kMsixEntryMasked = 1 << 0;

// PCI Express: offsets from the capability.
inline constexpr uint32_t kPcieCapabilities = 2;
inline constexpr uint32_t kPcieDeviceCapabilities = 4;
inline constexpr uint32_t kPcieDeviceControl = 8;
inline constexpr uint32_t kPcieLinkCapabilities = 12;
inline constexpr uint32_t kPcieLinkStatus = 18;
inline constexpr uint32_t kPcieDeviceCapabilities2 = 36;
inline constexpr uint32_t kPcieDeviceControl2 = 40;
inline constexpr uint32_t kPcieSize = 60;
inline constexpr uint32_t kPcieFlrCapable = 1 << 28;
inline constexpr uint16_t kPcieInitiateFlr = 1 << 15;

}  // namespace farside::pci
