// Queue entries, opcodes and status codes of NVMe. Definitions only: for the model, drivers, traces
// and fuzz dictionaries. NVM Express Base Specification 1.4, sections 4.2, 4.6, 5 and 6.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace farside::nvme {

// Submission queue entry, section 4.2.
struct Sqe {
  uint8_t opcode = 0;
  uint8_t flags = 0;  // FUSE in bits 1:0, PSDT in bits 7:6.
  uint16_t cid = 0;
  uint32_t nsid = 0;
  uint32_t cdw2 = 0;
  uint32_t cdw3 = 0;
  uint64_t mptr = 0;
  uint64_t prp1 = 0;
  uint64_t prp2 = 0;
  uint32_t cdw10 = 0;
  uint32_t cdw11 = 0;
  uint32_t cdw12 = 0;
  uint32_t cdw13 = 0;
  uint32_t cdw14 = 0;
  uint32_t cdw15 = 0;
  friend bool operator==(const Sqe&, const Sqe&) = default;
};
static_assert(sizeof(Sqe) == 64 && offsetof(Sqe, nsid) == 4 && offsetof(Sqe, mptr) == 16 &&
              offsetof(Sqe, prp1) == 24 && offsetof(Sqe, cdw10) == 40);

inline constexpr uint32_t kSqeShift = 6;

// Completion queue entry, section 4.6.
struct Cqe {
  uint32_t dw0 = 0;  // Of the command.
  uint32_t dw1 = 0;
  uint16_t sq_head = 0;
  uint16_t sqid = 0;
  uint16_t cid = 0;
  uint16_t status = 0;  // The phase tag in bit 0, a Status in bits 15:1.
  friend bool operator==(const Cqe&, const Cqe&) = default;
};
static_assert(sizeof(Cqe) == 16 && offsetof(Cqe, sq_head) == 8 && offsetof(Cqe, cid) == 12 &&
              offsetof(Cqe, status) == 14);

inline constexpr uint32_t kCqeShift = 4;

// Status field without its phase tag, section 4.6.1: SC in bits 7:0, SCT in 10:8, DNR in 14.
// Whatever fails again when it is tried again has Do Not Retry in it.
inline constexpr uint16_t kSctSpecific = 1 << 8;
inline constexpr uint16_t kSctMedia = 2 << 8;
inline constexpr uint16_t kDnr = 1 << 14;

enum class Status : uint16_t {
  kSuccess = 0,
  kInvalidOpcode = kDnr | 0x01,
  kInvalidField = kDnr | 0x02,
  kDataTransferError = 0x04,
  kInternalError = 0x06,
  kAbortRequested = 0x07,
  kInvalidNamespace = kDnr | 0x0b,
  kCommandSequenceError = kDnr | 0x0c,
  kInvalidPrpOffset = kDnr | 0x13,
  kWriteProtected = kDnr | 0x20,
  kLbaOutOfRange = kDnr | 0x80,
  kCapacityExceeded = kDnr | 0x81,

  kCompletionQueueInvalid = kDnr | kSctSpecific | 0x00,
  kInvalidQueueId = kDnr | kSctSpecific | 0x01,
  kInvalidQueueSize = kDnr | kSctSpecific | 0x02,
  kEventRequestLimitExceeded = kDnr | kSctSpecific | 0x05,
  kInvalidInterruptVector = kDnr | kSctSpecific | 0x08,
  kInvalidLogPage = kDnr | kSctSpecific | 0x09,
  kInvalidQueueDeletion = kDnr | kSctSpecific | 0x0c,
  kFeatureNotSaveable = kDnr | kSctSpecific | 0x0d,
  kFeatureNotChangeable = kDnr | kSctSpecific | 0x0e,
  kFeatureNotNamespaceSpecific = kDnr | kSctSpecific | 0x0f,

  kWriteFault = kSctMedia | 0x80,
  kUnrecoveredReadError = kSctMedia | 0x81,
  kCompareFailure = kSctMedia | 0x85,
};

