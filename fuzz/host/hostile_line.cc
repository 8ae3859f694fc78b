#include "fuzz/host/hostile_line.h"

#include <algorithm>
#include <utility>

namespace farside::fuzz {
namespace {

constexpr uint64_t kFileSize = 0x4000;  // Of the memory file that is passed.

}  // namespace

HostileLine::HostileLine(size_t piece)
    : piece_(piece), fd_(MakeMemfd("hostile", kFileSize).value()) {}

std::unique_ptr<MemoryTransport> HostileLine::Connect(bool pieces) {
  auto [mine, clients] = MemoryTransport::MakePair();
  line_ = std::move(mine);
  client_end_ = clients.get();
  pieces_ = pieces;
  out_.clear();
  return std::move(clients);
}

void HostileLine::Close() {
  line_.reset();
  client_end_ = nullptr;
  out_.clear();
}

void HostileLine::Put(ConstBytes head, ConstBytes payload, size_t fds) {
  Piece piece{.bytes = {head.begin(), head.end()}, .fds = fds};
  piece.bytes.insert(piece.bytes.end(), payload.begin(), payload.end());
  out_.push_back(std::move(piece));
}

void HostileLine::SendSome() {
  while (!out_.empty() && connected()) {
    Piece& piece = out_.front();
    if (piece.hang_up) {
      line_.reset();
      out_.clear();
      return;
    }
    const size_t size = pieces_ ? std::min(piece_, piece.bytes.size()) : piece.bytes.size();
    const std::vector<int> fds(piece.fds, fd_.get());
    line_->Send(ConstBytes(piece.bytes).first(size), fds);
    piece.fds = 0;
    piece.bytes.erase(piece.bytes.begin(), piece.bytes.begin() + static_cast<ptrdiff_t>(size));
    if (piece.bytes.empty()) out_.pop_front();
    if (pieces_) return;
  }
}

}  // namespace farside::fuzz
