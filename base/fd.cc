#include "base/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace farside {
namespace {

Result<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return FailWith(EINVAL, "the socket path is empty: name a file");
  if (path.size() >= sizeof address.sun_path) {
    return FailWith(ENAMETOOLONG, "socket path '{}' has {} bytes: a UNIX socket's may have {}",
                    path, path.size(), sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> UnixSocket(int type) {
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd) return FailWith(errno, "cannot make a UNIX socket: {}", ErrnoText(errno));
  return fd;
}

// Removes the socket file of a server that is gone. True if the path is free afterwards.
bool RemoveStaleSocket(const std::string& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return errno == ENOENT;
  if (!S_ISSOCK(status.st_mode)) return false;
  // In use: it answers, or would if it were asked later or by another type of socket.
  const auto connected = ConnectUnix(path, SOCK_STREAM | SOCK_NONBLOCK);
  if (connected || connected.error().code != ECONNREFUSED) return false;
  return unlink(path.c_str()) == 0;
}

}  // namespace

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
}

Result<UniqueFd> MakeMemfd(const char* name, uint64_t size) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return FailWith(errno, "cannot make memory file {}: {}", name, ErrnoText(errno));
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return FailWith(errno, "cannot give memory file {} {} bytes: {}", name, size, ErrnoText(errno));
  }
  return fd;
}

Result<UniqueFd> MakeEventfd() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return FailWith(errno, "cannot make an eventfd: {}", ErrnoText(errno));
  return fd;
}

void SignalEventfd(int fd) {
  const uint64_t one = 1;
  while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

uint64_t DrainEventfd(int fd) {
  uint64_t count = 0;
  const iovec into{&count, sizeof count};
  ssize_t got;
  // Non-blocking by itself: a peer that got the eventfd may have changed its flags, as QEMU does.
  do {
    got = preadv2(fd, &into, 1, -1, RWF_NOWAIT);
  } while (got < 0 && errno == EINTR);
  return got == sizeof count ? count : 0;
}

Result<std::pair<UniqueFd, UniqueFd>> MakeSocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return FailWith(errno, "cannot make a socket pair: {}", ErrnoText(errno));
  }
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

Result<void> SetNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  const bool done =
      flags >= 0 && ((flags & O_NONBLOCK) != 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
  if (!done) {
    return FailWith(errno, "cannot make fd {} non-blocking: {}", fd, ErrnoText(errno));
  }
  return {};
}

Result<UniqueFd> ListenUnix(const std::string& path, int type) {
  const auto address = UnixAddress(path);
  if (!address) return tl::unexpected(address.error());
  if (!RemoveStaleSocket(path)) {
    return FailWith(EADDRINUSE,
                    "cannot listen on {}: it is in use by another process or is no socket; "
                    "end that process or choose another path",
                    path);
  }
  auto fd = UnixSocket(type | SOCK_NONBLOCK);
  if (!fd) return fd;
  const auto* generic = reinterpret_cast<const sockaddr*>(&*address);
  if (bind(fd->get(), generic, sizeof *address) != 0 || listen(fd->get(), 16) != 0) {
    return FailWith(errno, "cannot listen on {}: {}", path, ErrnoText(errno));
  }
  return fd;
}

Result<UniqueFd> ConnectUnix(const std::string& path, int type) {
  const auto address = UnixAddress(path);
  if (!address) return tl::unexpected(address.error());
  auto fd = UnixSocket(type);
  if (!fd) return fd;
  if (connect(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return FailWith(errno, "cannot connect to {}: {}; is the server running?", path,
                    ErrnoText(errno));
  }
  return fd;
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    Unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Result<Mapping> Mapping::Map(int fd, uint64_t offset, uint64_t size, int prot) {
  void* data = mmap(nullptr, size, prot, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) {
    return FailWith(errno, "cannot map {} bytes at offset {:#x} of fd {}: {}", size, offset, fd,
                    ErrnoText(errno));
  }
  return Mapping(static_cast<std::byte*>(data), size);
}

void Mapping::Unmap() {
  if (data_ != nullptr) CHECK(munmap(data_, size_) == 0);
  data_ = nullptr;
}

}  // namespace farside