constexpr bool IsMediaError(Status status) {
  return (static_cast<uint16_t>(status) & 0x700) == kSctMedia;
}
// The status of an entry read from a completion queue, and back.
constexpr Status StatusOf(const Cqe& cqe) { return Status{static_cast<uint16_t>(cqe.status >> 1)}; }
constexpr bool PhaseOf(const Cqe& cqe) { return (cqe.status & 1) != 0; }
constexpr uint16_t StatusField(Status status, bool phase) {
  return static_cast<uint16_t>(static_cast<uint16_t>(status) << 1 | (phase ? 1 : 0));
}

enum class AdminOpcode : uint8_t {
  kDeleteSq = 0x00,
  kCreateSq = 0x01,
  kGetLogPage = 0x02,
  kDeleteCq = 0x04,
  kCreateCq = 0x05,
  kIdentify = 0x06,
  kAbort = 0x08,
  kSetFeatures = 0x09,
  kGetFeatures = 0x0a,
  kAsyncEventRequest = 0x0c,
};

enum class IoOpcode : uint8_t {
  kFlush = 0x00,
  kWrite = 0x01,
  kRead = 0x02,
  kCompare = 0x05,
  kWriteZeroes = 0x08,
  kDatasetManagement = 0x09,
};

// Commands Supported and Effects, section 5.14.1.5.
inline constexpr uint32_t kEffectSupported = 1 << 0;
inline constexpr uint32_t kEffectContent = 1 << 1;  // LBCC: may change logical block content.

struct OpcodeDef {
  uint8_t opcode = 0;
  std::string_view name = {};
  uint32_t effects = 0;  // 0: a command of the specification that this controller does not have.
};

inline constexpr OpcodeDef kAdminOpcodes[] = {
    {0x00, "Delete I/O Submission Queue", kEffectSupported},
    {0x01, "Create I/O Submission Queue", kEffectSupported},
    {0x02, "Get Log Page", kEffectSupported},
    {0x04, "Delete I/O Completion Queue", kEffectSupported},
    {0x05, "Create I/O Completion Queue", kEffectSupported},
    {0x06, "Identify", kEffectSupported},
    {0x08, "Abort", kEffectSupported},
    {0x09, "Set Features", kEffectSupported},
    {0x0a, "Get Features", kEffectSupported},
    {0x0c, "Asynchronous Event Request", kEffectSupported},
    {0x0d, "Namespace Management"},
    {0x10, "Firmware Commit"},
    {0x11, "Firmware Image Download"},
    {0x14, "Device Self-test"},
    {0x15, "Namespace Attachment"},
    {0x18, "Keep Alive"},
    {0x19, "Directive Send"},
    {0x1a, "Directive Receive"},
    {0x1c, "Virtualization Management"},
    {0x1d, "NVMe-MI Send"},
    {0x1e, "NVMe-MI Receive"},
    {0x7c, "Doorbell Buffer Config"},
    {0x80, "Format NVM"},
    {0x81, "Security Send"},
    {0x82, "Security Receive"},
    {0x84, "Sanitize"},
    {0x86, "Get LBA Status"},
};

inline constexpr OpcodeDef kIoOpcodes[] = {
    {0x00, "Flush", kEffectSupported},
    {0x01, "Write", kEffectSupported | kEffectContent},
    {0x02, "Read", kEffectSupported},
    {0x04, "Write Uncorrectable"},
    {0x05, "Compare", kEffectSupported},
    {0x08, "Write Zeroes", kEffectSupported | kEffectContent},
    {0x09, "Dataset Management", kEffectSupported | kEffectContent},
    {0x0c, "Verify"},
    {0x0d, "Reservation Register"},
    {0x0e, "Reservation Report"},
    {0x11, "Reservation Acquire"},
    {0x15, "Reservation Release"},
};

// The row of an opcode; one without name or effects where the specification has none.
constexpr OpcodeDef FindOpcode(bool admin, uint8_t opcode) {
  const std::span<const OpcodeDef> rows =
      admin ? std::span<const OpcodeDef>(kAdminOpcodes) : std::span<const OpcodeDef>(kIoOpcodes);
  for (const OpcodeDef& row : rows) {
    if (row.opcode == opcode) return row;
  }
  return {.opcode = opcode};
}

