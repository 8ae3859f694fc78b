#include "protocol/mpqemu_codec.h"

#include <cerrno>
#include <string>

namespace farside::mpqemu {
namespace {

constexpr std::string_view kNames[kCommandCount] = {
    "SYNC_SYSMEM", "RET",      "PCI_CFGWRITE", "PCI_CFGREAD",
    "BAR_WRITE",   "BAR_READ", "SET_IRQFD",    "DEVICE_RESET",
};

template <typename T>
Result<Request> DecodeAs(const Frame& frame) {
  if (frame.payload.size() != sizeof(T)) {
    return FailWith(EINVAL, "{} carries {} bytes, not {}", CommandName(frame.command()),
                    frame.payload.size(), sizeof(T));
  }
  T request{};
  Copy(AsWritableBytes(request), frame.payload);
  return request;
}

Result<void> CheckFds(const Frame& frame, size_t min, size_t max) {
  if (frame.fds.size() >= min && frame.fds.size() <= max) return {};
  if (min == max) {
    return FailWith(EINVAL, "{} came with {} fds; it takes {}", CommandName(frame.command()),
                    frame.fds.size(), min);
  }
  return FailWith(EINVAL, "{} came with {} fds; it takes {} to {}", CommandName(frame.command()),
                  frame.fds.size(), min, max);
}

}  // namespace

std::string_view CommandName(Command command) {
  const auto number = static_cast<int32_t>(command);
  return number >= 0 && number < kCommandCount ? kNames[number] : "no command";
}

Result<void> CheckHeader(const Header& header, uint32_t max_frame) {
  if (header.command < 0 || header.command >= kCommandCount) {
    return FailWith(EINVAL, "there is no command {}: the peer does not speak mpqemu",
                    header.command);
  }
  if (header.size > kMaxPayload || FrameSize(header) > max_frame) {
    return FailWith(EMSGSIZE, "{} claims {} bytes; {} are the most",
                    CommandName(Command{header.command}), header.size, kMaxPayload);
  }
  return {};
}

Result<Request> DecodeRequest(const Frame& frame) {
  Result<void> fds;
  switch (frame.command()) {
    case Command::kSyncSysmem:
      if (fds = CheckFds(frame, 1, kMaxRegions); !fds) return tl::unexpected(fds.error());
      return DecodeAs<SyncSysmemRequest>(frame);
    case Command::kPciCfgWrite:
      return DecodeAs<ConfigWriteRequest>(frame);
    case Command::kPciCfgRead:
      return DecodeAs<ConfigReadRequest>(frame);
    case Command::kBarWrite:
      return DecodeAs<BarWriteRequest>(frame);
    case Command::kBarRead:
      return DecodeAs<BarReadRequest>(frame);
    case Command::kSetIrqfd:
      if (fds = CheckFds(frame, 2, 2); !fds) return tl::unexpected(fds.error());
      return SetIrqfdRequest{};
    case Command::kDeviceReset:
      return ResetRequest{};
    case Command::kRet:
      break;
  }
  return FailWith(EINVAL, "{} is no request", CommandName(frame.command()));
}

}  // namespace farside::mpqemu
