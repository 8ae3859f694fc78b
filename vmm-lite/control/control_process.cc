#include "vmm-lite/control/control_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "base/version.h"
#include "vmm-lite/control/control_sandbox.h"

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36's has no C linkage of its own.
}

namespace farside::vmm {
namespace {

using nlohmann::json;

constexpr std::string_view kWho = "control";

// The exit status that goes with the sentence.
int Complain(const Error& error) {
  fmt::print(stderr, "vmm-lite: {}\n", error.message);
  return 1;
}

Result<UniqueFd> OpenImage(std::string_view option, const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    return FailWith(errno, "-{} {}: {}; name a file that can be read", option, path,
                    ErrnoText(errno));
  }
  struct stat status {};
  if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    return Fail("-{} {}: empty, or no regular file; name an image", option, path);
  }
  return fd;
}

Result<UniqueFd> OpenOutput(std::string_view option, const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (fd) return fd;
  return FailWith(errno, "-{} {}: {}; name a file that can be written", option, path,
                  ErrnoText(errno));
}

// Waits for the one client of a console socket.
Result<UniqueFd> AcceptOne(const std::string& path) {
  auto listener = ListenUnix(path);
  if (!listener) return listener;
  const int flags = fcntl(listener->get(), F_GETFL);
  fcntl(listener->get(), F_SETFL, flags & ~O_NONBLOCK);
  LogInfo(kWho, "waiting for a client of -serial {}", path);
  UniqueFd client(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
  const int error = errno;
  unlink(path.c_str());
  if (client) return client;
  return FailWith(error, "-serial unix:{}: {}", path, ErrnoText(error));
}

// The descriptors that go along with "start", and "fds": what they are.
struct StartFds {
  void Add(const char* name, UniqueFd fd) {
    Name(name, fd.get());
    owned.push_back(std::move(fd));
  }
  void Name(const char* name, int fd) {
    names[name] = numbers.size();
    numbers.push_back(fd);
  }

  json names = json::object();
  std::vector<int> numbers;
  std::vector<UniqueFd> owned;
};

Result<void> AddSerial(const SerialOptions& serial, StartFds* fds) {
  using Kind = SerialOptions::Kind;
  if (serial.kind == Kind::kNone) return {};
  if (serial.kind == Kind::kStdio) {
    fds->Name("serial_in", STDIN_FILENO);
    fds->Name("serial_out", STDOUT_FILENO);
    return {};
  }
  auto fd = serial.kind == Kind::kFile      ? OpenOutput("serial file:", serial.path)
            : serial.kind == Kind::kConnect ? ConnectUnix(serial.path)
                                            : AcceptOne(serial.path);
  if (!fd) return tl::unexpected(fd.error());
  if (serial.kind != Kind::kFile) fds->Name("serial_in", fd->get());
  fds->Add("serial_out", std::move(*fd));
  return {};
}

Result<StartFds> OpenStartFds(const ControlOptions& options) {
  StartFds fds;
  for (const auto& [name, path] :
       {std::pair("kernel", &options.kernel), std::pair("initrd", &options.initrd),
        std::pair("bios", &options.bios)}) {
    if (path->empty()) continue;
    auto fd = OpenImage(name, *path);
    if (!fd) return tl::unexpected(fd.error());
    fds.Add(name, std::move(*fd));
  }
  if (!options.control_path.empty()) {
    auto fd = ListenUnix(options.control_path, SOCK_SEQPACKET);
    if (!fd) return tl::unexpected(fd.error());
    fds.Add("listener", std::move(*fd));
  }
  if (auto ok = AddSerial(options.serial, &fds); !ok) return tl::unexpected(ok.error());
  return fds;
}

// Takes over an inherited socket.
Result<UniqueFd> TakeInherited(const DeviceOptions& device) {
  int type = 0;
  socklen_t size = sizeof type;
  const int fd = device.socket_fd;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
    return Fail("-device {}: descriptor {} is no stream socket: start vmm-lite with an open one",
                device.id, fd);
  }
  return UniqueFd(fd);
}

}  // namespace

