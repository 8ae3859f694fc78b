// RawChannel: a vfio-user client without manners. It sends any bytes with any fds, in any pieces,
// and answers nothing by itself.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::scenario {

// For one thread.
class RawChannel {
 public:
  static Result<std::unique_ptr<RawChannel>> Open(UniqueFd socket);

  // Sends `bytes` by themselves: what is behind them goes with a send of its own. `fds` go with the
  // first byte and stay the caller's. An Error with EPIPE where the server has closed.
  Result<void> Send(ConstBytes bytes, std::span<const int> fds, uint64_t timeout_ns);

  // The next message. Its payload is valid until the next call. ETIMEDOUT when none comes in time,
  // EPIPE when the server has closed and all was received.
  Result<vfio_user::Frame> Receive(uint64_t timeout_ns);

 private:
  explicit RawChannel(std::unique_ptr<SocketTransport> transport)
      : transport_(std::move(transport)) {}
  // False when the time is over.
  bool WaitFor(short events, uint64_t deadline_ns) const;

  MonotonicClock clock_;
  std::unique_ptr<SocketTransport> transport_;
  vfio_user::FrameReader reader_{UINT32_MAX};
};

}  // namespace farside::scenario
