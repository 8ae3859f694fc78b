// The numbers of SCSI: operation codes, sense keys and additional sense codes. SPC is SPC-4, SBC is
// SBC-3, MMC is MMC-6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace farside::scsi {

enum class Opcode : uint8_t {
  kTestUnitReady = 0x00,
  kRequestSense = 0x03,
  kRead6 = 0x08,
  kWrite6 = 0x0a,
  kInquiry = 0x12,
  kModeSelect6 = 0x15,
  kReserve6 = 0x16,
  kRelease6 = 0x17,
  kModeSense6 = 0x1a,
  kStartStopUnit = 0x1b,
  kSendDiagnostic = 0x1d,
  kPreventAllow = 0x1e,
  kReadCapacity10 = 0x25,
  kRead10 = 0x28,
  kWrite10 = 0x2a,
  kSeek10 = 0x2b,
  kWriteAndVerify10 = 0x2e,
  kVerify10 = 0x2f,
  kSynchronizeCache10 = 0x35,
  kWriteSame10 = 0x41,
  kUnmap = 0x42,
  kReadToc = 0x43,
  kGetConfiguration = 0x46,
  kGetEventStatus = 0x4a,
  kReadDiscInformation = 0x51,
  kModeSelect10 = 0x55,
  kModeSense10 = 0x5a,
  kRead16 = 0x88,
  kWrite16 = 0x8a,
  kWriteAndVerify16 = 0x8e,
  kVerify16 = 0x8f,
  kSynchronizeCache16 = 0x91,
  kWriteSame16 = 0x93,
  kServiceActionIn16 = 0x9e,
  kReportLuns = 0xa0,
  kMaintenanceIn = 0xa3,
  kRead12 = 0xa8,
  kWrite12 = 0xaa,
  kWriteAndVerify12 = 0xae,
  kVerify12 = 0xaf,
  kMechanismStatus = 0xbd,
};

struct OpcodeDef {
  Opcode opcode;
  std::string_view name;     // For traces and logs.
  std::string_view section;  // Where it is defined.
};

inline constexpr OpcodeDef kOpcodes[] = {
    {Opcode::kTestUnitReady, "TEST UNIT READY", "SPC 6.47"},
    {Opcode::kRequestSense, "REQUEST SENSE", "SPC 6.39"},
    {Opcode::kRead6, "READ(6)", "SBC 5.7"},
    {Opcode::kWrite6, "WRITE(6)", "SBC 5.31"},
    {Opcode::kInquiry, "INQUIRY", "SPC 6.6"},
    {Opcode::kModeSelect6, "MODE SELECT(6)", "SPC 6.11"},
    {Opcode::kReserve6, "RESERVE(6)", "SPC-2 7.21"},
    {Opcode::kRelease6, "RELEASE(6)", "SPC-2 7.17"},
    {Opcode::kModeSense6, "MODE SENSE(6)", "SPC 6.13"},
    {Opcode::kStartStopUnit, "START STOP UNIT", "SBC 5.25, MMC 6.42"},
    {Opcode::kSendDiagnostic, "SEND DIAGNOSTIC", "SPC 6.42"},
    {Opcode::kPreventAllow, "PREVENT ALLOW MEDIUM REMOVAL", "SBC 5.12, MMC 6.16"},
    {Opcode::kReadCapacity10, "READ CAPACITY(10)", "SBC 5.15, MMC 6.23"},
    {Opcode::kRead10, "READ(10)", "SBC 5.8"},
    {Opcode::kWrite10, "WRITE(10)", "SBC 5.32"},
    {Opcode::kSeek10, "SEEK(10)", "SBC-2 5.32, MMC 6.38"},
    {Opcode::kWriteAndVerify10, "WRITE AND VERIFY(10)", "SBC 5.36"},
    {Opcode::kVerify10, "VERIFY(10)", "SBC 5.27"},
    {Opcode::kSynchronizeCache10, "SYNCHRONIZE CACHE(10)", "SBC 5.23"},
    {Opcode::kWriteSame10, "WRITE SAME(10)", "SBC 5.43"},
    {Opcode::kUnmap, "UNMAP", "SBC 5.26"},
    {Opcode::kReadToc, "READ TOC/PMA/ATIP", "MMC 6.25"},
    {Opcode::kGetConfiguration, "GET CONFIGURATION", "MMC 6.5"},
    {Opcode::kGetEventStatus, "GET EVENT STATUS NOTIFICATION", "MMC 6.6"},
    {Opcode::kReadDiscInformation, "READ DISC INFORMATION", "MMC 6.21"},
    {Opcode::kModeSelect10, "MODE SELECT(10)", "SPC 6.12"},
    {Opcode::kModeSense10, "MODE SENSE(10)", "SPC 6.14"},
    {Opcode::kRead16, "READ(16)", "SBC 5.10"},
    {Opcode::kWrite16, "WRITE(16)", "SBC 5.34"},
    {Opcode::kWriteAndVerify16, "WRITE AND VERIFY(16)", "SBC 5.38"},
    {Opcode::kVerify16, "VERIFY(16)", "SBC 5.29"},
    {Opcode::kSynchronizeCache16, "SYNCHRONIZE CACHE(16)", "SBC 5.24"},
    {Opcode::kWriteSame16, "WRITE SAME(16)", "SBC 5.44"},
    {Opcode::kServiceActionIn16, "SERVICE ACTION IN(16)", "SBC 5.16"},
    {Opcode::kReportLuns, "REPORT LUNS", "SPC 6.33"},
    {Opcode::kMaintenanceIn, "MAINTENANCE IN", "SPC 6.35"},
    {Opcode::kRead12, "READ(12)", "SBC 5.9"},
    {Opcode::kWrite12, "WRITE(12)", "SBC 5.33"},
    {Opcode::kWriteAndVerify12, "WRITE AND VERIFY(12)", "SBC 5.37"},
    {Opcode::kVerify12, "VERIFY(12)", "SBC 5.28"},
    {Opcode::kMechanismStatus, "MECHANISM STATUS", "MMC 6.11"},
};

