// SocketPump: the server has a process of its own, and this end waits for what comes over a socket.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "fuzz/host/client.h"
#include "protocol/transport.h"

namespace farside::fuzz {

// A connection to the server that listens on `path`, or nothing if there is none in that time.
std::unique_ptr<Transport> ConnectTo(const std::string& path, std::chrono::milliseconds patience);

class SocketPump final : public Pump {
 public:
  // Where the client has made an orderly answer impossible, what may come unasked is waited for
  // this long.
  explicit SocketPump(std::chrono::microseconds stray = std::chrono::milliseconds(5));
  void Watch(const Client& client) { client_ = &client; }
  void set_fd(int fd) { fd_ = fd; }

  bool Step() override;
  bool far() const override { return true; }

 private:
  const std::chrono::microseconds stray_;
  const bool spins_;
  const Client* client_ = nullptr;
  int fd_ = -1;
};

}  // namespace farside::fuzz
