// FrameReader and FrameWriter: messages to and from a Transport, many per system call.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/transport.h"

namespace farside {

// The most fds that come with one frame.
inline constexpr size_t kMaxFrameFds = 16;

// What a receive brought.
enum class FillStatus { kData, kAgain, kEnd };

// Splits a stream into frames and gives each the fds that came with it. One receive may return
// several frames, and frames without fds joined to one with fds: the fds belong to the last frame
// begun in that receive.
//
// A protocol is its Frame (header, payload, fds) and two functions beside it: FrameSize(header), of
// the whole frame in bytes, and CheckHeader(header, limit), an Error where the stream is out of
// step or a frame larger than `limit`.
template <typename Frame>
class BasicFrameReader {
 public:
  using Header = decltype(Frame::header);
  using Status = FillStatus;

  explicit BasicFrameReader(uint32_t max_message_size) : max_message_size_(max_message_size) {}

  // After another size was negotiated.
  void set_max_message_size(uint32_t size) { max_message_size_ = size; }

  // Receives once. An Error: the end inside a frame, more than kMaxFrameFds fds for one frame,
  // and every error of the transport. Invalidates the payloads of earlier frames.
  Result<Status> Fill(Transport& transport);

  // The next whole frame; nothing when there is none yet; an Error when the stream is out of step.
  Result<std::optional<Frame>> Next();

  // The header of the frame that Next would return, if it is whole.
  std::optional<Header> Peek() const;

 private:
  struct FdGroup {
    uint64_t frame_at = 0;  // Where in the stream their frame begins.
    std::vector<UniqueFd> fds;
  };

  std::optional<Header> HeaderAt(size_t at) const;
  void MakeRoom();
  Result<void> AttachFds(std::vector<UniqueFd> fds);

  uint32_t max_message_size_;
  // Of what lies behind end_ nothing is ever read: no connection has to pay for zeroes.
  size_t capacity_ = 64 << 10;
  std::unique_ptr<std::byte[]> buffer_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
  size_t begin_ = 0;        // First byte not handed out.
  size_t end_ = 0;          // End of what was received.
  uint64_t stream_at_ = 0;  // Where in the stream buffer_[begin_] lies.
  std::vector<FdGroup> groups_;
};

// Collects frames and sends them with as few system calls as it can; a frame with fds goes alone.
class FrameWriter {
 public:
  // Appends a frame and returns its payload to be filled before the next call.
  template <typename Header>
  Bytes Append(const Header& header) {
    return AppendFrame(AsBytes(header), FrameSize(header));
  }
  // Appends a frame whose payload is `payload` and which carries `fds`.
  template <typename Header>
  void Append(const Header& header, ConstBytes payload, std::vector<UniqueFd> fds) {
    CHECK(FrameSize(header) == sizeof header + payload.size());
    AppendFrame(AsBytes(header), payload, std::move(fds));
  }
  // Appends bytes as they are: part of a frame, several, or nothing of the kind. `fds`, at most
  // kMaxPassedFds, go with the first of them.
  void AppendRaw(ConstBytes bytes, std::vector<UniqueFd> fds);

  // Sends what it can. False when the transport is full and something remains.
  Result<bool> Flush(Transport& transport);

  size_t pending() const { return buffer_.size() - sent_; }

 private:
  struct FdFrame {
    size_t begin;  // In buffer_.
    size_t end;
    std::vector<UniqueFd> fds;
  };

  Bytes AppendFrame(ConstBytes header, uint64_t size);
  void AppendFrame(ConstBytes header, ConstBytes payload, std::vector<UniqueFd> fds);
  void DropSent();
  Result<bool> SendUpTo(Transport& transport, size_t end, std::span<const int> fds);

  std::vector<std::byte> buffer_;
  size_t sent_ = 0;
  std::vector<FdFrame> fd_frames_;  // Not yet sent, in order.
};

}  // namespace farside
