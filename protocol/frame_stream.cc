#include "protocol/frame_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace farside::vfio_user {

std::optional<Header> FrameReader::HeaderAt(size_t at) const {
  if (end_ - at < sizeof(Header)) return std::nullopt;
  Header header;
  std::memcpy(&header, buffer_.data() + at, sizeof header);
  return header;
}

void FrameReader::MakeRoom() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    return;
  }
  const auto header = HeaderAt(begin_);
  // Next has refused a size over the limit before we come here again.
  const size_t needed = header ? std::min(header->size, max_message_size_) : sizeof(Header);
  if (begin_ + needed <= buffer_.size() && end_ < buffer_.size()) return;
  std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  if (needed > buffer_.size() || end_ == buffer_.size()) {
    buffer_.resize(std::max(needed, 2 * end_));
  }
}

Result<FrameReader::Status> FrameReader::Fill(Transport& transport) {
  MakeRoom();
  std::vector<UniqueFd> fds;
  const ssize_t got = transport.Receive(Bytes(buffer_).subspan(end_), fds);
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

Result<void> FrameReader::AttachFds(std::vector<UniqueFd> fds) {
  size_t frame = begin_;
  while (const auto header = HeaderAt(frame)) {
    if (header->size < sizeof(Header)) break;  // Out of step; Next says so.
    const size_t next = frame + header->size;
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
  if (count > kMaxMessageFds) {
    return FailWith(EMSGSIZE, "a message came with {} fds; {} is the most", count, kMaxMessageFds);
  }
  return {};
}

std::optional<Header> FrameReader::Peek() const {
  const auto header = HeaderAt(begin_);
  if (!header || end_ - begin_ < header->size) return std::nullopt;
  return header;
}

Result<std::optional<Frame>> FrameReader::Next() {
  const auto header = HeaderAt(begin_);
  if (!header) return std::nullopt;
  if (const auto checked = CheckHeader(*header, max_message_size_); !checked) {
    return tl::unexpected(checked.error());
  }
  if (end_ - begin_ < header->size) return std::nullopt;
  Frame frame{.header = *header,
              .payload = ConstBytes(buffer_).subspan(begin_ + sizeof(Header),
                                                     header->size - sizeof(Header))};
  if (!groups_.empty() && groups_.front().frame_at == stream_at_) {
    frame.fds = std::move(groups_.front().fds);
    groups_.erase(groups_.begin());
  }
  begin_ += header->size;
  stream_at_ += header->size;
  return frame;
}

Bytes FrameWriter::Append(const Header& header) {
  const size_t at = buffer_.size();
  buffer_.resize(at + header.size);
  std::memcpy(buffer_.data() + at, &header, sizeof header);
  return Bytes(buffer_).subspan(at + sizeof header, header.size - sizeof header);
}

void FrameWriter::Append(const Header& header, ConstBytes payload, std::vector<UniqueFd> fds) {
  CHECK(header.size == sizeof header + payload.size());
  const size_t begin = buffer_.size();
  Copy(Append(header), payload);
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

}  // namespace farside::vfio_user