constexpr bool OpcodesAscend() {
  for (size_t i = 1; i < std::size(kOpcodes); ++i) {
    if (kOpcodes[i - 1].opcode >= kOpcodes[i].opcode) return false;
  }
  return true;
}
static_assert(OpcodesAscend());

// Null where there is no such command.
constexpr const OpcodeDef* FindOpcode(uint8_t opcode) {
  for (const OpcodeDef& def : kOpcodes) {
    if (def.opcode == Opcode{opcode}) return &def;
  }
  return nullptr;
}

// Bytes of a CDB, by the group of its operation code: SPC section 4.2.5.1. 0 for the groups of
// variable, reserved and vendor specific ones.
constexpr size_t CdbSize(uint8_t opcode) {
  constexpr size_t kSizes[] = {6, 10, 10, 0, 16, 12, 0, 0};
  return kSizes[opcode >> 5];
}

// SPC section 4.5.6.
enum class SenseKey : uint8_t {
  kNoSense = 0x0,
  kRecoveredError = 0x1,
  kNotReady = 0x2,
  kMediumError = 0x3,
  kHardwareError = 0x4,
  kIllegalRequest = 0x5,
  kUnitAttention = 0x6,
  kDataProtect = 0x7,
  kAbortedCommand = 0xb,
  kMiscompare = 0xe,
};

// Additional sense code and qualifier, SPC annex E.
namespace asc {
inline constexpr uint16_t kNone = 0x0000;
inline constexpr uint16_t kInitializingCommandRequired = 0x0402;
inline constexpr uint16_t kLogicalUnitCommunicationFailure = 0x0800;
inline constexpr uint16_t kWriteError = 0x0c00;
inline constexpr uint16_t kUnrecoveredReadError = 0x1100;
inline constexpr uint16_t kParameterListLength = 0x1a00;
inline constexpr uint16_t kMiscompareDuringVerify = 0x1d00;
inline constexpr uint16_t kInvalidOpcode = 0x2000;
inline constexpr uint16_t kLbaOutOfRange = 0x2100;
inline constexpr uint16_t kInvalidFieldInCdb = 0x2400;
inline constexpr uint16_t kLogicalUnitNotSupported = 0x2500;
inline constexpr uint16_t kInvalidFieldInParameterList = 0x2600;
inline constexpr uint16_t kWriteProtected = 0x2700;
inline constexpr uint16_t kSpaceAllocationFailed = 0x2707;
inline constexpr uint16_t kMediumMayHaveChanged = 0x2800;
inline constexpr uint16_t kReset = 0x2900;  // Power on, reset, or bus device reset.
inline constexpr uint16_t kBusDeviceReset = 0x2903;
inline constexpr uint16_t kSavingParametersNotSupported = 0x3900;
inline constexpr uint16_t kMediumNotPresent = 0x3a00;
inline constexpr uint16_t kMediumNotPresentTrayClosed = 0x3a01;
inline constexpr uint16_t kMediumNotPresentTrayOpen = 0x3a02;
inline constexpr uint16_t kInternalTargetFailure = 0x4400;
inline constexpr uint16_t kTaggedOverlappedCommands = 0x4d00;  // ASCQ: the tag.
inline constexpr uint16_t kOverlappedCommands = 0x4e00;
inline constexpr uint16_t kMediumRemovalPrevented = 0x5302;
}  // namespace asc

}  // namespace farside::scsi
