#include "protocol/frame_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/vfio_user_codec.h"

namespace farside {

template <typename Frame>
auto BasicFrameReader<Frame>::HeaderAt(size_t at) const -> std::optional<Header> {
  if (end_ - at < sizeof(Header)) return std::nullopt;
  Header header;
  std::memcpy(&header, buffer_.get() + at, sizeof header);
  return header;
}

template <typename Frame>
void BasicFrameReader<Frame>::MakeRoom() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    return;
  }
  const auto header = HeaderAt(begin_);
  // Next has refused a size over the limit before we come here again.
  const size_t needed =
      header ? std::min<uint64_t>(FrameSize(*header), max_message_size_) : sizeof(Header);
  if (begin_ + needed <= capacity_ && end_ < capacity_) return;
  const size_t kept = end_ - begin_;
  if (needed <= capacity_ && kept < capacity_) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, kept);
  } else {
    capacity_ = std::max(needed, 2 * kept);
    auto grown = std::make_unique_for_overwrite<std::byte[]>(capacity_);
    std::memcpy(grown.get(), buffer_.get() + begin_, kept);
    buffer_ = std::move(grown);
  }
  begin_ = 0;
  end_ = kept;
}

template <typename Frame>
Result<FillStatus> BasicFrameReader<Frame>::Fill(Transport& transport) {
  MakeRoom();
  std::vector<UniqueFd> fds;
  const ssize_t got = transport.Receive({buffer_.get() + end_, capacity_ - end_}, fds);
  if (got == -EAGAIN) return Status::kAgain;
  if (got == 0 && begin_ == end_) return Status::kEnd;
  if (got == 0) {
    return FailWith(EPIPE,
                    "the peer closed the channel in the middle of a message ({} bytes of it)",
                    end_ - begin_);
  }
  if (got < 0) {
    const int error = static_cast<int>(-got);
    return FailWith(error, "cannot receive: {}", ErrnoText(error));
  }
  end_ += static_cast<size_t>(got);
  if (!fds.empty()) {
    if (const auto attached = AttachFds(std::move(fds)); !attached) {
      return tl::unexpected(attached.error());
    }
  }
  return Status::kData;
}

template <typename Frame>
Result<void> BasicFrameReader<Frame>::AttachFds(std::vector<UniqueFd> fds) {
  size_t frame = begin_;
  while (const auto header = HeaderAt(frame)) {
    const uint64_t size = FrameSize(*header);
    if (size < sizeof(Header)) break;  // Out of step; Next says so.
    const size_t next = frame + size;
    if (next >= end_) break;
    frame = next;
  }
  const uint64_t frame_at = stream_at_ + (frame - begin_);
  if (!groups_.empty() && groups_.back().frame_at == frame_at) {
    std::ranges::move(fds, std::back_inserter(groups_.back().fds));
  } else {
    groups_.push_back({frame_at, std::move(fds)});
  }
  const size_t count = groups_.back().fds.size();
  if (count > kMaxFrameFds) {
    return FailWith(EMSGSIZE, "a message came with {} fds; {} is the most", count, kMaxFrameFds);
  }
  return {};
}

template <typename Frame>
auto BasicFrameReader<Frame>::Peek() const -> std::optional<Header> {
  const auto header = HeaderAt(begin_);
  if (!header || end_ - begin_ < FrameSize(*header)) return std::nullopt;
  return header;
}

template <typename Frame>
Result<std::optional<Frame>> BasicFrameReader<Frame>::Next() {
  const auto header = HeaderAt(begin_);
  if (!header) return std::nullopt;
  if (const auto checked = CheckHeader(*header, max_message_size_); !checked) {
    return tl::unexpected(checked.error());
  }
  const uint64_t size = FrameSize(*header);
  if (end_ - begin_ < size) return std::nullopt;
  Frame frame{.header = *header,
              .payload = {buffer_.get() + begin_ + sizeof(Header), size - sizeof(Header)}};
  if (!groups_.empty() && groups_.front().frame_at == stream_at_) {
    frame.fds = std::move(groups_.front().fds);
    groups_.erase(groups_.begin());
  }
  begin_ += size;
  stream_at_ += size;
  return frame;
}

template class BasicFrameReader<vfio_user::Frame>;
template class BasicFrameReader<mpqemu::Frame>;

Bytes FrameWriter::AppendFrame(ConstBytes header, uint64_t size) {
  const size_t at = buffer_.size();
  buffer_.resize(at + size);
  const Bytes frame = Bytes(buffer_).subspan(at);
  Copy(frame.first(header.size()), header);
  return frame.subspan(header.size());
}

void FrameWriter::AppendFrame(ConstBytes header, ConstBytes payload, std::vector<UniqueFd> fds) {
  const size_t begin = buffer_.size();
  Copy(AppendFrame(header, header.size() + payload.size()), payload);
  if (!fds.empty()) fd_frames_.push_back({begin, buffer_.size(), std::move(fds)});
}

void FrameWriter::AppendRaw(ConstBytes bytes, std::vector<UniqueFd> fds) {
  const size_t begin = buffer_.size();
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  if (!fds.empty()) fd_frames_.push_back({begin, buffer_.size(), std::move(fds)});
}

// A transport that never takes the last byte would else make the buffer grow for ever.
void FrameWriter::DropSent() {
  if (sent_ < buffer_.size() / 2) return;
  buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(sent_));
  for (FdFrame& frame : fd_frames_) {
    frame.begin -= std::min(frame.begin, sent_);
    frame.end -= sent_;
  }
  sent_ = 0;
}

Result<bool> FrameWriter::SendUpTo(Transport& transport, size_t end, std::span<const int> fds) {
  while (sent_ < end) {
    const ssize_t sent = transport.Send(ConstBytes(buffer_).subspan(sent_, end - sent_), fds);
    if (sent == -EAGAIN) return false;
    if (sent < 0) {
      const int error = static_cast<int>(-sent);
      return FailWith(error, "cannot send: {}", ErrnoText(error));
    }
    sent_ += static_cast<size_t>(sent);
    fds = {};
  }
  return true;
}

Result<bool> FrameWriter::Flush(Transport& transport) {
  while (sent_ < buffer_.size()) {
    std::array<int, kMaxPassedFds> fds;
    size_t fd_count = 0;
    size_t end = buffer_.size();
    if (!fd_frames_.empty()) {
      FdFrame& next = fd_frames_.front();
      end = sent_ < next.begin ? next.begin : next.end;
      if (sent_ == next.begin) {
        CHECK(next.fds.size() <= fds.size());
        for (const UniqueFd& fd : next.fds) fds[fd_count++] = fd.get();
      }
    }
    const auto sent = SendUpTo(transport, end, std::span(fds).first(fd_count));
    if (!sent) return sent;
    if (!fd_frames_.empty()) {
      FdFrame& next = fd_frames_.front();
      if (sent_ > next.begin) next.fds.clear();  // They went with the first byte.
      if (sent_ == next.end) fd_frames_.erase(fd_frames_.begin());
    }
    if (!*sent) {
      DropSent();
      return false;
    }
  }
  buffer_.clear();
  sent_ = 0;
  return true;
}

}  // namespace farside
