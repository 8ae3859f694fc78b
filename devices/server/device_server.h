// DeviceServer: what offers a device to one client at a time, whatever they speak.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "base/error.h"
#include "protocol/transport.h"

namespace farside {

class DeviceServer {
 public:
  virtual ~DeviceServer() = default;

  // Takes a connected client; refused with a sentence while another is served or the device is
  // still busy with what a dead client left.
  virtual Result<void> Accept(std::unique_ptr<Transport> transport) = 0;
  // Ends the connection: the client's memory and interrupts are gone.
  virtual void Disconnect() = 0;
  virtual bool connected() const = 0;
  // The last connection ended because the client broke the protocol.
  virtual bool client_failed() const = 0;

  // Called at the end of each connection, but for one that the server's own end cuts off.
  void set_on_disconnect(std::function<void()> call) { on_disconnect_ = std::move(call); }

 protected:
  void NotifyDisconnected() {
    if (on_disconnect_) on_disconnect_();
  }

 private:
  std::function<void()> on_disconnect_;
};

}  // namespace farside
