#include "harness/scenario/raw_channel.h"

#include <poll.h>

#include <cerrno>
#include <utility>

namespace farside::scenario {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;

}  // namespace

Result<std::unique_ptr<RawChannel>> RawChannel::Open(UniqueFd socket, Reader reader) {
  auto transport = SocketTransport::Create(std::move(socket));
  if (!transport) return tl::unexpected(transport.error());
  return std::unique_ptr<RawChannel>(new RawChannel(std::move(*transport), std::move(reader)));
}

Result<std::unique_ptr<RawChannel>> RawChannel::OpenVfioUser(UniqueFd socket) {
  return Open(std::move(socket), vfio_user::FrameReader(UINT32_MAX));
}

Result<std::unique_ptr<RawChannel>> RawChannel::OpenMpqemu(UniqueFd socket) {
  return Open(std::move(socket), mpqemu::FrameReader(mpqemu::kMaxFrame));
}

bool RawChannel::WaitFor(short events, uint64_t deadline_ns) const {
  for (;;) {
    const uint64_t now_ns = clock_.now_ns();
    const uint64_t left_ns = deadline_ns - std::min(deadline_ns, now_ns);
    const timespec timeout{.tv_sec = static_cast<time_t>(left_ns / 1'000'000'000),
                           .tv_nsec = static_cast<long>(left_ns % 1'000'000'000)};
    pollfd fd{transport_->fd(), events, 0};
    const int ready = ppoll(&fd, 1, &timeout, nullptr);
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

Result<void> RawChannel::Send(ConstBytes bytes, std::span<const int> fds, uint64_t timeout_ns) {
  const uint64_t deadline_ns = clock_.now_ns() + timeout_ns;
  while (!bytes.empty()) {
    const ssize_t sent = transport_->Send(bytes, fds);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
      fds = {};
      continue;
    }
    const int error = sent == 0 ? EIO : static_cast<int>(-sent);
    if (error == EPIPE || error == ECONNRESET) {
      return FailWith(EPIPE, "the server closed the channel");
    }
    if (error != EAGAIN) return FailWith(error, "cannot send: {}", ErrnoText(error));
    if (!WaitFor(POLLOUT, deadline_ns)) {
      return FailWith(ETIMEDOUT, "the server took nothing more within {} ms; {} bytes are left",
                      timeout_ns / kNsPerMs, bytes.size());
    }
  }
  return {};
}

Result<RawChannel::Message> RawChannel::Receive(uint64_t timeout_ns) {
  return std::visit([&](auto& reader) { return ReceiveWith(reader, timeout_ns); }, reader_);
}

template <typename FrameReader>
Result<RawChannel::Message> RawChannel::ReceiveWith(FrameReader& reader, uint64_t timeout_ns) {
  const uint64_t deadline_ns = clock_.now_ns() + timeout_ns;
  for (;;) {
    auto frame = reader.Next();
    if (!frame) return tl::unexpected(frame.error());
    if (*frame) return Message(std::move(**frame));
    const auto filled = reader.Fill(*transport_);
    const bool closed = filled ? *filled == FillStatus::kEnd : filled.error().code == ECONNRESET;
    if (closed) return FailWith(EPIPE, "the server closed the channel");
    if (!filled) return tl::unexpected(filled.error());
    if (*filled == FillStatus::kData) continue;
    if (!WaitFor(POLLIN, deadline_ns)) {
      return FailWith(ETIMEDOUT, "nothing came from the server within {} ms",
                      timeout_ns / kNsPerMs);
    }
  }
}

}  // namespace farside::scenario
