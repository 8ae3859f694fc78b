// Target: where a device of a comparison comes from, and comes from again when it died.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "protocol/device_client.h"

namespace farside::diff {

// A fresh device. Its client goes with it.
class Connection {
 public:
  virtual ~Connection() = default;
  virtual DeviceClient& client() = 0;
  // How the process behind it ended, if there is one: "exited with status 1: ...". Asked when the
  // client is not alive any more.
  virtual std::string Ending() = 0;
  // Ends it in good order: an Error if it does not end well, as after a sanitizer's report.
  virtual Result<void> Finish() = 0;
};

class Target {
 public:
  virtual ~Target() = default;

  // `handler` outlives the connection.
  virtual Result<std::unique_ptr<Connection>> Start(DmaHandler* handler) = 0;
  // It may end by itself at what a guest does, and is then started again: a fault that is known.
  // The end of another one is a difference.
  virtual bool may_die() const = 0;
  // Configuration space beyond this is not reached, in bytes.
  virtual uint32_t config_size() const { return 4096; }
};

// Spellings of --a and --b:
//   PROGRAM ARGS...  is started; %SOCKET% in ARGS is the vfio-user socket where it has to listen.
//                    Without it --socket-path=%SOCKET% is appended.
//   qemu:PROGRAM ARGS...  is started as QEMU's x-remote machine, with %FD% in ARGS its channel; it
//                    may end by itself.
//   socket:PATH      a vfio-user server that listens already, with a device that is just made.
// Words are split at blanks; '...' and "..." keep them. `bin_dir` is looked in first.
Result<std::unique_ptr<Target>> MakeTarget(const std::string& text, const std::string& bin_dir);

}  // namespace farside::diff
