#include "process/device_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/log.h"
#include "base/options.h"
#include "base/version.h"
#include "block/drivers.h"
#include "devices/server/mpqemu_server.h"
#include "devices/server/sigbus.h"
#include "protocol/trace/trace_writer.h"

namespace farside {
namespace {

bool IsListening(int fd) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0;
}

// A duplicate of a descriptor that the process was started with, which must be a socket.
Result<UniqueFd> TakeInherited(int fd, std::string_view option) {
  int type = 0;
  socklen_t size = sizeof type;
  if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return Fail("{}: descriptor {} is no stream socket: start the process with an open one", option,
                fd);
  }
  UniqueFd taken(fd);
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
    return FailWith(errno, "{}: descriptor {}: {}", option, fd, ErrnoText(errno));
  }
  return taken;
}

// An option as far as it is text; who acts on it says what is wrong where it is not.
std::string TextOption(const nlohmann::json& options, std::string_view key,
                       std::string_view fallback) {
  return OptionReader("", options).String(key, fallback);
}

}  // namespace

// Stops the loop when a descriptor says so: a signal, or the end of a channel.
class DeviceProcess::Stopper final : public FdWatcher {
 public:
  Stopper(EpollLoop& loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}

  Result<void> Start() { return watch_.Start(loop_, fd_.get(), EPOLLIN, *this); }

