// What a client may believe of a server's replies: every number is checked against what was asked
// and against the size of the message.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "protocol/vfio_user_codec.h"

namespace farside::vfio_user {

// A region as the server describes it.
struct RegionDescription {
  RegionInfo info;
  // The parts that may be mapped, within the region; the whole region where it has kRegionFlagMmap
  // and no sparse mmap capability. In the file, a part lies at info.offset + area.offset.
  std::vector<MmapArea> areas;
  // info.argsz was more than what was asked for: ask again with that much.
  bool incomplete = false;
};

// Checks the reply to a command that was sent with `index`, whose payload is `payload`. An Error
// says that the server breaks the protocol.
Result<VersionRequest> DecodeVersionReply(ConstBytes payload);
Result<DeviceInfo> DecodeDeviceInfo(ConstBytes payload);
Result<RegionDescription> DecodeRegionInfo(ConstBytes payload, uint32_t index, size_t fd_count);
Result<std::vector<IoFdEntry>> DecodeRegionIoFds(ConstBytes payload, uint32_t index,
                                                 size_t fd_count, uint32_t* argsz);
Result<IrqInfo> DecodeIrqInfo(ConstBytes payload, uint32_t index);

}  // namespace farside::vfio_user
