// From messages to typed requests and back. Decoding checks everything that can be decided without
// knowing the device or the session; nothing is copied and nothing is allocated.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/frame_stream.h"
#include "protocol/vfio_user.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::vfio_user {

// One message. `payload` points into its FrameReader and is valid until the next Fill.
struct Frame {
  Header header;
  ConstBytes payload = {};
  std::vector<UniqueFd> fds = {};

  Command command() const { return static_cast<Command>(header.command); }
  bool is_reply() const { return (header.flags & kFlagTypeMask) == kFlagTypeReply; }
  bool no_reply() const { return (header.flags & kFlagNoReply) != 0; }
};

using FrameReader = BasicFrameReader<Frame>;
using farside::FrameWriter;

// Of the whole message, in bytes.
inline uint64_t FrameSize(const Header& header) { return header.size; }

// Requests: the fixed fields as they lie on the wire, and what follows them.
struct VersionRequest {
  Version version;
  std::string_view json;  // Without its terminating NUL; empty where there is none.
};
struct DmaMapRequest : DmaMap {};
struct DmaUnmapRequest : DmaUnmap {};
struct DeviceGetInfoRequest : DeviceInfo {};
struct DeviceGetRegionInfoRequest : RegionInfo {};
struct DeviceGetRegionIoFdsRequest : RegionIoFds {};
struct DeviceGetIrqInfoRequest : IrqInfo {};
struct DeviceSetIrqsRequest : SetIrqs {
  ConstBytes bools;  // `count` of them with kIrqDataBool, else empty.
};
struct RegionReadRequest : RegionAccess {};
struct RegionWriteRequest : RegionAccess {
  ConstBytes data;  // `count` bytes.
};
struct DmaReadRequest : DmaAccess {};
struct DmaWriteRequest : DmaAccess {
  ConstBytes data;  // `count` bytes.
};
struct DeviceResetRequest {};
struct RegionWriteMultiRequest {
  ConstBytes entries;  // A multiple of sizeof(WriteMultiEntry), unaligned.

  size_t count() const { return entries.size() / sizeof(WriteMultiEntry); }
  WriteMultiEntry entry(size_t index) const;
};
struct DeviceFeatureRequest : DeviceFeature {
  ConstBytes data;

  Feature feature() const { return Feature{flags & kFeatureIndexMask}; }
};
struct MigDataReadRequest : MigData {};
struct MigDataWriteRequest : MigData {
  ConstBytes data;  // `size` bytes.
};

struct ClockAdvanceRequest : ClockAdvance {};

using Request =
    std::variant<VersionRequest, DmaMapRequest, DmaUnmapRequest, DeviceGetInfoRequest,
                 DeviceGetRegionInfoRequest, DeviceGetRegionIoFdsRequest, DeviceGetIrqInfoRequest,
                 DeviceSetIrqsRequest, RegionReadRequest, RegionWriteRequest, DmaReadRequest,
                 DmaWriteRequest, DeviceResetRequest, RegionWriteMultiRequest, DeviceFeatureRequest,
                 MigDataReadRequest, MigDataWriteRequest, ClockAdvanceRequest>;

// Decodes a command. Error::code is the errno of the reply: ENOTSUP for an unknown or retired
// command, EINVAL for everything malformed; the sentence says what was.
Result<Request> DecodeRequest(const Frame& frame);

// The most bytes a header may claim. `max_data_xfer_size` is the negotiated one.
constexpr uint32_t MaxMessageSize(uint32_t max_data_xfer_size) { return max_data_xfer_size + 4096; }

// Checks what every header must satisfy for the stream to stay in step: an error here closes the
// channel.
Result<void> CheckHeader(const Header& header, uint32_t max_message_size);

// Headers for what this end sends. `payload_size` in bytes.
Header CommandHeader(uint16_t message_id, Command command, size_t payload_size, uint32_t flags = 0);
Header ReplyHeader(const Header& request, size_t payload_size);
Header ErrorHeader(const Header& request, int error);

}  // namespace farside::vfio_user
