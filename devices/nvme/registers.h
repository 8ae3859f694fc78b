// Registers and doorbells of an NVMe controller, BAR 0. Definitions only: for the model, drivers,
// traces and fuzz dictionaries. NVM Express Base Specification 1.4, section 3.1.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

#include "devices/core/register_block.h"

namespace farside::nvme {

inline constexpr uint32_t kRegisterBar = 0;
inline constexpr uint64_t kRegisterBarSize = 16 << 10;  // Registers, then doorbells.
inline constexpr uint64_t kDoorbellBase = 0x1000;
inline constexpr uint32_t kDoorbellSize = 4;  // CAP.DSTRD is 0: no gaps.
inline constexpr uint32_t kMaxQueuePairs =
    (kRegisterBarSize - kDoorbellBase) / (2 * kDoorbellSize) - 1;  // I/O; one is the admin pair's.

// CAP, section 3.1.1. What this controller can do.
inline constexpr uint32_t kMaxQueueEntries = 2048;
inline constexpr uint32_t kReadyTimeout = 30;  // In 500 ms units: 15 s.
inline constexpr uint32_t kMinPageShift = 12;  // 4 KiB. Also the unit of MDTS.
inline constexpr uint32_t kMaxPageShift = 16;
inline constexpr uint64_t kCapReset = (kMaxQueueEntries - 1)                 // MQES, 0's based
                                      | 1ull << 16                           // CQR
                                      | uint64_t{kReadyTimeout} << 24        // TO
                                      | 1ull << 37                           // CSS: NVM
                                      | uint64_t{kMinPageShift - 12} << 48   // MPSMIN
                                      | uint64_t{kMaxPageShift - 12} << 52;  // MPSMAX

inline constexpr uint32_t kVersion = 0x0001'0400;  // 1.4.0

// CC, section 3.1.5.
inline constexpr uint32_t kCcEn = 1 << 0;
inline constexpr uint32_t kCcCss = 7 << 4;
inline constexpr uint32_t kCcMps = 0xf << 7;
inline constexpr uint32_t kCcAms = 7 << 11;
inline constexpr uint32_t kCcShn = 3 << 14;
inline constexpr uint32_t kCcIosqes = 0xf << 16;
inline constexpr uint32_t kCcIocqes = 0xf << 20;
inline constexpr uint32_t kCcShnNormal = 1 << 14;
inline constexpr uint32_t kCcShnAbrupt = 2 << 14;
// What a driver may change only while the controller is disabled.
inline constexpr uint32_t kCcFixedWhileEnabled = kCcCss | kCcMps | kCcAms;

constexpr uint32_t CcPageShift(uint64_t cc) {
  return kMinPageShift + static_cast<uint32_t>((cc & kCcMps) >> 7);
}
constexpr uint32_t CcSqeShift(uint64_t cc) { return static_cast<uint32_t>((cc & kCcIosqes) >> 16); }
constexpr uint32_t CcCqeShift(uint64_t cc) { return static_cast<uint32_t>((cc & kCcIocqes) >> 20); }

// CSTS, section 3.1.6.
inline constexpr uint32_t kCstsRdy = 1 << 0;
inline constexpr uint32_t kCstsCfs = 1 << 1;
inline constexpr uint32_t kCstsShst = 3 << 2;
inline constexpr uint32_t kCstsShstOccurring = 1 << 2;
inline constexpr uint32_t kCstsShstComplete = 2 << 2;

// AQA, section 3.1.8. Sizes are 0's based there and plain here.
constexpr uint32_t AqaSubmissionSize(uint64_t aqa) {
  return static_cast<uint32_t>(aqa & 0xfff) + 1;
}
constexpr uint32_t AqaCompletionSize(uint64_t aqa) {
  return static_cast<uint32_t>(aqa >> 16 & 0xfff) + 1;
}

// Rows of kRegisters, in order.
enum Reg : size_t {
  kCap,
  kVs,
  kIntms,
  kIntmc,
  kCc,
  kCsts,
  kNssr,
  kAqa,
  kAsq,
  kAcq,
  kCmbloc,
  kCmbsz,
  kBpinfo,
  kBprsel,
  kBpmbl,
  kCmbmsc,
  kCmbsts,
  kPmrcap,
  kPmrctl,
  kPmrsts,
  kPmrebs,
  kPmrswtp,
  kPmrmscl,
  kPmrmscu,
  kRegCount
};

// Subsystem reset, controller and persistent memory and boot partitions are not there (CAP says
// so): their registers are reserved, read as zero and ignore writes. They stand here for their
// names.
inline constexpr RegisterDef kRegisters[] = {
    {.offset = 0x00, .width = 8, .name = "CAP", .reset = kCapReset},
    {.offset = 0x08, .name = "VS", .reset = kVersion},
    {.offset = 0x0c, .name = "INTMS", .set = 0xffff'ffff},
    {.offset = 0x10, .name = "INTMC", .clear = 0xffff'ffff},
    {.offset = 0x14, .name = "CC", .writable = 0x00ff'fff1},
    {.offset = 0x1c, .name = "CSTS"},
    {.offset = 0x20, .name = "NSSR"},
    {.offset = 0x24, .name = "AQA", .writable = 0x0fff'0fff},
    {.offset = 0x28, .width = 8, .name = "ASQ", .writable = ~0xfffull},
    {.offset = 0x30, .width = 8, .name = "ACQ", .writable = ~0xfffull},
    {.offset = 0x38, .name = "CMBLOC"},
    {.offset = 0x3c, .name = "CMBSZ"},
    {.offset = 0x40, .name = "BPINFO"},
    {.offset = 0x44, .name = "BPRSEL"},
    {.offset = 0x48, .width = 8, .name = "BPMBL"},
    {.offset = 0x50, .width = 8, .name = "CMBMSC"},
    {.offset = 0x58, .name = "CMBSTS"},
    {.offset = 0xe00, .name = "PMRCAP"},
    {.offset = 0xe04, .name = "PMRCTL"},
    {.offset = 0xe08, .name = "PMRSTS"},
    {.offset = 0xe0c, .name = "PMREBS"},
    {.offset = 0xe10, .name = "PMRSWTP"},
    {.offset = 0xe14, .name = "PMRMSCL"},
    {.offset = 0xe18, .name = "PMRMSCU"},
};
static_assert(std::size(kRegisters) == kRegCount);
static_assert(IsWellFormed(kRegisters));
static_assert(kRegisters[kCc].offset == 0x14 && kRegisters[kAcq].offset == 0x30 &&
              kRegisters[kPmrmscu].offset == 0xe18);

// Doorbells, sections 3.1.24 and 3.1.25.
struct Doorbell {
  uint32_t queue = 0;
  bool completion = false;  // CQ head; otherwise SQ tail.
};

// The doorbell at `offset`, which is kDoorbellBase or more.
constexpr Doorbell DoorbellAt(uint64_t offset) {
  const auto index = static_cast<uint32_t>((offset - kDoorbellBase) / kDoorbellSize);
  return {.queue = index / 2, .completion = index % 2 != 0};
}
constexpr uint64_t SqTailDoorbell(uint32_t queue) {
  return kDoorbellBase + uint64_t{queue} * 2 * kDoorbellSize;
}
constexpr uint64_t CqHeadDoorbell(uint32_t queue) { return SqTailDoorbell(queue) + kDoorbellSize; }
static_assert(CqHeadDoorbell(kMaxQueuePairs) + kDoorbellSize == kRegisterBarSize);

// What traces call the register or doorbell that holds the byte at `offset` of BAR 0; empty where
// there is none.
inline std::string RegisterName(uint64_t offset) {
  if (offset >= kRegisterBarSize) return {};
  if (offset >= kDoorbellBase) {
    const Doorbell doorbell = DoorbellAt(offset);
    return (doorbell.completion ? "CQ" : "SQ") + std::to_string(doorbell.queue) +
           (doorbell.completion ? "HDBL" : "TDBL");
  }
  for (const RegisterDef& row : kRegisters) {
    if (offset >= row.offset && offset - row.offset < row.width) return std::string(row.name);
  }
  return {};
}

}  // namespace farside::nvme