  void OnReady(uint32_t) override {
    std::array<char, 4096> discarded;
    const ssize_t got = read(fd_.get(), discarded.data(), discarded.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    // A signal always stops; a channel does at its end.
    if (got > 0 && !stops_on_data_) return;
    watch_.Stop();
    loop_.Stop();
  }

  void set_stops_on_data() { stops_on_data_ = true; }

 private:
  EpollLoop& loop_;
  UniqueFd fd_;
  FdWatch watch_;
  bool stops_on_data_ = false;
};

DeviceProcess::DeviceProcess(EpollLoop& loop, std::span<const Model* const> models)
    : loop_(loop), models_(models) {}

DeviceProcess::~DeviceProcess() = default;

Result<void> DeviceProcess::Build(const CommandLine& line) {
  // First: who sees a socket may end the process, and threads of back-ends inherit what is blocked.
  if (auto watched = WatchSignals(); !watched) return watched;
  for (const auto& options : line.blockdevs) {
    if (auto added = backends_.graph().Add(options, loop_); !added) return added;
  }
  if (line.trace) {
    if (auto opened = OpenTrace(line); !opened) return opened;
  }
  for (const auto& options : line.devices) {
    if (auto added = AddDevice(options); !added) return added;
  }
  for (const auto& options : line.objects) {
    if (auto added = AddServer(options); !added) return added;
  }
  if (line.socket_path) {
    auto unit = OnlyUnit("--socket-path");
    if (!unit) return tl::unexpected(unit.error());
    if ((*unit)->server) return Fail("device {} is served twice", Quote((*unit)->slot.id()));
    if (auto served = ServePath(**unit, *line.socket_path); !served) return served;
  }
  if (line.fd) {
    auto unit = OnlyUnit("--fd");
    if (!unit) return tl::unexpected(unit.error());
    if ((*unit)->server) return Fail("device {} is served twice", Quote((*unit)->slot.id()));
    if (auto served = ServeFd(**unit, *line.fd, "--fd"); !served) return served;
  }
  if (line.primary_fd) {
    if (auto watched = WatchPrimary(*line.primary_fd); !watched) return watched;
  }
  const bool served =
      std::ranges::any_of(units_, [](const Unit& unit) { return unit.server != nullptr; });
  if (!served) {
    return Fail(
        "no device is served: give a -device, and an -object x-vfio-user-server or "
        "x-remote-object, or --socket-path, for it");
  }
  return {};
}

DeviceProcess::Unit* DeviceProcess::FindUnit(std::string_view id) {
  const auto found = std::ranges::find(units_, id, [](const Unit& unit) { return unit.slot.id(); });
  return found == units_.end() ? nullptr : &*found;
}

Result<DeviceProcess::Unit*> DeviceProcess::OnlyUnit(std::string_view option) {
  if (units_.size() == 1) return &units_.front();
  return Fail(
      "{} serves the only device, but there are {}: use one -object x-vfio-user-server for "
      "each",
      option, units_.size());
}

Result<void> DeviceProcess::AddDevice(const nlohmann::json& options) {
  OptionReader reader("-device", options);
  const std::string driver = reader.RequiredString("driver");
  const std::string id = reader.String("id", driver + std::to_string(units_.size()));
  const auto model = FindModel(models_, driver);
  if (!model) return tl::unexpected(model.error());
  if ((*model)->attach != nullptr) return AttachDevice(**model, id, options);
  if (FindUnit(id) != nullptr) return Fail("-device: two devices have the id {}", Quote(id));
  Unit& unit = units_.emplace_back(loop_, id);
  OptionReader properties("device " + Quote(id), options);
  properties.RequiredString("driver");
  properties.String("id", "");
  if (tap_file_) {
    const auto index = static_cast<uint32_t>(units_.size() - 1);
    unit.tap = std::make_unique<DeviceTap>(*tap_file_, index, unit.slot.env());
  }
  auto device =
      (*model)->create(unit.tap ? unit.tap->env() : unit.slot.env(), properties, backends_);
  if (!device) {
    units_.pop_back();
    return tl::unexpected(device.error());
  }
  unit.slot.Plug(unit.tap ? unit.tap->Wrap(std::move(*device)) : std::move(*device));
  return {};
}

Result<void> DeviceProcess::AttachDevice(const Model& model, const std::string& id,
                                         const nlohmann::json& options) {
  OptionReader properties("device " + Quote(id), options);
  properties.RequiredString("driver");
  properties.String("id", "");
  return model.attach(loop_, properties, backends_);
}

Result<void> DeviceProcess::OpenTrace(const CommandLine& line) {
  trace::TraceInfo info{.program = fmt::format("disk-proc {}", kVersion),
                        .args = DeviceArguments(line),
                        .devices = {}};
  for (const auto& options : line.devices) {
    const std::string model = TextOption(options, "driver", "");
    const auto found = FindModel(models_, model);
    if (found && (*found)->attach != nullptr) continue;
    const std::string id = TextOption(options, "id", model + std::to_string(info.devices.size()));
    info.devices.push_back({id, model});
  }
  auto writer = trace::TraceWriter::Create(*line.trace, info);
  if (!writer) return tl::unexpected(writer.error());
  tap_file_ = std::make_unique<TapFile>(std::move(*writer), loop_, loop_.clock());
  return {};
}

Result<void> DeviceProcess::AddServer(const nlohmann::json& options) {
  OptionReader reader("-object", options);
  const std::string type = reader.RequiredString("qom-type");
  reader.RequiredString("id");
  if (type == "x-vfio-user-server") return AddVfioUserServer(reader);
  if (type == "x-remote-object") return AddMpqemuServer(reader);
  return Fail("-object: there is no type {}; there are x-vfio-user-server and x-remote-object",
              Quote(type));
}

Result<void> DeviceProcess::AddVfioUserServer(OptionReader& reader) {
  const std::string device = reader.RequiredString("device");
  // QEMU's socket address stands beside the other options or below "socket".
  const std::string prefix = reader.Value("socket") != nullptr ? "socket." : "";
  enum class Address { kUnix, kFd };
  static constexpr OptionWord<Address> kAddresses[] = {{"unix", Address::kUnix},
                                                       {"fd", Address::kFd}};
  const Address address = reader.Choice(prefix + "type", kAddresses, Address::kUnix);
  const bool by_path = address == Address::kUnix;
  const std::string path = by_path ? reader.RequiredString(prefix + "path") : "";
  const uint64_t fd = by_path ? 0 : reader.Number(prefix + "str", UINT64_MAX, 0, INT32_MAX);
  if (auto finished = reader.Finish(); !finished) return finished;
  auto unit = FindUnserved(device);
  if (!unit) return tl::unexpected(unit.error());
  return by_path ? ServePath(**unit, path)
                 : ServeFd(**unit, static_cast<int>(fd), "-object x-vfio-user-server, str");
}

Result<void> DeviceProcess::AddMpqemuServer(OptionReader& reader) {
  const std::string device = reader.RequiredString("devid");
  const uint64_t fd = reader.Number("fd", UINT64_MAX, 0, INT32_MAX);
  if (auto finished = reader.Finish(); !finished) return finished;
  auto unit = FindUnserved(device);
  if (!unit) return tl::unexpected(unit.error());
  auto socket = TakeInherited(static_cast<int>(fd), "-object x-remote-object, fd");
  if (!socket) return tl::unexpected(socket.error());
  return ServeClient(**unit, std::move(*socket), std::make_unique<MpqemuServer>((*unit)->slot));
}

Result<DeviceProcess::Unit*> DeviceProcess::FindUnserved(const std::string& id) {
  Unit* unit = FindUnit(id);
  if (unit == nullptr) return Fail("-object: there is no -device with id {}", Quote(id));
  if (unit->server) return Fail("device {} is served twice", Quote(id));
  return unit;
}

Result<void> DeviceProcess::ServePath(Unit& unit, std::string path) {
  auto server = std::make_unique<VfioUserServer>(unit.slot);
  auto socket = ListenUnix(path);
  if (!socket) return tl::unexpected(socket.error());
  auto listener =
      VfioUserListener::Create(loop_, *server, unit.slot.id(), std::move(*socket), std::move(path));
  if (!listener) return tl::unexpected(listener.error());
  unit.server = std::move(server);
  unit.listener = std::move(*listener);
  return {};
}

Result<void> DeviceProcess::ServeFd(Unit& unit, int number, std::string_view option) {
  auto socket = TakeInherited(number, option);
  if (!socket) return tl::unexpected(socket.error());
  auto server = std::make_unique<VfioUserServer>(unit.slot);
  if (!IsListening(number)) return ServeClient(unit, std::move(*socket), std::move(server));
  auto listener = VfioUserListener::Create(loop_, *server, unit.slot.id(), std::move(*socket), "");
  if (!listener) return tl::unexpected(listener.error());
  unit.listener = std::move(*listener);
  unit.server = std::move(server);
  return {};
}

Result<void> DeviceProcess::ServeClient(Unit& unit, UniqueFd socket,
                                        std::unique_ptr<DeviceServer> server) {
  auto transport = SocketTransport::Create(std::move(socket));
  if (!transport) return tl::unexpected(transport.error());
  if (auto accepted = server->Accept(std::move(*transport)); !accepted) return accepted;
  // Nobody can come after this client: when the last such one has gone, so does the process.
  server->set_on_disconnect([this, served = server.get()] {
    client_failed_ |= served->client_failed();
    const bool more = std::ranges::any_of(units_, [](const Unit& other) {
      return other.listener || (other.server && other.server->connected());
    });
    if (!more) loop_.Stop();
  });
  unit.server = std::move(server);
  return {};
}

Result<void> DeviceProcess::WatchPrimary(int number) {
  auto socket = TakeInherited(number, "the primary channel");
  if (!socket) return tl::unexpected(socket.error());
  if (auto set = SetNonBlocking(socket->get()); !set) return set;
  auto stopper = std::make_unique<Stopper>(loop_, std::move(*socket));
  auto started = stopper->Start();
  stoppers_.push_back(std::move(stopper));
  return started;
}

Result<void> DeviceProcess::WatchSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd signal_fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd) return FailWith(errno, "cannot wait for signals: {}", ErrnoText(errno));
  auto stopper = std::make_unique<Stopper>(loop_, std::move(signal_fd));
  stopper->set_stops_on_data();
  auto started = stopper->Start();
  stoppers_.push_back(std::move(stopper));
  return started;
}