struct StatusDef {
  Status status;
  std::string_view name = {};
};

inline constexpr StatusDef kStatuses[] = {
    {Status::kSuccess, "Successful Completion"},
    {Status::kInvalidOpcode, "Invalid Command Opcode"},
    {Status::kInvalidField, "Invalid Field in Command"},
    {Status::kDataTransferError, "Data Transfer Error"},
    {Status::kInternalError, "Internal Error"},
    {Status::kAbortRequested, "Command Abort Requested"},
    {Status::kInvalidNamespace, "Invalid Namespace or Format"},
    {Status::kCommandSequenceError, "Command Sequence Error"},
    {Status::kInvalidPrpOffset, "PRP Offset Invalid"},
    {Status::kWriteProtected, "Namespace is Write Protected"},
    {Status::kLbaOutOfRange, "LBA Out of Range"},
    {Status::kCapacityExceeded, "Capacity Exceeded"},
    {Status::kCompletionQueueInvalid, "Completion Queue Invalid"},
    {Status::kInvalidQueueId, "Invalid Queue Identifier"},
    {Status::kInvalidQueueSize, "Invalid Queue Size"},
    {Status::kEventRequestLimitExceeded, "Asynchronous Event Request Limit Exceeded"},
    {Status::kInvalidInterruptVector, "Invalid Interrupt Vector"},
    {Status::kInvalidLogPage, "Invalid Log Page"},
    {Status::kInvalidQueueDeletion, "Invalid Queue Deletion"},
    {Status::kFeatureNotSaveable, "Feature Identifier Not Saveable"},
    {Status::kFeatureNotChangeable, "Feature Not Changeable"},
    {Status::kFeatureNotNamespaceSpecific, "Feature Not Namespace Specific"},
    {Status::kWriteFault, "Write Fault"},
    {Status::kUnrecoveredReadError, "Unrecovered Read Error"},
    {Status::kCompareFailure, "Compare Failure"},
};

// Names for traces and test output; empty for what is not in the tables.
constexpr std::string_view OpcodeName(bool admin, uint8_t opcode) {
  return FindOpcode(admin, opcode).name;
}
constexpr std::string_view StatusName(Status status) {
  for (const StatusDef& row : kStatuses) {
    if (row.status == status) return row.name;
  }
  return {};
}
static_assert(OpcodeName(true, 0x06) == "Identify" && OpcodeName(false, 0x06).empty());

// The row's effects; 0 for what this controller does not have.
constexpr uint32_t OpcodeEffects(bool admin, uint8_t opcode) {
  return FindOpcode(admin, opcode).effects;
}

// Namespaces: there is one.
inline constexpr uint32_t kNamespaceId = 1;
inline constexpr uint32_t kAllNamespaces = 0xffff'ffff;

// Identify, section 5.15.
inline constexpr uint32_t kIdentifySize = 4096;
enum class Cns : uint8_t {
  kNamespace = 0x00,
  kController = 0x01,
  kActiveNamespaces = 0x02,
  kNamespaceDescriptors = 0x03,
};

// Get Log Page, section 5.14.
enum class LogId : uint8_t {
  kErrors = 0x01,
  kSmart = 0x02,
  kFirmwareSlots = 0x03,
  kChangedNamespaces = 0x04,
  kCommandEffects = 0x05,
};

// Features, section 5.21.
enum class FeatureId : uint8_t {
  kArbitration = 0x01,
  kPowerManagement = 0x02,
  kTemperatureThreshold = 0x04,
  kErrorRecovery = 0x05,
  kVolatileWriteCache = 0x06,
  kNumberOfQueues = 0x07,
  kInterruptCoalescing = 0x08,
  kInterruptVectorConfiguration = 0x09,
  kWriteAtomicity = 0x0a,
  kAsyncEventConfiguration = 0x0b,
  kTimestamp = 0x0e,
};

// Dataset Management, section 6.7.
struct DsmRange {
  uint32_t attributes = 0;
  uint32_t blocks = 0;
  uint64_t first_block = 0;
};
static_assert(sizeof(DsmRange) == 16);

}  // namespace farside::nvme
