#include "protocol/vfio_user_codec.h"

#include <bit>
#include <cerrno>
#include <limits>

#include "base/range.h"

namespace farside::vfio_user {
namespace {

// Reads the fixed fields at the payload's start; false if it is too short.
template <typename T>
bool ReadFixed(ConstBytes payload, T* out) {
  if (payload.size() < sizeof(T)) return false;
  Copy(AsWritableBytes(*out), payload.first(sizeof(T)));
  return true;
}

tl::unexpected<Error> WrongSize(std::string_view command, size_t got, size_t wanted) {
  return FailWith(EINVAL, "{} has a payload of {} bytes where {} are due", command, got, wanted);
}

tl::unexpected<Error> WrongArgsz(std::string_view command, uint32_t got, size_t wanted) {
  return FailWith(EINVAL, "{} has argsz {} where at least {} is due", command, got, wanted);
}

Result<Request> DecodeVersion(ConstBytes payload) {
  VersionRequest request;
  if (!ReadFixed(payload, &request.version)) return WrongSize("VERSION", payload.size(), 4);
  const ConstBytes json = payload.subspan(sizeof(Version));
  if (json.empty()) return request;
  const auto text = std::string_view(reinterpret_cast<const char*>(json.data()), json.size());
  if (text.find('\0') != text.size() - 1) {
    return FailWith(EINVAL, "VERSION's JSON does not end with its first NUL byte");
  }
  request.json = text.substr(0, text.size() - 1);
  return request;
}

Result<Request> DecodeDmaMap(ConstBytes payload, size_t fds) {
  DmaMapRequest map;
  if (payload.size() != sizeof(DmaMap) || !ReadFixed<DmaMap>(payload, &map)) {
    return WrongSize("DMA_MAP", payload.size(), sizeof(DmaMap));
  }
  if (map.argsz < sizeof(DmaMap)) return WrongArgsz("DMA_MAP", map.argsz, sizeof(DmaMap));
  constexpr uint32_t kKnown = kDmaMapRead | kDmaMapWrite | kDmaMapAccessMmap | kDmaMapAccessFile;
  if ((map.flags & ~kKnown) != 0) {
    return FailWith(EINVAL, "DMA_MAP has unknown flags {:#x}", map.flags & ~kKnown);
  }
  if (map.size == 0) return FailWith(EINVAL, "DMA_MAP at {:#x} has size 0", map.iova);
  if (Wraps(map.iova, map.size) || Wraps(map.offset, map.size)) {
    return FailWith(EINVAL, "DMA_MAP at {:#x}, offset {:#x}, size {:#x} wraps at 2^64", map.iova,
                    map.offset, map.size);
  }
  if (fds > 1) return FailWith(EINVAL, "DMA_MAP comes with {} fds, at most 1 is lawful", fds);
  if ((map.flags & (kDmaMapAccessMmap | kDmaMapAccessFile)) != 0 && fds == 0) {
    return FailWith(EINVAL, "DMA_MAP says how its fd is accessed but comes without one");
  }
  return map;
}

Result<Request> DecodeDmaUnmap(ConstBytes payload) {
  DmaUnmapRequest unmap;
  if (!ReadFixed<DmaUnmap>(payload, &unmap)) {
    return WrongSize("DMA_UNMAP", payload.size(), sizeof(DmaUnmap));
  }
  if (unmap.argsz < sizeof(DmaUnmap)) {
    return WrongArgsz("DMA_UNMAP", unmap.argsz, sizeof(DmaUnmap));
  }
  if ((unmap.flags & ~kDmaUnmapAll) != 0) {
    return FailWith(EINVAL, "DMA_UNMAP has flags {:#x}; dirty bitmaps come by DEVICE_FEATURE",
                    unmap.flags);
  }
  if ((unmap.flags & kDmaUnmapAll) != 0 && (unmap.iova != 0 || unmap.size != 0)) {
    return FailWith(EINVAL, "DMA_UNMAP of all names a range");
  }
  if ((unmap.flags & kDmaUnmapAll) == 0 && unmap.size == 0) {
    return FailWith(EINVAL, "DMA_UNMAP at {:#x} has size 0", unmap.iova);
  }
  if (Wraps(unmap.iova, unmap.size)) {
    return FailWith(EINVAL, "DMA_UNMAP at {:#x}, size {:#x} wraps at 2^64", unmap.iova, unmap.size);
  }
  return unmap;
}

// GET_* commands: fixed fields with an argsz that leaves room for them.
template <typename T, typename Fields>
Result<Request> DecodeGet(std::string_view name, ConstBytes payload) {
  T request;
  if (!ReadFixed<Fields>(payload, &request)) return WrongSize(name, payload.size(), sizeof(Fields));
  if (request.argsz < sizeof(Fields)) return WrongArgsz(name, request.argsz, sizeof(Fields));
  return request;
}

Result<Request> DecodeSetIrqs(ConstBytes payload, size_t fds) {
  DeviceSetIrqsRequest irqs;
  if (!ReadFixed<SetIrqs>(payload, &irqs)) {
    return WrongSize("DEVICE_SET_IRQS", payload.size(), sizeof(SetIrqs));
  }
  if (irqs.argsz < sizeof(SetIrqs)) {
    return WrongArgsz("DEVICE_SET_IRQS", irqs.argsz, sizeof(SetIrqs));
  }
  const uint32_t data = irqs.flags & (kIrqDataMask | kIrqDataInband);
  const uint32_t action = irqs.flags & kIrqActionsMask;
  if (!std::has_single_bit(data) || !std::has_single_bit(action) || irqs.flags != (data | action)) {
    return FailWith(EINVAL, "DEVICE_SET_IRQS has flags {:#x}: one data kind and one action are due",
                    irqs.flags);
  }
  if (irqs.count > std::numeric_limits<uint32_t>::max() - irqs.start) {
    return FailWith(EINVAL, "DEVICE_SET_IRQS start {} + count {} overflows", irqs.start,
                    irqs.count);
  }
  irqs.bools = payload.subspan(sizeof(SetIrqs));
  const size_t bytes_due = data == kIrqDataBool ? irqs.count : 0;
  if (irqs.bools.size() != bytes_due) {
    return FailWith(EINVAL, "DEVICE_SET_IRQS has {} data bytes where {} are due", irqs.bools.size(),
                    bytes_due);
  }
  if (fds != 0 && (data != kIrqDataEventfd || fds != irqs.count)) {
    return FailWith(EINVAL, "DEVICE_SET_IRQS for {} interrupts comes with {} fds", irqs.count, fds);
  }
  return irqs;
}

Result<Request> DecodeClockAdvance(ConstBytes payload) {
  ClockAdvanceRequest advance;
  if (payload.size() != sizeof(ClockAdvance) || !ReadFixed<ClockAdvance>(payload, &advance)) {
    return WrongSize("CLOCK_ADVANCE", payload.size(), sizeof(ClockAdvance));
  }
  return advance;
}

Result<Request> DecodeRegionRead(ConstBytes payload) {
  RegionReadRequest read;
  if (payload.size() != sizeof(RegionAccess) || !ReadFixed<RegionAccess>(payload, &read)) {
    return WrongSize("REGION_READ", payload.size(), sizeof(RegionAccess));
  }
  if (read.count == 0) return FailWith(EINVAL, "REGION_READ of 0 bytes");
  return read;
}

Result<Request> DecodeRegionWrite(ConstBytes payload) {
  RegionWriteRequest write;
  if (!ReadFixed<RegionAccess>(payload, &write)) {
    return WrongSize("REGION_WRITE", payload.size(), sizeof(RegionAccess));
  }
  write.data = payload.subspan(sizeof(RegionAccess));
  if (write.count == 0) return FailWith(EINVAL, "REGION_WRITE of 0 bytes");
  if (write.data.size() != write.count) {
    return WrongSize("REGION_WRITE", payload.size(), sizeof(RegionAccess) + write.count);
  }
  return write;
}

Result<Request> DecodeDmaRead(ConstBytes payload) {
  DmaReadRequest read;
  if (payload.size() != sizeof(DmaAccess) || !ReadFixed<DmaAccess>(payload, &read)) {
    return WrongSize("DMA_READ", payload.size(), sizeof(DmaAccess));
  }
  if (read.count == 0 || Wraps(read.iova, read.count)) {
    return FailWith(EINVAL, "DMA_READ of {} bytes at {:#x} is empty or wraps at 2^64", read.count,
                    read.iova);
  }
  return read;
}

Result<Request> DecodeDmaWrite(ConstBytes payload) {
  DmaWriteRequest write;
  if (!ReadFixed<DmaAccess>(payload, &write)) {
    return WrongSize("DMA_WRITE", payload.size(), sizeof(DmaAccess));
  }
  write.data = payload.subspan(sizeof(DmaAccess));
  if (write.count == 0 || write.data.size() != write.count || Wraps(write.iova, write.count)) {
    return FailWith(EINVAL, "DMA_WRITE of {} bytes at {:#x} carries {}", write.count, write.iova,
                    write.data.size());
  }
  return write;
}

Result<Request> DecodeWriteMulti(ConstBytes payload) {
  WriteMulti fields;
  if (!ReadFixed(payload, &fields)) {
    return WrongSize("REGION_WRITE_MULTI", payload.size(), sizeof(WriteMulti));
  }
  RegionWriteMultiRequest multi{payload.subspan(sizeof(WriteMulti))};
  if (multi.entries.size() % sizeof(WriteMultiEntry) != 0 || multi.count() != fields.count) {
    return FailWith(EINVAL, "REGION_WRITE_MULTI of {} writes carries {} bytes of them",
                    fields.count, multi.entries.size());
  }
  for (size_t i = 0; i < multi.count(); ++i) {
    const uint32_t count = multi.entry(i).count;
    if (count == 0 || count > sizeof(WriteMultiEntry::data)) {
      return FailWith(EINVAL, "REGION_WRITE_MULTI's write {} has {} bytes: 1 to 8 are lawful", i,
                      count);
    }
  }
  return multi;
}

Result<Request> DecodeFeature(ConstBytes payload) {
  DeviceFeatureRequest feature;
  if (!ReadFixed<DeviceFeature>(payload, &feature)) {
    return WrongSize("DEVICE_FEATURE", payload.size(), sizeof(DeviceFeature));
  }
  feature.data = payload.subspan(sizeof(DeviceFeature));
  if (feature.argsz < sizeof(DeviceFeature)) {
    return WrongArgsz("DEVICE_FEATURE", feature.argsz, sizeof(DeviceFeature));
  }
  constexpr uint32_t kOperations = kFeatureGet | kFeatureSet | kFeatureProbe;
  const uint32_t operations = feature.flags & kOperations;
  const bool both = (operations & kFeatureGet) != 0 && (operations & kFeatureSet) != 0;
  const bool probe = (operations & kFeatureProbe) != 0;
  if ((feature.flags & ~(kFeatureIndexMask | kOperations)) != 0 || operations == 0 ||
      (both && !probe)) {
    return FailWith(EINVAL, "DEVICE_FEATURE has flags {:#x}: GET, SET or PROBE is due",
                    feature.flags);
  }
  return feature;
}

Result<Request> DecodeMigDataRead(ConstBytes payload) {
  MigDataReadRequest read;
  if (!ReadFixed<MigData>(payload, &read)) {
    return WrongSize("MIG_DATA_READ", payload.size(), sizeof(MigData));
  }
  if (read.argsz < sizeof(MigData)) return WrongArgsz("MIG_DATA_READ", read.argsz, sizeof(MigData));
  return read;
}

Result<Request> DecodeMigDataWrite(ConstBytes payload) {
  MigDataWriteRequest write;
  if (!ReadFixed<MigData>(payload, &write)) {
    return WrongSize("MIG_DATA_WRITE", payload.size(), sizeof(MigData));
  }
  write.data = payload.subspan(sizeof(MigData));
  if (write.data.size() != write.size) {
    return WrongSize("MIG_DATA_WRITE", payload.size(), sizeof(MigData) + write.size);
  }
  return write;
}

// Commands that may carry fds check their number themselves.
bool TakesFds(Command command) {
  return command == Command::kDmaMap || command == Command::kDeviceSetIrqs;
}

}  // namespace

std::string_view CommandName(Command command) {
  switch (command) {
    case Command::kVersion:
      return "VERSION";
    case Command::kDmaMap:
      return "DMA_MAP";
    case Command::kDmaUnmap:
      return "DMA_UNMAP";
    case Command::kDeviceGetInfo:
      return "DEVICE_GET_INFO";
    case Command::kDeviceGetRegionInfo:
      return "DEVICE_GET_REGION_INFO";
    case Command::kDeviceGetRegionIoFds:
      return "DEVICE_GET_REGION_IO_FDS";
    case Command::kDeviceGetIrqInfo:
      return "DEVICE_GET_IRQ_INFO";
    case Command::kDeviceSetIrqs:
      return "DEVICE_SET_IRQS";
    case Command::kRegionRead:
      return "REGION_READ";
    case Command::kRegionWrite:
      return "REGION_WRITE";
    case Command::kDmaRead:
      return "DMA_READ";
    case Command::kDmaWrite:
      return "DMA_WRITE";
    case Command::kDeviceReset:
      return "DEVICE_RESET";
    case Command::kRegionWriteMulti:
      return "REGION_WRITE_MULTI";
    case Command::kDeviceFeature:
      return "DEVICE_FEATURE";
    case Command::kMigDataRead:
      return "MIG_DATA_READ";
    case Command::kMigDataWrite:
      return "MIG_DATA_WRITE";
  }
  return {};
}

WriteMultiEntry RegionWriteMultiRequest::entry(size_t index) const {
  WriteMultiEntry entry;
  Copy(AsWritableBytes(entry),
       entries.subspan(index * sizeof(WriteMultiEntry), sizeof(WriteMultiEntry)));
  return entry;
}

Result<Request> DecodeRequest(const Frame& frame) {
  const ConstBytes payload = frame.payload;
  const size_t fds = frame.fds.size();
  if (fds != 0 && !TakesFds(frame.command())) {
    return FailWith(EINVAL, "command {} comes with {} fds, none is lawful", frame.header.command,
                    fds);
  }
  if (frame.header.command == static_cast<uint16_t>(ExtensionCommand::kClockAdvance)) {
    return DecodeClockAdvance(payload);
  }
  switch (frame.command()) {
    case Command::kVersion:
      return DecodeVersion(payload);
    case Command::kDmaMap:
      return DecodeDmaMap(payload, fds);
    case Command::kDmaUnmap:
      return DecodeDmaUnmap(payload);
    case Command::kDeviceGetInfo:
      return DecodeGet<DeviceGetInfoRequest, DeviceInfo>("DEVICE_GET_INFO", payload);
    case Command::kDeviceGetRegionInfo:
      return DecodeGet<DeviceGetRegionInfoRequest, RegionInfo>("DEVICE_GET_REGION_INFO", payload);
    case Command::kDeviceGetRegionIoFds:
      return DecodeGet<DeviceGetRegionIoFdsRequest, RegionIoFds>("DEVICE_GET_REGION_IO_FDS",
                                                                 payload);
    case Command::kDeviceGetIrqInfo:
      return DecodeGet<DeviceGetIrqInfoRequest, IrqInfo>("DEVICE_GET_IRQ_INFO", payload);
    case Command::kDeviceSetIrqs:
      return DecodeSetIrqs(payload, fds);
    case Command::kRegionRead:
      return DecodeRegionRead(payload);
    case Command::kRegionWrite:
      return DecodeRegionWrite(payload);
    case Command::kDmaRead:
      return DecodeDmaRead(payload);
    case Command::kDmaWrite:
      return DecodeDmaWrite(payload);
    case Command::kDeviceReset:
      if (!payload.empty()) return WrongSize("DEVICE_RESET", payload.size(), 0);
      return DeviceResetRequest{};
    case Command::kRegionWriteMulti:
      return DecodeWriteMulti(payload);
    case Command::kDeviceFeature:
      return DecodeFeature(payload);
    case Command::kMigDataRead:
      return DecodeMigDataRead(payload);
    case Command::kMigDataWrite:
      return DecodeMigDataWrite(payload);
  }
  return FailWith(ENOTSUP, "command {} is unknown or retired", frame.header.command);
}

Result<void> CheckHeader(const Header& header, uint32_t max_message_size) {
  if (header.size < sizeof(Header) || header.size > max_message_size) {
    return FailWith(EMSGSIZE, "a message claims {} bytes; {} to {} are lawful", header.size,
                    sizeof(Header), max_message_size);
  }
  const uint32_t type = header.flags & kFlagTypeMask;
  if (type != kFlagTypeCommand && type != kFlagTypeReply) {
    return FailWith(EPROTO, "a message has flags {:#x}: it is neither command nor reply",
                    header.flags);
  }
  return {};
}

Header CommandHeader(uint16_t message_id, Command command, size_t payload_size, uint32_t flags) {
  return {.message_id = message_id,
          .command = static_cast<uint16_t>(command),
          .size = static_cast<uint32_t>(sizeof(Header) + payload_size),
          .flags = kFlagTypeCommand | flags};
}

Header ReplyHeader(const Header& request, size_t payload_size) {
  return {.message_id = request.message_id,
          .command = request.command,
          .size = static_cast<uint32_t>(sizeof(Header) + payload_size),
          .flags = kFlagTypeReply};
}

Header ErrorHeader(const Header& request, int error) {
  Header header = ReplyHeader(request, 0);
  header.flags |= kFlagError;
  header.error = static_cast<uint32_t>(error);
  return header;
}

}  // namespace farside::vfio_user