int DeviceProcess::Run() {
  loop_.Run();

  int status = -1;
  scope_.Spawn(ShutDown(&status));
  const uint64_t deadline = loop_.clock().now_ns() + kShutdownTimeoutNs;
  while (status < 0 && loop_.clock().now_ns() < deadline) loop_.RunOnce(100);
  if (status >= 0) return status;
  LogError("shutdown", "I/O in flight does not end within {} s: leaving without it",
           kShutdownTimeoutNs / 1'000'000'000);
  std::fflush(nullptr);
  _exit(1);  // Tasks wait for I/O that will not end: their frames cannot be destroyed.
}

Task<void> DeviceProcess::ShutDown(int* status) {
  // Commands in flight still reach their client.
  for (Unit& unit : units_) {
    unit.listener.reset();
    co_await unit.slot.device().Drain();
  }
  for (Unit& unit : units_) {
    if (unit.server) unit.server->Disconnect();
    unit.slot.device().Reset(ResetKind::kShutdown);
    co_await unit.slot.device().Drain();
  }
  const block::IoStatus flushed = co_await backends_.graph().FlushAll();
  if (!flushed.ok()) {
    LogError("shutdown", "a disk could not be flushed: {}", ErrnoText(flushed.error));
  }
  *status = flushed.ok() && !client_failed_ ? 0 : 1;
  if (!tap_file_) co_return;
  if (const auto finished = tap_file_->Finish(); !finished) {
    LogError("trace", "{}", finished.error().message);
    *status = 1;
  }
}

std::optional<std::string> HelpAnswer(const CommandLine& line,
                                      std::span<const Model* const> models) {
  const auto asked = [](const nlohmann::json& options) {
    return options.contains("help") || TextOption(options, "driver", "") == "help";
  };
  for (const auto& options : line.blockdevs) {
    if (!options.is_object() || !asked(options)) continue;
    const std::string driver = TextOption(options, "driver", "");
    return block::DriverHelp(driver == "help" ? "" : driver);
  }
  for (const auto& options : line.devices) {
    if (!options.is_object() || !asked(options)) continue;
    const std::string driver = TextOption(options, "driver", "");
    std::string text;
    for (const Model* model : models) {
      if (driver == "help") {
        text += fmt::format("{:<12} {}\n", model->name, model->help);
      } else if (driver == model->name) {
        text += fmt::format("{}: {}\n", model->name, model->help);
        for (const PropertyHelp& property : model->properties) {
          text += fmt::format("  {:<20} {}\n", property.name, property.help);
        }
      }
    }
    return text;
  }
  return std::nullopt;
}

int DeviceProcessMain(const std::string& name, std::span<const Model* const> models, int argc,
                      const char* const* argv) {
  const auto fail = [&](const Error& error) {
    fmt::print(stderr, "{}: {}\n", name, error.message);
    return 1;
  };
  const auto line = ParseCommandLine(argc, argv);
  if (!line) return fail(line.error());
  if (line->help) {
    fmt::print("{}", CommandLineHelp(name));
    return 0;
  }
  if (line->version) {
    fmt::print("{} {}\n", name, kVersion);
    return 0;
  }
  if (const auto answer = HelpAnswer(*line, models)) {
    fmt::print("{}", *answer);
    return 0;
  }

  if (const auto installed = InstallSigbusHandler(); !installed) return fail(installed.error());
  const MonotonicClock clock;
  auto loop = EpollLoop::Create(clock);
  if (!loop) return fail(loop.error());
  (*loop)->set_spin_ns(line->spin_us * 1000);
  DeviceProcess process(**loop, models);
  if (const auto built = process.Build(*line); !built) return fail(built.error());
  return process.Run();
}

}  // namespace farside
