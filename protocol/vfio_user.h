// The vfio-user wire format: every structure once. All fields are in host byte order; a message is
// a Header and the command's payload, over an AF_UNIX stream socket. Sections are those of QEMU's
// docs/interop/vfio-user.rst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace farside::vfio_user {

enum class Command : uint16_t {
  kVersion = 1,
  kDmaMap = 2,
  kDmaUnmap = 3,
  kDeviceGetInfo = 4,
  kDeviceGetRegionInfo = 5,
  kDeviceGetRegionIoFds = 6,
  kDeviceGetIrqInfo = 7,
  kDeviceSetIrqs = 8,
  kRegionRead = 9,
  kRegionWrite = 10,
  kDmaRead = 11,   // Server to client.
  kDmaWrite = 12,  // Server to client.
  kDeviceReset = 13,
  // 14 was DIRTY_PAGES of migration version 1; it stays reserved.
  kRegionWriteMulti = 15,
  kDeviceFeature = 16,
  kMigDataRead = 17,
  kMigDataWrite = 18,
};

// "REGION_READ"; empty for what is no command.
std::string_view CommandName(Command command);

// Section "Header".
struct Header {
  uint16_t message_id = 0;  // The sender's; a reply repeats it.
  uint16_t command = 0;
  uint32_t size = 0;  // Of the whole message, this header included.
  uint32_t flags = 0;
  uint32_t error = 0;  // A positive errno in replies with kFlagError.
};
static_assert(sizeof(Header) == 16);
static_assert(offsetof(Header, size) == 4 && offsetof(Header, error) == 12);

inline constexpr uint32_t kFlagTypeMask = 0xf;
inline constexpr uint32_t kFlagTypeCommand = 0;
inline constexpr uint32_t kFlagTypeReply = 1;
inline constexpr uint32_t kFlagNoReply = 1 << 4;
inline constexpr uint32_t kFlagError = 1 << 5;

// VERSION: followed by a NUL-terminated JSON object.
struct Version {
  uint16_t major = 0;
  uint16_t minor = 0;
};
static_assert(sizeof(Version) == 4);

// DMA_MAP. With an fd the range is offset.. of that file; without, DMA_READ and DMA_WRITE reach it.
struct DmaMap {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint64_t offset = 0;
  uint64_t iova = 0;
  uint64_t size = 0;
};
static_assert(sizeof(DmaMap) == 32 && offsetof(DmaMap, iova) == 16);

inline constexpr uint32_t kDmaMapRead = 1 << 0;
inline constexpr uint32_t kDmaMapWrite = 1 << 1;
inline constexpr uint32_t kDmaMapAccessMmap = 1 << 2;
inline constexpr uint32_t kDmaMapAccessFile = 1 << 3;

struct DmaUnmap {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint64_t iova = 0;
  uint64_t size = 0;
};
static_assert(sizeof(DmaUnmap) == 24);

inline constexpr uint32_t kDmaUnmapDirtyBitmap = 1 << 0;  // Migration version 1.
inline constexpr uint32_t kDmaUnmapAll = 1 << 1;

struct DeviceInfo {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t num_regions = 0;
  uint32_t num_irqs = 0;
};
static_assert(sizeof(DeviceInfo) == 16);

inline constexpr uint32_t kDeviceFlagReset = 1 << 0;
inline constexpr uint32_t kDeviceFlagPci = 1 << 1;

struct RegionInfo {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t cap_offset = 0;
  uint64_t size = 0;
  uint64_t offset = 0;
};
static_assert(sizeof(RegionInfo) == 32 && offsetof(RegionInfo, size) == 16);

inline constexpr uint32_t kRegionFlagRead = 1 << 0;
inline constexpr uint32_t kRegionFlagWrite = 1 << 1;
inline constexpr uint32_t kRegionFlagMmap = 1 << 2;
inline constexpr uint32_t kRegionFlagCaps = 1 << 3;

// Behind RegionInfo with kRegionFlagCaps: a list of capabilities. cap_offset and `next` count from
// the start of RegionInfo; 0 ends the list.
struct RegionCapability {
  uint16_t id = 0;
  uint16_t version = 0;
  uint32_t next = 0;
};
static_assert(sizeof(RegionCapability) == 8);

// The sparse mmap capability: followed by `area_count` areas.
struct SparseMmap {
  RegionCapability header;
  uint32_t area_count = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(SparseMmap) == 16);

inline constexpr uint16_t kRegionCapSparseMmap = 1;

// Part of a region that can be mapped; `offset` is within the region.
struct MmapArea {
  uint64_t offset = 0;
  uint64_t size = 0;
};
static_assert(sizeof(MmapArea) == 16);

// DEVICE_GET_REGION_IO_FDS: followed by `count` entries in the reply.
struct RegionIoFds {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t count = 0;
};
static_assert(sizeof(RegionIoFds) == 16);

struct IoFdEntry {
  uint64_t offset = 0;
  uint64_t size = 0;
  uint32_t fd_index = 0;
  uint32_t type = 0;
  uint32_t flags = 0;
  uint32_t padding = 0;
  uint64_t datamatch = 0;
};
static_assert(sizeof(IoFdEntry) == 40 && offsetof(IoFdEntry, datamatch) == 32);

