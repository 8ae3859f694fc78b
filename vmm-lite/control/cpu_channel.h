// The private protocol between the control process and the CPU process: JSON objects, and file
// descriptors with them, over an AF_UNIX SOCK_SEQPACKET socket.
//
// Control sends requests, each answered once, in any order:
//
//   {"execute": NAME, "id": N, "arguments": {...}}
//   {"return": {...}, "id": N}    or    {"error": {"desc": "..."}, "id": N}
//
// The CPU process sends events at any time: {"event": NAME, "data": {...}}.
//
// Requests, in the order of a start; "fd" and "fds" are indices into the message's descriptors:
//
//   start              {"memory": BYTES, "cpus": N, "append": STR, "reboot": BOOL,
//                       "root_ports": [ID...],
//                       "fds": {"kernel", "initrd", "bios", "serial_in", "serial_out",
//                       "listener"}}; of the fds only those that there are
//   device_add         {"id", "bus": "pci.0" or a root port's id,
//                       "protocol": "vfio-user" or "mpqemu", "posted": BOOL, "timeout_ms": N,
//                       "fd": 0, "expect_id": STR (where the device must have that name)}
//   cont               starts the vCPUs; before that none runs
//   stop, system_reset, system_powerdown, quit, query-status, query-pci
//   device_del         {"id"}
//
// Events: SHUTDOWN {"guest": BOOL, "reason": STR}, RESET, STOP, RESUME, DEVICE_DELETED {"device"},
// DEVICE_DEAD {"device", "reason"}. Last of all the process ends: with status 0 when the guest was
// shut down or quit was asked for, 1 on an error.
//
// Another control process takes over by connecting to "listener", a listening SOCK_SEQPACKET
// socket: from then on the CPU process serves that channel and closes the one before.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace farside::vmm {

struct Message {
  nlohmann::json body;  // An object.
  std::vector<UniqueFd> fds;
};

// One end of the channel, either one.
class CpuChannel {
 public:
  static constexpr size_t kMaxBytes = 64 << 10;  // Of one message.
  static constexpr size_t kMaxFds = 16;          // With one message.

  // A connected pair of sockets for a channel, close-on-exec.
  static Result<std::pair<UniqueFd, UniqueFd>> MakePair();

  explicit CpuChannel(UniqueFd socket) : socket_(std::move(socket)) {}

  // Sends duplicates of `fds` along. Never waits: a peer that does not read is an error (EAGAIN).
  Result<void> Send(const nlohmann::json& body, std::span<const int> fds = {});

  // The next message, or nothing at the end of the channel. Waits for one unless the socket is
  // non-blocking: then the error's code is EAGAIN. A message that is no JSON object, or too large
  // in bytes or descriptors, is an error with code EPROTO and is gone.
  Result<std::optional<Message>> Receive();

  int fd() const { return socket_.get(); }

 private:
  UniqueFd socket_;
};

}  // namespace farside::vmm
