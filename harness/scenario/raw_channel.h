// RawChannel: a client without manners, of vfio-user or of mpqemu. It sends any bytes with any fds,
// in any pieces, and answers nothing by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::scenario {

// For one thread.
class RawChannel {
 public:
  using Message = std::variant<vfio_user::Frame, mpqemu::Frame>;

  static Result<std::unique_ptr<RawChannel>> OpenVfioUser(UniqueFd socket);
  static Result<std::unique_ptr<RawChannel>> OpenMpqemu(UniqueFd socket);

  // Sends `bytes` by themselves: what is behind them goes with a send of its own. `fds` go with the
  // first byte and stay the caller's. An Error with EPIPE where the server has closed.
  Result<void> Send(ConstBytes bytes, std::span<const int> fds, uint64_t timeout_ns);

  // The next message. Its payload is valid until the next call. ETIMEDOUT when none comes in time,
  // EPIPE when the server has closed and all was received.
  Result<Message> Receive(uint64_t timeout_ns);

 private:
  using Reader = std::variant<vfio_user::FrameReader, mpqemu::FrameReader>;

  RawChannel(std::unique_ptr<SocketTransport> transport, Reader reader)
      : transport_(std::move(transport)), reader_(std::move(reader)) {}
  static Result<std::unique_ptr<RawChannel>> Open(UniqueFd socket, Reader reader);
  template <typename FrameReader>
  Result<Message> ReceiveWith(FrameReader& reader, uint64_t timeout_ns);
  // False when the time is over.
  bool WaitFor(short events, uint64_t deadline_ns) const;

  MonotonicClock clock_;
  std::unique_ptr<SocketTransport> transport_;
  Reader reader_;
};

}  // namespace farside::scenario
