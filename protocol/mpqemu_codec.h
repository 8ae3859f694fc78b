// From mpqemu messages to typed requests and back.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/frame_stream.h"
#include "protocol/mpqemu.h"

namespace farside::mpqemu {

// One message. `payload` points into its FrameReader and is valid until the next Fill.
struct Frame {
  Header header;
  ConstBytes payload = {};
  std::vector<UniqueFd> fds = {};

  Command command() const { return Command{header.command}; }
};

// The most bytes of a frame.
inline constexpr uint32_t kMaxFrame = sizeof(Header) + kMaxPayload;

// An error here closes the channel: no such command, or a frame of more than `max_frame` bytes.
Result<void> CheckHeader(const Header& header, uint32_t max_frame = kMaxFrame);

// Of the whole message, in bytes; more than any limit where the header makes no sense.
inline uint64_t FrameSize(const Header& header) {
  return header.size > kMaxPayload ? uint64_t{1} << 32 : sizeof(Header) + header.size;
}

using FrameReader = BasicFrameReader<Frame>;

struct SyncSysmemRequest : SyncSysmem {};
struct ConfigWriteRequest : ConfigAccess {};
struct ConfigReadRequest : ConfigAccess {};
struct BarWriteRequest : BarAccess {};
struct BarReadRequest : BarAccess {};
struct SetIrqfdRequest {};
struct ResetRequest {};

using Request = std::variant<SyncSysmemRequest, ConfigWriteRequest, ConfigReadRequest,
                             BarWriteRequest, BarReadRequest, SetIrqfdRequest, ResetRequest>;

// Decodes what a proxy sends: payload sizes and numbers of fds are as their command's. A reset may
// carry anything, and fds that mean nothing are ignored, as QEMU does it.
Result<Request> DecodeRequest(const Frame& frame);

inline Header MakeHeader(Command command, size_t payload_size) {
  return {.command = static_cast<int32_t>(command), .padding = 0, .size = payload_size};
}

}  // namespace farside::mpqemu