ControlProcess::ControlProcess(EpollLoop& loop)
    : loop_(loop),
      cpu_(loop, *this),
      processes_(loop,
                 [this](const std::string& id, pid_t pid, const ChildEnd& end) {
                   LogInfo(kWho, "process {} (pid {}) {}", id, pid, end.Text());
                   json data{{"id", id}, {"pid", pid}};
                   data[end.signalled ? "signal" : "status"] = end.code;
                   if (qmp_) qmp_->SendEvent("PROCESS_EXITED", data);
                 }),
      kill_timer_(loop, [this] { KillCpuProcess(); }),
      take_over_timer_(loop, [this] {
        LogInfo(kWho, "another control process has taken over");
        End(0);
      }) {}

// A machine that was not started to the end would wait for ever.
ControlProcess::~ControlProcess() {
  if (!started_ && cpu_process_.pidfd) {
    pidfd_send_signal(cpu_process_.pidfd.get(), SIGKILL, nullptr, 0);
  }
}

Result<void> ControlProcess::Begin(ControlOptions options) {
  options_ = std::move(options);
  // What this process was started with is no other's: children get what they are given.
  close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  if (auto ok = WatchSignals(); !ok) return ok;
  if (!options_.qmp_path.empty()) {
    auto server = QmpServer::Listen(loop_, *this, options_.qmp_path);
    if (!server) return tl::unexpected(server.error());
    qmp_ = std::move(*server);
  }
  if (options_.attach_path.empty()) return StartMachine();
  auto socket = ConnectUnix(options_.attach_path, SOCK_SEQPACKET);
  if (!socket) return tl::unexpected(socket.error());
  started_ = true;
  if (auto ok = cpu_.Connect(std::move(*socket)); !ok) return ok;
  return InstallControlSandbox();
}

Result<void> ControlProcess::WatchSignals() {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signal_fd_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  return signals_.Start(loop_, signal_fd_.get());
}

Result<void> ControlProcess::StartMachine() {
  auto fds = OpenStartFds(options_);
  if (!fds) return tl::unexpected(fds.error());
  if (auto ok = StartCpuProcess(); !ok) return ok;
  json ports = json::array();
  for (const DeviceOptions& device : options_.devices) {
    if (device.root_port) ports.push_back(device.id);
  }
  std::erase_if(options_.devices, [](const auto& device) { return device.root_port; });
  const json arguments{{"memory", options_.memory}, {"cpus", options_.cpus},
                       {"append", options_.append}, {"root_ports", std::move(ports)},
                       {"fds", fds->names},         {"reboot", options_.reboot}};
  cpu_.Request(
      "start", arguments, fds->numbers,
      [this](const Result<json>& reply) { OnStartReply(reply, &ControlProcess::AddNextDevice); },
      kStartTimeoutNs);
  // The CPU process was started without the filter, which it could not live with.
  if (auto ok = InstallControlSandbox(); !ok) return ok;
  if (auto ok = StartProcesses(); !ok) return ok;
  return ConnectDevices();
}

Result<void> ControlProcess::StartCpuProcess() {
  auto sockets = CpuChannel::MakePair();
  if (!sockets) return tl::unexpected(sockets.error());
  const int theirs = sockets->second.get();
  auto child = StartedChild::Start("/proc/self/exe",
                                   {"vmm-lite", "-cpu-process", std::to_string(theirs)}, {theirs});
  if (!child) return tl::unexpected(child.error());
  cpu_process_ = std::move(*child);
  if (auto ok = cpu_end_.Start(loop_, cpu_process_.pidfd.get()); !ok) return ok;
  return cpu_.Connect(std::move(sockets->first));
}

Result<void> ControlProcess::StartProcesses() {
  for (const ProcessOptions& process : options_.processes) {
    std::vector<ChannelWish> wishes;
    for (const DeviceOptions& device : options_.devices) {
      if (device.process == process.id) wishes.push_back({device.rid, device.protocol});
    }
    if (const auto added = processes_.Add(process, wishes); !added) {
      return tl::unexpected(added.error());
    }
  }
  return {};
}

Result<void> ControlProcess::ConnectDevices() {
  for (const DeviceOptions& device : options_.devices) {
    auto socket = device.socket_fd >= 0 ? TakeInherited(device) : DeviceSocket(device);
    if (!socket) return tl::unexpected(socket.error());
    device_sockets_.push_back(std::move(*socket));
  }
  return {};
}

