// File descriptors with owners.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"

namespace farside {

// Owns a file descriptor and closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// A sealable memory file of `size` bytes, close-on-exec.
Result<UniqueFd> MakeMemfd(const char* name, uint64_t size);

// A non-blocking, close-on-exec eventfd that counts from 0.
Result<UniqueFd> MakeEventfd();

// Adds 1 to an eventfd. A counter that is full already means the same to its reader: not an error.
void SignalEventfd(int fd);

// Reads and zeroes an eventfd; 0 when nothing was signalled.
uint64_t DrainEventfd(int fd);

// A connected pair of AF_UNIX stream sockets, close-on-exec and blocking.
Result<std::pair<UniqueFd, UniqueFd>> MakeSocketPair();

Result<void> SetNonBlocking(int fd);

// Listens on the AF_UNIX socket `path` of a type like SOCK_STREAM, non-blocking. A socket file that
// nobody listens on any more is replaced; one that is in use, or a file of another kind, is an
// error.
Result<UniqueFd> ListenUnix(const std::string& path, int type = SOCK_STREAM);

// Connects to the AF_UNIX socket `path`. `type` may have SOCK_NONBLOCK besides: then a server that
// does not accept is an error (EAGAIN), not a wait, and the socket returned is non-blocking.
Result<UniqueFd> ConnectUnix(const std::string& path, int type = SOCK_STREAM);

// A shared or private mapping, unmapped by its owner.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { Unmap(); }

  // Maps `size` bytes of `fd` from `offset`, shared. `prot` is PROT_READ and/or PROT_WRITE.
  static Result<Mapping> Map(int fd, uint64_t offset, uint64_t size, int prot);

  std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  Mapping(std::byte* data, uint64_t size) : data_(data), size_(size) {}
  void Unmap();

  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace farside
