// Transport: how the bytes and fds of a channel travel. A socket between processes, memory inside
// one (tests, in-process clients, fuzzing).
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"

namespace farside {

// The most fds that the kernel passes with one send (SCM_MAX_FD).
inline constexpr size_t kMaxPassedFds = 253;

// Moves bytes without blocking. Like a UNIX stream socket, and with its traps: a send may be taken
// in part, a receive may join or split what was sent, and one that returns fds ends after the send
// they came with.
class Transport {
 public:
  virtual ~Transport() = default;

  // Bytes received (fds are appended to `fds`), 0 at the end of the stream, or a negative errno;
  // -EAGAIN when there is nothing now, -EMFILE when this process had no room for the fds.
  virtual ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) = 0;

  // Bytes taken, or a negative errno; -EAGAIN when there is no room now. `fds`, at most
  // kMaxPassedFds, travel with the first byte and stay the caller's.
  virtual ssize_t Send(ConstBytes from, std::span<const int> fds) = 0;

  // What to watch for readiness, or -1 where nothing is to be watched.
  virtual int fd() const = 0;
};

// An AF_UNIX stream socket.
class SocketTransport final : public Transport {
 public:
  static Result<std::unique_ptr<SocketTransport>> Create(UniqueFd socket);
  // Hangs up, even while a process that is just being started still has a copy of the socket.
  ~SocketTransport() override;

  // From now on Receive waits for data or the end of the stream: saves a thread that has nothing
  // else to do the system call that waits. shutdown(2) of the socket ends the wait.
  void set_receive_waits(bool waits) { receive_flags_ = waits ? 0 : MSG_DONTWAIT; }

  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override;
  ssize_t Send(ConstBytes from, std::span<const int> fds) override;
  int fd() const override { return socket_.get(); }

 private:
  explicit SocketTransport(UniqueFd socket) : socket_(std::move(socket)) {}

  UniqueFd socket_;
  int receive_flags_ = MSG_DONTWAIT;
};

// Two ends in one thread; what one sends the other receives. Destroying an end ends the stream of
// the other.
class MemoryTransport final : public Transport {
 public:
  static std::pair<std::unique_ptr<MemoryTransport>, std::unique_ptr<MemoryTransport>> MakePair();
  ~MemoryTransport() override;

  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override;
  ssize_t Send(ConstBytes from, std::span<const int> fds) override;
  int fd() const override { return -1; }

  // Bytes that wait to be received.
  size_t pending() const;

 private:
  struct Chunk {
    std::vector<std::byte> bytes;
    size_t taken = 0;
    std::vector<UniqueFd> fds = {};
  };
  struct Queue {
    std::deque<Chunk> chunks;
    bool closed = false;
  };

  MemoryTransport(std::shared_ptr<Queue> in, std::shared_ptr<Queue> out)
      : in_(std::move(in)), out_(std::move(out)) {}

  std::shared_ptr<Queue> in_;
  std::shared_ptr<Queue> out_;
};

}  // namespace farside