inline constexpr uint32_t kIoFdTypeIoeventfd = 0;

struct IrqInfo {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t count = 0;
};
static_assert(sizeof(IrqInfo) == 16);

inline constexpr uint32_t kIrqFlagEventfd = 1 << 0;
inline constexpr uint32_t kIrqFlagMaskable = 1 << 1;
inline constexpr uint32_t kIrqFlagAutomasked = 1 << 2;
inline constexpr uint32_t kIrqFlagNoresize = 1 << 3;

enum class IrqIndex : uint32_t { kIntx = 0, kMsi = 1, kMsix = 2, kError = 3, kRequest = 4 };
inline constexpr uint32_t kIrqIndexCount = 5;

// DEVICE_SET_IRQS: followed by `count` bytes with kIrqDataBool.
struct SetIrqs {
  uint32_t argsz = 0;
  uint32_t flags = 0;
  uint32_t index = 0;
  uint32_t start = 0;
  uint32_t count = 0;
};
static_assert(sizeof(SetIrqs) == 20);

inline constexpr uint32_t kIrqDataNone = 1 << 0;
inline constexpr uint32_t kIrqDataBool = 1 << 1;
inline constexpr uint32_t kIrqDataEventfd = 1 << 2;
inline constexpr uint32_t kIrqDataMask = 0x07;
inline constexpr uint32_t kIrqActionMask = 1 << 3;
inline constexpr uint32_t kIrqActionUnmask = 1 << 4;
inline constexpr uint32_t kIrqActionTrigger = 1 << 5;
inline constexpr uint32_t kIrqActionsMask = 0x38;

// REGION_READ and REGION_WRITE: followed by `count` bytes in the reply or the command.
struct RegionAccess {
  uint64_t offset = 0;
  uint32_t region = 0;
  uint32_t count = 0;
};
static_assert(sizeof(RegionAccess) == 16);

// DMA_READ and DMA_WRITE: followed by `count` bytes in the reply or the command.
struct DmaAccess {
  uint64_t iova = 0;
  uint64_t count = 0;
};
static_assert(sizeof(DmaAccess) == 16);

// REGION_WRITE_MULTI: followed by `count` entries. The reply has the number done.
struct WriteMulti {
  uint64_t count = 0;
};
static_assert(sizeof(WriteMulti) == 8);

struct WriteMultiEntry {
  uint64_t offset = 0;
  uint32_t region = 0;
  uint32_t count = 0;  // 1..8.
  uint8_t data[8] = {};
};
static_assert(sizeof(WriteMultiEntry) == 24);

// DEVICE_FEATURE: followed by the feature's own structure.
struct DeviceFeature {
  uint32_t argsz = 0;
  uint32_t flags = 0;
};
static_assert(sizeof(DeviceFeature) == 8);

inline constexpr uint32_t kFeatureIndexMask = 0xffff;
inline constexpr uint32_t kFeatureGet = 1 << 16;
inline constexpr uint32_t kFeatureSet = 1 << 17;
inline constexpr uint32_t kFeatureProbe = 1 << 18;

enum class Feature : uint32_t {
  kMigration = 1,
  kMigrationState = 2,
  kDmaLoggingStart = 6,
  kDmaLoggingStop = 7,
  kDmaLoggingReport = 8,
};

struct FeatureMigration {
  uint64_t flags = 0;
};
inline constexpr uint64_t kMigrationStopCopy = 1 << 0;
inline constexpr uint64_t kMigrationPreCopy = 1 << 2;

enum class MigrationState : uint32_t {
  kError = 0,
  kStop = 1,
  kRunning = 2,
  kStopCopy = 3,
  kResuming = 4,
  kRunningP2p = 5,
  kPreCopy = 6,
  kPreCopyP2p = 7,
};

struct FeatureMigrationState {
  uint32_t state = 0;
  uint32_t data_fd = 0;  // Unused: data moves by MIG_DATA_READ and MIG_DATA_WRITE.
};
static_assert(sizeof(FeatureMigrationState) == 8);

struct FeatureDmaLoggingStart {
  uint64_t page_size = 0;
  uint32_t num_ranges = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(FeatureDmaLoggingStart) == 16);

struct DmaLoggingRange {
  uint64_t iova = 0;
  uint64_t length = 0;
};
static_assert(sizeof(DmaLoggingRange) == 16);

// The reply has a bitmap of 64-bit words behind it, a bit per page of page_size.
struct FeatureDmaLoggingReport {
  uint64_t iova = 0;
  uint64_t length = 0;
  uint64_t page_size = 0;
};
static_assert(sizeof(FeatureDmaLoggingReport) == 24);

// MIG_DATA_READ and MIG_DATA_WRITE: followed by `size` bytes in the reply or the command.
struct MigData {
  uint32_t argsz = 0;
  uint32_t size = 0;
};
static_assert(sizeof(MigData) == 8);

// What every peer takes for granted where VERSION says nothing else.
inline constexpr uint32_t kDefaultMaxDataXferSize = 1 << 20;
inline constexpr uint32_t kDefaultMaxDmaMaps = 65535;
// cloud-hypervisor passes 16 fds in a message whatever it was told.
inline constexpr size_t kMaxMessageFds = 16;

}  // namespace farside::vfio_user
