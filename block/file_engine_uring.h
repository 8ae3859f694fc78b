// The file engine of choice: an io_uring of its own, restricted to what it is for. io_uring passes
// by seccomp, so the ring itself must not be able to do more than read, write, sync and allocate.
#pragma once

#include <liburing.h>

#include <memory>

#include "block/file_engine.h"

namespace farside::block {

// A ring that may do READ, READV, WRITE, WRITEV, FSYNC and FALLOCATE on one file, which is its
// registered file 0, and nothing else: no other opcode, no other file, no further registration.
class RestrictedRing {
 public:
  // Fails where the host refuses io_uring or its restrictions.
  static Result<std::unique_ptr<RestrictedRing>> Create(int fd, unsigned entries);
  RestrictedRing(const RestrictedRing&) = delete;
  RestrictedRing& operator=(const RestrictedRing&) = delete;
  ~RestrictedRing() { io_uring_queue_exit(&ring_); }

  io_uring& get() { return ring_; }

 private:
  explicit RestrictedRing(const io_uring& ring) : ring_(ring) {}

  io_uring ring_;
};

Result<std::unique_ptr<FileEngine>> CreateUringEngine(int fd, EpollLoop& loop);

}  // namespace farside::block
