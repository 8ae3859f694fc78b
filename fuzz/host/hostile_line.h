// HostileLine: the far end of a client's channel, of which the session says what comes, in which
// pieces, with how many descriptors, and when it ends.
#pragma once

#include <poll.h>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "fuzz/host/oracle.h"
#include "protocol/frame_stream.h"
#include "protocol/transport.h"

namespace farside::fuzz {

class HostileLine {
 public:
  // `piece` is how many bytes come at a time, where they come in pieces.
  explicit HostileLine(size_t piece);

  // A new channel in memory, or of two sockets; the client's end of it.
  std::unique_ptr<MemoryTransport> Connect(bool pieces);
  UniqueFd ConnectSocket(bool pieces);
  void Close();
  bool connected() const { return line_ != nullptr; }
  bool across_socket() const { return connected() && line_->fd() >= 0; }
  // Everything was sent, if not read.
  bool sent() const { return out_.empty(); }
  // Over a socket: all that came was received, or never will be.
  bool nothing_waits() const;
  // Nothing is on its way, to the client or, over a socket, from it.
  bool quiet() const;
  // What is left is sent when the client has read more.
  bool waits_for_room() const { return full_ && !out_.empty(); }
  // Where there is something to watch for.
  pollfd watch() const;
  // From now on nothing is read, until the line is closed.
  void StopReading() { reads_ = false; }

  // To be sent by SendSome. `own` goes with it before the others.
  void Put(ConstBytes head, ConstBytes payload, size_t fds, UniqueFd own = {});
  void HangUp() { out_.push_back({.hang_up = true}); }
  // A piece, or all there is and goes.
  void SendSome();

  // The messages that have come; nothing if none did. Oracle "framing": what is no message.
  template <typename Frame>
  std::optional<std::vector<Frame>> Receive(BasicFrameReader<Frame>& reader) {
    if (!reads_ || ended_) return std::nullopt;
    const auto filled = reader.Fill(*line_);
    ended_ = !filled || *filled == FillStatus::kEnd;
    if (ended_ || *filled != FillStatus::kData) return std::nullopt;
    std::vector<Frame> frames;
    for (;;) {
      auto frame = reader.Next();
      if (!frame) Violation("framing", "the client sent no message: {}", frame.error().message);
      if (!*frame) return frames;
      frames.push_back(std::move(**frame));
    }
  }

 private:
  struct Piece {
    std::vector<std::byte> bytes = {};
    size_t fds = 0;
    UniqueFd own = {};
    bool hang_up = false;
  };

  void Begin(std::unique_ptr<Transport> line, bool pieces);

  const size_t piece_;
  UniqueFd fd_;  // What is passed, as often as it takes.
  std::unique_ptr<Transport> line_;
  MemoryTransport* client_end_ = nullptr;  // In memory.
  bool pieces_ = false;
  bool reads_ = true;
  bool ended_ = false;  // Nothing more comes.
  bool full_ = false;   // The socket takes no more now.
  std::deque<Piece> out_;
};

}  // namespace farside::fuzz