Result<UniqueFd> ControlProcess::DeviceSocket(const DeviceOptions& device) {
  if (!device.process.empty()) {
    return processes_.TakeChannel(device.process, {device.rid, device.protocol});
  }
  // Non-blocking, so that a device that does not accept cannot stop this process; what is sent is
  // blocking, as inherited sockets and those of pairs are.
  auto socket = ConnectUnix(device.socket_path, SOCK_STREAM | SOCK_NONBLOCK);
  if (!socket) return socket;
  fcntl(socket->get(), F_SETFL, fcntl(socket->get(), F_GETFL) & ~O_NONBLOCK);
  return socket;
}

void ControlProcess::AddNextDevice() {
  if (next_device_ == options_.devices.size()) {
    return cpu_.Request(
        "cont", json::object(), {},
        [this](const Result<json>& reply) { OnStartReply(reply, nullptr); }, kStartTimeoutNs);
  }
  const DeviceOptions& device = options_.devices[next_device_];
  const UniqueFd socket = std::move(device_sockets_[next_device_++]);
  const int fd = socket.get();
  cpu_.Request(
      "device_add", DeviceJson(device), std::span(&fd, 1),
      [this](const Result<json>& reply) { OnStartReply(reply, &ControlProcess::AddNextDevice); },
      kStartTimeoutNs);
}

void ControlProcess::OnStartReply(const Result<json>& reply, void (ControlProcess::*next)()) {
  if (status_) return;
  if (reply) {
    if (next != nullptr) return (this->*next)();
    started_ = true;
    return;
  }
  // A CPU process that ends by itself has said why, and has a status: OnCpuEnd.
  if (!cpu_.open()) return;
  End(Complain(reply.error()));
}

int ControlProcess::Run() {
  if (!status_) loop_.Run();
  return *status_;
}

void ControlProcess::End(int status) {
  if (status_) return;
  status_ = status;
  loop_.Stop();
}

void ControlProcess::OnSignal() {
  signalfd_siginfo info;
  while (read(signal_fd_.get(), &info, sizeof info) > 0) {
  }
  Quit([](const Result<json>&) {});
}

void ControlProcess::Quit(QmpReply reply) {
  if (!kill_timer_.armed()) kill_timer_.Arm(loop_.clock().now_ns() + kQuitTimeoutNs);
  cpu_.Request("quit", json::object(), {}, std::move(reply));
}

void ControlProcess::KillCpuProcess() {
  LogError(kWho, "the CPU process does not end within {} s{}", kQuitTimeoutNs / 1'000'000'000,
           cpu_process_.pidfd ? ": it is killed" : "");
  if (!cpu_process_.pidfd) return End(1);
  pidfd_send_signal(cpu_process_.pidfd.get(), SIGKILL, nullptr, 0);
}

void ControlProcess::OnCpuEnd() {
  cpu_.Drain();  // Its last events go to the QMP client.
  cpu_end_.Stop();
  const ChildEnd end = cpu_process_.Reap();
  if (end.signalled) LogError(kWho, "the CPU process {}", end.Text());
  if (!options_.control_path.empty()) unlink(options_.control_path.c_str());
  End(end.signalled ? 1 : end.code);
}

void ControlProcess::OnCpuEvent(const std::string& name, const json& data) {
  if (qmp_) qmp_->SendEvent(name, data);
}

void ControlProcess::OnCpuClosed(const Result<void>& why) {
  if (!why) {
    LogError(kWho, "{}: it is given up", why.error().message);
    if (cpu_process_.pidfd) pidfd_send_signal(cpu_process_.pidfd.get(), SIGKILL, nullptr, 0);
    return End(1);
  }
  if (!cpu_process_.pidfd) return End(0);
  take_over_timer_.Arm(loop_.clock().now_ns() + kTakeOverNs);
}

int ControlProcessMain(int argc, const char* const* argv) {
  auto options = ParseControlOptions(argc, argv);
  if (!options) return Complain(options.error());
  if (options->help) {
    fmt::print("{}", ControlHelp());
    return 0;
  }
  if (options->version) {
    fmt::print("vmm-lite {}\n", kVersion);
    return 0;
  }
  const MonotonicClock clock;
  auto loop = EpollLoop::Create(clock);
  if (!loop) return Complain(loop.error());
  ControlProcess control(**loop);
  if (const auto begun = control.Begin(std::move(*options)); !begun) {
    return Complain(begun.error());
  }
  return control.Run();
}

}  // namespace farside::vmm
