// WireObserver: is told what a hostile client does and hears, in order: all that it takes to do it
// again elsewhere.
#pragma once

#include <cstdint>
#include <span>

#include "base/bytes.h"

namespace farside::fuzz {

class WireObserver {
 public:
  virtual ~WireObserver() = default;
  // A new connection; the guest's memory is zeroes.
  virtual void OnConnect() = 0;
  // `closed`: the server has closed it before.
  virtual void OnDisconnect(bool closed) = 0;
  // In one piece, with fds of the client's own.
  virtual void OnSend(ConstBytes bytes, std::span<const int> fds) = 0;
  virtual void OnReceive(ConstBytes header, ConstBytes payload) = 0;
  // By the guest itself, and all of it in its memory.
  virtual void OnGuestWrite(uint64_t iova, ConstBytes data) = 0;
  // A file that was sent changes its size.
  virtual void OnTruncate(int fd, uint64_t size) = 0;
};

}  // namespace farside::fuzz
