#include "harness/trace/message_layout.h"

#include <algorithm>
#include <iterator>

#include "harness/scenario/irq_words.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::trace {
namespace {

using namespace vfio_user;  // NOLINT: every structure here is the protocol's.
using scenario::kIrqWords;
using Style = LayoutField::Style;

constexpr uint16_t Number(Command command) { return static_cast<uint16_t>(command); }
constexpr uint16_t Number(ExtensionCommand command) { return static_cast<uint16_t>(command); }

constexpr std::string_view kAccessWords[] = {"none", "r", "w", "rw"};
constexpr std::string_view kUnmapWords[] = {"", "dirty", "all"};
constexpr std::string_view kSetIrqsBits[] = {"none", "bool", "eventfd", "mask", "unmask", "trigger",
                                             "",     "",     "",        "",     "",       "",
                                             "",     "",     "",        "",     "inband"};
constexpr std::string_view kOperationBits[] = {"get", "set", "probe"};

constexpr LayoutField kVersion[] = {{"major", 0, 2}, {"minor", 2, 2}};
constexpr LayoutField kMap[] = {
    {"iova", 16, 8, Style::kHex},
    {"size", 24, 8, Style::kHex},
    {"access", 4, 4, Style::kWord, {}, kAccessWords},
    {"offset", 8, 8, Style::kHex, 0},
    {"argsz", 0, 4, Style::kDecimal, sizeof(DmaMap)},
};
constexpr LayoutField kUnmap[] = {
    {"iova", 8, 8, Style::kHex},
    {"size", 16, 8, Style::kHex},
    {"flags", 4, 4, Style::kWord, 0, kUnmapWords},
    {"argsz", 0, 4, Style::kDecimal, sizeof(DmaUnmap)},
};
constexpr LayoutField kInfo[] = {
    {"argsz", 0, 4, Style::kDecimal, sizeof(DeviceInfo)},
    {"flags", 4, 4, Style::kHex, 0},
    {"regions", 8, 4, Style::kDecimal, 0},
    {"irqs", 12, 4, Style::kDecimal, 0},
};
constexpr LayoutField kRegionInfo[] = {
    {"region", 8, 4},
    {"size", 16, 8, Style::kHex, 0},
    {"flags", 4, 4, Style::kHex, 0},
    {"offset", 24, 8, Style::kHex, 0},
    {"cap_offset", 12, 4, Style::kDecimal, 0},
    {"argsz", 0, 4, Style::kDecimal, sizeof(RegionInfo)},
};
constexpr LayoutField kIoFds[] = {
    {"region", 8, 4},
    {"count", 12, 4, Style::kDecimal, 0},
    {"flags", 4, 4, Style::kHex, 0},
    {"argsz", 0, 4, Style::kDecimal, sizeof(RegionIoFds)},
};
constexpr LayoutField kIrqInfo[] = {
    {"index", 8, 4, Style::kWord, {}, kIrqWords},
    {"count", 12, 4, Style::kDecimal, 0},
    {"flags", 4, 4, Style::kHex, 0},
    {"argsz", 0, 4, Style::kDecimal, sizeof(IrqInfo)},
};
constexpr LayoutField kSetIrqs[] = {
    {"index", 8, 4, Style::kWord, {}, kIrqWords},
    {"start", 12, 4, Style::kDecimal, 0},
    {"count", 16, 4, Style::kDecimal, 0},
    {"flags", 4, 4, Style::kFlags, {}, kSetIrqsBits},
    {"argsz", 0, 4, Style::kDecimal, sizeof(SetIrqs)},
};
constexpr LayoutField kRegion[] = {
    {"region", 8, 4},
    {"offset", 0, 8, Style::kHex},
    {"size", 12, 4, Style::kDataSize},
};
constexpr LayoutField kDma[] = {
    {"iova", 0, 8, Style::kHex},
    {"size", 8, 8, Style::kDataSize},
};
constexpr LayoutField kWriteMulti[] = {{"count", 0, 8}};
constexpr LayoutField kFeature[] = {
    {"feature", 4, 2},
    {"operation", 6, 2, Style::kFlags, {}, kOperationBits},
    {"argsz", 0, 4},
};
constexpr LayoutField kMigData[] = {
    {"argsz", 0, 4},
    {"size", 4, 4, Style::kDataSize},
};
constexpr LayoutField kInterrupt[] = {
    {"index", 0, 4, Style::kWord, {}, kIrqWords},
    {"vector", 4, 4},
};
constexpr LayoutField kClock[] = {{"time", 0, 8}};

constexpr MessageLayout kLayouts[] = {
    {Number(Command::kVersion), false, "version", 4, kVersion, LayoutTail::kText},
    {Number(Command::kVersion), true, "version", 4, kVersion, LayoutTail::kText},
    {Number(Command::kDmaMap), false, "dma.map", sizeof(DmaMap), kMap},
    {Number(Command::kDmaMap), true, "dma.map"},
    {Number(Command::kDmaUnmap), false, "dma.unmap", sizeof(DmaUnmap), kUnmap, LayoutTail::kData},
    {Number(Command::kDmaUnmap), true, "dma.unmap", sizeof(DmaUnmap), kUnmap, LayoutTail::kData},
    {Number(Command::kDeviceGetInfo), false, "device.info", sizeof(DeviceInfo), kInfo},
    {Number(Command::kDeviceGetInfo), true, "device.info", sizeof(DeviceInfo), kInfo},
    {Number(Command::kDeviceGetRegionInfo), false, "region.info", sizeof(RegionInfo), kRegionInfo,
     LayoutTail::kData},
    {Number(Command::kDeviceGetRegionInfo), true, "region.info", sizeof(RegionInfo), kRegionInfo,
     LayoutTail::kData},
    {Number(Command::kDeviceGetRegionIoFds), false, "region.io_fds", sizeof(RegionIoFds), kIoFds,
     LayoutTail::kData},
    {Number(Command::kDeviceGetRegionIoFds), true, "region.io_fds", sizeof(RegionIoFds), kIoFds,
     LayoutTail::kData},
    {Number(Command::kDeviceGetIrqInfo), false, "irq.info", sizeof(IrqInfo), kIrqInfo},
    {Number(Command::kDeviceGetIrqInfo), true, "irq.info", sizeof(IrqInfo), kIrqInfo},
    {Number(Command::kDeviceSetIrqs), false, "irq.set", sizeof(SetIrqs), kSetIrqs,
     LayoutTail::kData},
    {Number(Command::kDeviceSetIrqs), true, "irq.set"},
    {Number(Command::kRegionRead), false, "region.read", sizeof(RegionAccess), kRegion},
    {Number(Command::kRegionRead), true, "region.read", sizeof(RegionAccess), kRegion,
     LayoutTail::kValue},
    {Number(Command::kRegionWrite), false, "region.write", sizeof(RegionAccess), kRegion,
     LayoutTail::kValue},
    {Number(Command::kRegionWrite), true, "region.write", sizeof(RegionAccess), kRegion},
    {Number(Command::kDmaRead), false, "dma.read", sizeof(DmaAccess), kDma},
    {Number(Command::kDmaRead), true, "dma.read", sizeof(DmaAccess), kDma, LayoutTail::kData},
    {Number(Command::kDmaWrite), false, "dma.write", sizeof(DmaAccess), kDma, LayoutTail::kData},
    {Number(Command::kDmaWrite), true, "dma.write", sizeof(DmaAccess), kDma},
    {Number(Command::kDeviceReset), false, "reset"},
    {Number(Command::kDeviceReset), true, "reset"},
    {Number(Command::kRegionWriteMulti), false, "region.write_multi", sizeof(WriteMulti),
     kWriteMulti, LayoutTail::kWrites},
    {Number(Command::kRegionWriteMulti), true, "region.write_multi", sizeof(WriteMulti),
     kWriteMulti},
    {Number(Command::kDeviceFeature), false, "feature", sizeof(DeviceFeature), kFeature,
     LayoutTail::kData},
    {Number(Command::kDeviceFeature), true, "feature", sizeof(DeviceFeature), kFeature,
     LayoutTail::kData},
    {Number(Command::kMigDataRead), false, "mig.read", sizeof(MigData), kMigData},
    {Number(Command::kMigDataRead), true, "mig.read", sizeof(MigData), kMigData, LayoutTail::kData},
    {Number(Command::kMigDataWrite), false, "mig.write", sizeof(MigData), kMigData,
     LayoutTail::kData},
    {Number(Command::kMigDataWrite), true, "mig.write"},
    {Number(ExtensionCommand::kInterrupt), false, "interrupt", sizeof(Interrupt), kInterrupt},
    {Number(ExtensionCommand::kClockAdvance), false, "clock.advance", sizeof(ClockAdvance), kClock},
    {Number(ExtensionCommand::kClockAdvance), true, "clock.advance"},
};

}  // namespace

const MessageLayout* FindLayout(uint16_t command, bool reply) {
  const auto found = std::ranges::find_if(kLayouts, [&](const MessageLayout& layout) {
    return layout.command == command && layout.reply == reply;
  });
  return found == std::end(kLayouts) ? nullptr : &*found;
}

const MessageLayout* FindLayout(std::string_view verb, bool reply) {
  const auto found = std::ranges::find_if(kLayouts, [&](const MessageLayout& layout) {
    return layout.verb == verb && layout.reply == reply;
  });
  return found == std::end(kLayouts) ? nullptr : &*found;
}

bool IsClientCommand(uint16_t command) {
  return command != Number(Command::kDmaRead) && command != Number(Command::kDmaWrite) &&
         command != Number(ExtensionCommand::kInterrupt);
}

}  // namespace farside::trace
