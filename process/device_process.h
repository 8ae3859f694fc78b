// DeviceProcess: what a process of any device class does between its command line and its end.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/epoll_loop.h"
#include "devices/server/device_tap.h"
#include "devices/server/slot.h"
#include "devices/server/vfio_user_server.h"
#include "process/command_line.h"
#include "process/process_backends.h"

namespace farside {

class OptionReader;

// The devices of one process, their back-ends and their servers, on one loop.
class DeviceProcess final {
 public:
  // A drain at the end that takes longer than this is given up, and the process fails.
  static constexpr uint64_t kShutdownTimeoutNs = 10'000'000'000;

  // `models` are what -device can make.
  DeviceProcess(EpollLoop& loop, std::span<const Model* const> models);
  ~DeviceProcess();

  // Opens back-ends, then devices, then servers, as the command line has them. From here on SIGTERM
  // and SIGINT are blocked, and wait for Run.
  Result<void> Build(const CommandLine& line);

  // Serves until SIGTERM or SIGINT, or until the primary channel or the only inherited client is
  // gone; then drains, flushes and gives the exit status: 0, or 1 when something could not be
  // flushed in time, or an inherited client broke its protocol.
  int Run();

 private:
  class Stopper;
  // A device with the server that offers it, if one does.
  struct Unit {
    Unit(EpollLoop& loop, std::string id) : slot(loop, std::move(id)) {}

    std::unique_ptr<DeviceTap> tap;
    Slot slot;
    std::unique_ptr<DeviceServer> server;
    std::unique_ptr<VfioUserListener> listener;
  };

  Result<void> OpenTrace(const CommandLine& line);
  Result<void> AddDevice(const nlohmann::json& options);
  // A device on the bus of another.
  Result<void> AttachDevice(const Model& model, const std::string& id,
                            const nlohmann::json& options);
  Result<void> AddServer(const nlohmann::json& options);
  Result<void> AddVfioUserServer(OptionReader& reader);
  Result<void> AddMpqemuServer(OptionReader& reader);
  Result<void> ServePath(Unit& unit, std::string path);
  Result<void> ServeFd(Unit& unit, int fd, std::string_view option);
  // By the socket of a client that is there already.
  Result<void> ServeClient(Unit& unit, UniqueFd socket, std::unique_ptr<DeviceServer> server);
  Result<Unit*> FindUnserved(const std::string& id);
  Result<Unit*> OnlyUnit(std::string_view option);
  Unit* FindUnit(std::string_view id);
  Result<void> WatchPrimary(int fd);
  Result<void> WatchSignals();

  Task<void> ShutDown(int* status);

  EpollLoop& loop_;
  std::span<const Model* const> models_;
  ProcessBackends backends_;
  std::unique_ptr<TapFile> tap_file_;
  std::list<Unit> units_;
  std::vector<std::unique_ptr<Stopper>> stoppers_;
  bool client_failed_ = false;  // One that came with the process broke its protocol.
  TaskScope scope_;
};

// The answer to -device help, to -device MODEL,help and to their like for -blockdev; nothing if
// none was asked for.
std::optional<std::string> HelpAnswer(const CommandLine& line,
                                      std::span<const Model* const> models);

// "disk-proc": everything main does. `help` and `version` are answered here.
int DeviceProcessMain(const std::string& name, std::span<const Model* const> models, int argc,
                      const char* const* argv);

}  // namespace farside
