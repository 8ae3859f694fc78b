// HostileLine: the far end of a client's channel, of which the session says what comes, in which
// pieces, with how many descriptors, and when it ends.
#pragma once

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

  // A new channel; the client's end of it.
  std::unique_ptr<MemoryTransport> Connect(bool pieces);
  void Close();
  bool connected() const { return line_ != nullptr; }
  // Everything was sent, if not read.
  bool sent() const { return out_.empty(); }
  // Nothing is on its way to the client.
  bool quiet() const { return !connected() || (sent() && client_end_->pending() == 0); }

  // To be sent by SendSome.
  void Put(ConstBytes head, ConstBytes payload, size_t fds);
  void HangUp() { out_.push_back({.hang_up = true}); }
  // A piece, or all there is.
  void SendSome();

  // The messages that have come; nothing if none did. Oracle "framing": what is no message.
  template <typename Frame>
  std::optional<std::vector<Frame>> Receive(BasicFrameReader<Frame>& reader) {
    const auto filled = reader.Fill(*line_);
    if (!filled || *filled != FillStatus::kData) return std::nullopt;
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
    bool hang_up = false;
  };

  const size_t piece_;
  UniqueFd fd_;  // What is passed, as often as it takes.
  std::unique_ptr<MemoryTransport> line_;
  MemoryTransport* client_end_ = nullptr;
  bool pieces_ = false;
  std::deque<Piece> out_;
};

}  // namespace farside::fuzz
