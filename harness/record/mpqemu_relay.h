// MpqemuRelay: a wire tap between the two ends of an mpqemu channel.
#pragma once

#include <memory>
#include <string>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "harness/record/mpqemu_view.h"
#include "harness/record/recording.h"
#include "protocol/frame_stream.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/transport.h"

namespace farside::record {

// Passes messages as they are, but that the interrupt eventfds are its own towards the server.
// Stops the loop when one end is gone.
class MpqemuRelay {
 public:
  // `recording` outlives it; both sockets are connected.
  static Result<std::unique_ptr<MpqemuRelay>> Create(EpollLoop& loop, Recording& recording,
                                                     UniqueFd client, UniqueFd server);

  // A sentence if it did not end because the client went away.
  const std::string& failure() const { return failure_; }
  const MpqemuView& view() const { return view_; }

 private:
  // One end.
  struct Line final : FdWatcher {
    Line(MpqemuRelay& its_relay, bool client) : relay(its_relay), is_client(client) {}
    void OnReady(uint32_t events) override { relay.OnReady(*this, events); }

    MpqemuRelay& relay;
    const bool is_client;
    std::unique_ptr<SocketTransport> transport;
    mpqemu::FrameReader reader{mpqemu::kMaxFrame};
    FrameWriter writer;
    FdWatch watch;
  };
  // From one eventfd to another.
  struct Bridge final : FdWatcher {
    Bridge(MpqemuRelay& its_relay, bool interrupt) : relay(its_relay), is_interrupt(interrupt) {}
    void OnReady(uint32_t) override { relay.OnSignal(*this); }

    MpqemuRelay& relay;
    const bool is_interrupt;
    UniqueFd from;
    UniqueFd to;
    FdWatch watch;
  };

  MpqemuRelay(EpollLoop& loop, Recording& recording)
      : loop_(loop),
        recording_(recording),
        view_(recording),
        client_(*this, true),
        server_(*this, false) {}

  void OnReady(Line& line, uint32_t events);
  void OnSignal(Bridge& bridge);
  Result<void> Pass(Line& from, mpqemu::Frame frame);
  Result<void> MakeBridges(mpqemu::Frame& frame);
  Result<void> Flush(Line& line);
  void End(std::string failure);

  EpollLoop& loop_;
  Recording& recording_;
  MpqemuView view_;
  Line client_;
  Line server_;
  std::unique_ptr<Bridge> interrupt_;
  std::unique_ptr<Bridge> resample_;
  bool ended_ = false;
  std::string failure_;
};

}  // namespace farside::record
