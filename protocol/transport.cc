#include "protocol/transport.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace farside {
namespace {

void TakeFds(msghdr& message, std::vector<UniqueFd>& fds) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

Result<std::unique_ptr<SocketTransport>> SocketTransport::Create(UniqueFd socket) {
  int type = 0;
  socklen_t size = sizeof type;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return FailWith(ENOTSOCK, "fd {} is not a stream socket", socket.get());
  }
  return std::unique_ptr<SocketTransport>(new SocketTransport(std::move(socket)));
}

SocketTransport::~SocketTransport() { shutdown(socket_.get(), SHUT_RDWR); }

ssize_t SocketTransport::Receive(Bytes into, std::vector<UniqueFd>& fds) {
  // Room for all that a peer can send, so that none is dropped.
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxPassedFds * sizeof(int))> control;
  iovec iov{into.data(), into.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got;
  do {
    got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | receive_flags_);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return -errno;
  if (message.msg_controllen != 0) TakeFds(message, fds);
  // The kernel dropped fds: this process may not open more. Going on would give a frame without
  // its fds, which means something else.
  if ((message.msg_flags & MSG_CTRUNC) != 0) return -EMFILE;
  return got;
}

ssize_t SocketTransport::Send(ConstBytes from, std::span<const int> fds) {
  CHECK(fds.size() <= kMaxPassedFds);
  ssize_t sent;
  if (fds.empty()) {
    do {
      sent = send(socket_.get(), from.data(), from.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
  }
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxPassedFds * sizeof(int))> control;
  iovec iov{const_cast<std::byte*>(from.data()), from.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  do {
    sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

std::pair<std::unique_ptr<MemoryTransport>, std::unique_ptr<MemoryTransport>>
MemoryTransport::MakePair() {
  auto one = std::make_shared<Queue>();
  auto other = std::make_shared<Queue>();
  std::unique_ptr<MemoryTransport> first(new MemoryTransport(one, other));
  std::unique_ptr<MemoryTransport> second(new MemoryTransport(other, one));
  return {std::move(first), std::move(second)};
}

MemoryTransport::~MemoryTransport() {
  out_->closed = true;
  in_->closed = true;
}

ssize_t MemoryTransport::Receive(Bytes into, std::vector<UniqueFd>& fds) {
  size_t got = 0;
  while (got < into.size() && !in_->chunks.empty()) {
    Chunk& chunk = in_->chunks.front();
    const bool has_fds = !chunk.fds.empty();
    std::ranges::move(chunk.fds, std::back_inserter(fds));
    chunk.fds.clear();
    const size_t size = std::min(into.size() - got, chunk.bytes.size() - chunk.taken);
    Copy(into.subspan(got, size), ConstBytes(chunk.bytes).subspan(chunk.taken, size));
    got += size;
    chunk.taken += size;
    if (chunk.taken == chunk.bytes.size()) in_->chunks.pop_front();
    if (has_fds) break;
  }
  if (got != 0) return static_cast<ssize_t>(got);
  return in_->closed ? 0 : -EAGAIN;
}

ssize_t MemoryTransport::Send(ConstBytes from, std::span<const int> fds) {
  if (out_->closed) return -EPIPE;
  Chunk chunk{.bytes{from.begin(), from.end()}};
  for (const int fd : fds) {
    chunk.fds.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!chunk.fds.back()) return -EBADF;
  }
  out_->chunks.push_back(std::move(chunk));
  return static_cast<ssize_t>(from.size());
}

size_t MemoryTransport::pending() const {
  size_t total = 0;
  for (const Chunk& chunk : in_->chunks) total += chunk.bytes.size() - chunk.taken;
  return total;
}

}  // namespace farside
