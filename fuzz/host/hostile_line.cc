#include "fuzz/host/hostile_line.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace farside::fuzz {
namespace {

constexpr uint64_t kFileSize = 0x4000;  // Of the memory file that is passed.

}  // namespace

HostileLine::HostileLine(size_t piece)
    : piece_(piece), fd_(MakeMemfd("hostile", kFileSize).value()) {}

void HostileLine::Begin(std::unique_ptr<Transport> line, bool pieces) {
  Close();
  line_ = std::move(line);
  pieces_ = pieces;
}

std::unique_ptr<MemoryTransport> HostileLine::Connect(bool pieces) {
  auto [mine, clients] = MemoryTransport::MakePair();
  Begin(std::move(mine), pieces);
  client_end_ = clients.get();
  return std::move(clients);
}

UniqueFd HostileLine::ConnectSocket(bool pieces) {
  auto [mine, clients] = MakeSocketPair().value();
  if (pieces) {
    // The kernel takes no less than it can't do without.
    for (const int fd : {mine.get(), clients.get()}) {
      const int least = 1;
      CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least) == 0);
    }
  }
  Begin(SocketTransport::Create(std::move(mine)).value(), pieces);
  return std::move(clients);
}

void HostileLine::Close() {
  line_.reset();
  client_end_ = nullptr;
  out_.clear();
  reads_ = true;
  ended_ = full_ = false;
}

bool HostileLine::quiet() const {
  if (!connected()) return true;
  if (!sent()) return false;
  if (client_end_ != nullptr) return client_end_->pending() == 0;
  int out = 0;
  CHECK(ioctl(line_->fd(), SIOCOUTQ, &out) == 0);
  return out == 0 && nothing_waits();
}

bool HostileLine::nothing_waits() const {
  if (!across_socket() || !reads_ || ended_) return true;
  int in = 0;
  CHECK(ioctl(line_->fd(), SIOCINQ, &in) == 0);
  return in == 0;
}

pollfd HostileLine::watch() const {
  const bool reads = reads_ && !ended_;
  const bool writes = waits_for_room();
  return {.fd = across_socket() && (reads || writes) ? line_->fd() : -1,
          .events = static_cast<short>((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)),
          .revents = 0};
}

void HostileLine::Put(ConstBytes head, ConstBytes payload, size_t fds, UniqueFd own) {
  Piece piece{.bytes = {head.begin(), head.end()}, .fds = fds, .own = std::move(own)};
  piece.bytes.insert(piece.bytes.end(), payload.begin(), payload.end());
  out_.push_back(std::move(piece));
}

void HostileLine::SendSome() {
  while (!out_.empty() && connected()) {
    Piece& piece = out_.front();
    if (piece.hang_up) return Close();
    const size_t size = pieces_ ? std::min(piece_, piece.bytes.size()) : piece.bytes.size();
    std::vector<int> fds(piece.fds, fd_.get());
    if (piece.own) fds.insert(fds.begin(), piece.own.get());
    const ssize_t sent = line_->Send(ConstBytes(piece.bytes).first(size), fds);
    full_ = sent == -EAGAIN;
    if (full_) return;
    if (sent < 0) return out_.clear();  // The client is gone.
    piece.fds = 0;
    piece.own.reset();
    piece.bytes.erase(piece.bytes.begin(), piece.bytes.begin() + sent);
    if (piece.bytes.empty()) out_.pop_front();
    if (pieces_) return;
  }
}

}  // namespace farside::fuzz
