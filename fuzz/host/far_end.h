// FarEnd: what is at the other end of a client's channel, in this thread or in one of its own.
#pragma once

#include <poll.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "base/fd.h"
#include "protocol/transport.h"

namespace farside::fuzz {

// The client's end of a new channel: memory with what runs the other end, or a socket.
struct ClientWire {
  std::unique_ptr<Transport> transport = nullptr;
  std::function<bool(int)> pump = {};
  UniqueFd socket = {};     // Instead of both above,
  uint64_t timeout_ns = 0;  // with a client that waits so long for a reply.
};

// Whose work it is.
class HostileEnd {
 public:
  virtual ~HostileEnd() = default;
  // Serves what has come and sends a bit more. False if there was nothing to do.
  virtual bool Step() = 0;
  // A new connection, in `pieces` of a few bytes or not; the client's end of it. What is queued
  // stays.
  virtual std::unique_ptr<MemoryTransport> Connect(bool pieces) = 0;
  virtual UniqueFd ConnectSocket(bool pieces) = 0;
  // What to watch when there is nothing to do; -1 where nothing is.
  using Watch = std::array<pollfd, 2>;
  virtual Watch watch() const = 0;
};

// A HostileEnd and how it runs: when the client's pump says so, or across a socket in a thread
// while its user lets it. The end, and all that its callbacks use, belong to the user while he
// holds it, and to whoever has locked mutex() else.
class FarEnd {
 public:
  FarEnd(HostileEnd& end, bool across_socket);
  ~FarEnd();

  // A new connection. `turn` is told of each of the pump's turns; `timeout_ns` is for sockets.
  // Held.
  ClientWire Connect(bool pieces, uint64_t timeout_ns, std::function<void()> turn);
  // As the pump does it. Not held.
  bool Step();
  // The end runs no more. Before it is disconnected.
  void Stop();
  bool across_socket() const { return across_socket_; }

  // The user is about to call the client; and he is back. Each may be called again in vain. Without
  // a thread they do the same.
  void LetGo();
  void Hold();
  std::mutex& mutex() { return mutex_; }

 private:
  void Run();

  HostileEnd& end_;
  const bool across_socket_;
  std::mutex mutex_;
  std::unique_lock<std::mutex> held_{mutex_};
  bool stop_ = false;
  UniqueFd wake_;
  std::thread thread_;
};

}  // namespace farside::fuzz
