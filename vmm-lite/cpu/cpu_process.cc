#include "vmm-lite/cpu/cpu_process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <mutex>
#include <variant>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/log.h"
#include "base/options.h"
#include "vmm-lite/control/cpu_channel.h"
#include "vmm-lite/control/watcher.h"
#include "vmm-lite/cpu/cpu_sandbox.h"
#include "vmm-lite/machine/machine.h"

namespace farside::vmm {
namespace {

using nlohmann::json;

// The machine with its channel to whichever control process is there. The main thread does all
// that is asked for; vCPU threads leave notes for it.
class CpuProcess final : public MachineEvents {
 public:
  CpuProcess(EpollLoop& loop, UniqueFd channel)
      : loop_(loop), channel_(std::make_unique<CpuChannel>(std::move(channel))) {}

  int Run();

  void OnReset() override { Leave(Note{.kind = Note::kReset}); }
  void OnShutdown() override { Leave(Note{.kind = Note::kShutdown}); }
  void OnFailure(Error error) override {
    Leave(Note{.kind = Note::kFailure, .text = std::move(error.message)});
  }
  void OnDead(const std::string& id, const Error& error) override {
    Leave(Note{.kind = Note::kDead, .id = id, .text = error.message});
  }
  void OnUnplugged(std::shared_ptr<PciProxy> device) override {
    Leave(Note{.kind = Note::kUnplugged, .device = std::move(device)});
  }

 private:
  struct Note {
    enum Kind { kReset, kShutdown, kFailure, kDead, kUnplugged };
    Kind kind = kReset;
    std::string id = {};
    std::string text = {};
    std::shared_ptr<PciProxy> device = nullptr;
  };

  void Leave(Note note);
  void ReadNotes();
  void Handle(Note& note);
  void ReadChannel();
  void Accept();
  void ReadSerial();
  void End(int status, bool guest, const std::string& reason);

  Result<json> Execute(const std::string& command, const json& arguments,
                       std::vector<UniqueFd>& fds);
  Result<json> StartMachine(const json& arguments, std::vector<UniqueFd>& fds);
  Result<json> AddDevice(const json& arguments, std::vector<UniqueFd>& fds);
  Result<json> Devices() const;
  Result<void> Resume();
  void ResetMachine();
  void Send(const json& body);
  void Event(const char* name, json data) { Send({{"event", name}, {"data", std::move(data)}}); }

  EpollLoop& loop_;
  std::unique_ptr<CpuChannel> channel_;  // Null while no control process is there.
  UniqueFd listener_;
  UniqueFd serial_in_;
  UniqueFd notes_ready_;
  Watcher<CpuProcess> channel_watch_{*this, &CpuProcess::ReadChannel};
  Watcher<CpuProcess> notes_watch_{*this, &CpuProcess::ReadNotes};
  Watcher<CpuProcess> listener_watch_{*this, &CpuProcess::Accept};
  Watcher<CpuProcess> serial_watch_{*this, &CpuProcess::ReadSerial};
  std::vector<UniqueFd> files_;  // That the machine reads.
  std::unique_ptr<Machine> machine_;
  bool reboots_ = true;
  int status_ = 0;
  bool ending_ = false;

  std::mutex mutex_;  // Of the notes.
  std::deque<Note> notes_;
};

int CpuProcess::Run() {
  auto ready = MakeEventfd();
  if (!ready) {
    LogError("vmm-lite", "{}", ready.error().message);
    return 1;
  }
  notes_ready_ = std::move(*ready);
  auto watched = SetNonBlocking(channel_->fd());
  if (watched) watched = channel_watch_.Start(loop_, channel_->fd());
  if (watched) watched = notes_watch_.Start(loop_, notes_ready_.get());
  if (!watched) {
    LogError("vmm-lite", "{}", watched.error().message);
    return 1;
  }
  loop_.Run();
  machine_.reset();
  return status_;
}

void CpuProcess::Leave(Note note) {
  const std::lock_guard lock(mutex_);
  notes_.push_back(std::move(note));
  SignalEventfd(notes_ready_.get());
}

void CpuProcess::ReadNotes() {
  DrainEventfd(notes_ready_.get());
  std::deque<Note> notes;
  {
    const std::lock_guard lock(mutex_);
    notes.swap(notes_);
  }
  for (Note& note : notes) {
    if (!ending_) Handle(note);
  }
}

void CpuProcess::Handle(Note& note) {
  switch (note.kind) {
    case Note::kReset:
      return reboots_ ? ResetMachine() : End(0, true, "guest-reset");
    case Note::kShutdown:
      return End(0, true, "guest-shutdown");
    case Note::kFailure:
      LogError("vmm-lite", "{}", note.text);
      return End(1, false, note.text);
    case Note::kDead:
      LogWarning("vmm-lite", "device {} is dead: {}", note.id, note.text);
      Event("DEVICE_DEAD", {{"device", note.id}, {"reason", note.text}});
      return machine_->PullOut(note.id);
    case Note::kUnplugged:
      machine_->Forget(*note.device);
      return Event("DEVICE_DELETED", {{"device", note.device->id()}});
  }
}

void CpuProcess::End(int status, bool guest, const std::string& reason) {
  ending_ = true;
  status_ = status;
  Event("SHUTDOWN", {{"guest", guest}, {"reason", reason}});
  loop_.Stop();
}

void CpuProcess::Send(const json& body) {
  // A control process that reads nothing has itself to blame.
  if (channel_) (void)channel_->Send(body);
}

void CpuProcess::ReadChannel() {
  auto message = channel_->Receive();
  if (!message) {
    // A control process that sends no messages has made an error, and gets no answer to it.
    if (message.error().code != EAGAIN) LogError("vmm-lite", "{}", message.error().message);
    return;
  }
  if (!*message) {
    channel_watch_.Stop();
    channel_.reset();
    // Nothing runs yet, and nobody can come to change that.
    if (!machine_ || (!machine_->running() && !listener_)) loop_.Stop();
    return;
  }
  const json& body = (*message)->body;
  const json id = body.value("id", json());
  const auto command = body.find("execute");
  json answer = {{"id", id}};
  Result<json> done = Fail("a request has a text named 'execute'");
  if (command != body.end() && command->is_string()) {
    done = Execute(*command, body.value("arguments", json::object()), (*message)->fds);
  }
  if (done) {
    answer["return"] = std::move(*done);
  } else {
    answer["error"] = {{"desc", done.error().message}};
  }
  Send(answer);
  // What could not even start is of no use.
  if (!machine_ && !done) {
    status_ = 1;
    loop_.Stop();
  }
}

void CpuProcess::Accept() {
  UniqueFd next(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!next) return;
  channel_watch_.Stop();
  channel_ = std::make_unique<CpuChannel>(std::move(next));
  (void)channel_watch_.Start(loop_, channel_->fd());
}

void CpuProcess::ReadSerial() {
  std::array<std::byte, 256> bytes;
  const ssize_t got = read(serial_in_.get(), bytes.data(), bytes.size());
  if (got <= 0) {
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    return serial_watch_.Stop();
  }
  machine_->uart().Receive(ConstBytes(bytes).first(static_cast<size_t>(got)));
}

Result<json> CpuProcess::Execute(const std::string& command, const json& arguments,
                                 std::vector<UniqueFd>& fds) {
  if (!arguments.is_object()) return Fail("{}: 'arguments' is no object", command);
  if (command == "start") return StartMachine(arguments, fds);
  if (!machine_) return Fail("{}: the first request is 'start'", command);
  if (command == "device_add") return AddDevice(arguments, fds);
  if (command == "query-pci") return Devices();
  Result<void> done;
  if (command == "query-status") {
    return json{{"running", machine_->running()},
                {"status", machine_->running() ? "running" : "paused"}};
  }
  if (command == "cont") {
    done = Resume();
  } else if (command == "stop") {
    machine_->Stop();
    Event("STOP", json::object());
  } else if (command == "device_del") {
    const auto id = arguments.find("id");
    if (id == arguments.end() || !id->is_string()) return Fail("device_del: which 'id'?");
    done = machine_->AskToRemove(*id);
  } else if (command == "system_reset") {
    ResetMachine();
  } else if (command == "system_powerdown") {
    machine_->PressPowerButton();
  } else if (command == "quit") {
    End(0, false, "host-qmp-quit");
  } else {
    return Fail("there is no request '{}'", command);
  }
  if (!done) return tl::unexpected(done.error());
  return json::object();
}

Result<void> CpuProcess::Resume() {
  if (machine_->running()) return {};
  auto started = machine_->Start();
  if (started) Event("RESUME", json::object());
  return started;
}

void CpuProcess::ResetMachine() {
  const bool was_running = machine_->running();
  auto reset = machine_->Reset();
  {
    const std::lock_guard lock(mutex_);  // Several CPUs may have asked for the one reset.
    std::erase_if(notes_, [](const Note& note) { return note.kind == Note::kReset; });
  }
  if (reset && was_running) reset = machine_->Start();
  if (!reset) {
    LogError("vmm-lite", "reset: {}", reset.error().message);
    return End(1, false, reset.error().message);
  }
  Event("RESET", {{"guest", true}});
}

Result<json> CpuProcess::StartMachine(const json& arguments, std::vector<UniqueFd>& fds) {
  if (machine_) return Fail("start: the machine is there already");
  OptionReader reader("start", arguments);
  MachineConfig config;
  config.memory = reader.RequiredSize("memory");
  config.cpus = static_cast<uint32_t>(reader.Number("cpus", 1, 1, Machine::kMaxCpus));
  config.command_line = reader.String("append", "");
  reboots_ = reader.Bool("reboot", true);
  const json* const ports = reader.Value("root_ports");
  const json* const places = reader.Value("fds");
  if (auto read = reader.Finish(); !read) return tl::unexpected(read.error());
  const auto take = [&](const char* name) -> int {
    const json index = places != nullptr ? places->value(name, json()) : json();
    if (!index.is_number_unsigned() || index.get<size_t>() >= fds.size()) return -1;
    files_.push_back(std::move(fds[index.get<size_t>()]));
    return files_.back().get();
  };
  config.kernel = take("kernel");
  config.initrd = take("initrd");
  config.bios = take("bios");
  config.serial_output = take("serial_out");
  serial_in_.reset(fcntl(take("serial_in"), F_DUPFD_CLOEXEC, 0));
  listener_.reset(fcntl(take("listener"), F_DUPFD_CLOEXEC, 0));
  auto machine = Machine::Create(config, *this);
  if (!machine) return tl::unexpected(machine.error());
  for (const json& id : ports != nullptr ? *ports : json::array()) {
    if (!id.is_string()) return Fail("start: \"root_ports\" is a list of ids");
    if (auto added = (*machine)->AddRootPort(id); !added) return tl::unexpected(added.error());
  }
  machine_ = std::move(*machine);
  // Not made non-blocking: on a terminal the console's output is the same file. A file can't be
  // watched, nor need it.
  if (serial_in_) (void)serial_watch_.Start(loop_, serial_in_.get());
  if (listener_) {
    if (auto watched = listener_watch_.Start(loop_, listener_.get()); !watched) {
      return tl::unexpected(watched.error());
    }
  }
  if (auto closed = EnterCpuSandbox(); !closed) return tl::unexpected(closed.error());
  return json::object();
}

Result<json> CpuProcess::AddDevice(const json& arguments, std::vector<UniqueFd>& fds) {
  OptionReader reader("device_add", arguments);
  ProxyConfig config;
  config.id = reader.RequiredString("id");
  const std::string bus = reader.String("bus", "pci.0");
  static constexpr OptionWord<ProxyProtocol> kProtocols[] = {
      {"vfio-user", ProxyProtocol::kVfioUser}, {"mpqemu", ProxyProtocol::kMpqemu}};
  config.protocol = reader.Choice("protocol", kProtocols, ProxyProtocol::kVfioUser);
  config.posted = reader.Bool("posted", true);
  config.timeout_ms = reader.Number("timeout_ms", config.timeout_ms, 1, 3'600'000);
  config.expect_id = reader.String("expect_id", "");
  const uint64_t fd = reader.Number("fd", 0, 0, CpuChannel::kMaxFds);
  if (auto read = reader.Finish(); !read) return tl::unexpected(read.error());
  if (fd >= fds.size()) return Fail("device_add: no channel came with it");
  auto added = machine_->AddDevice(bus, std::move(config), std::move(fds[fd]));
  if (!added) return tl::unexpected(added.error());
  return json::object();
}

Result<json> CpuProcess::Devices() const {
  json out = json::array();
  for (const Machine::DeviceState& device : machine_->devices()) {
    out.push_back({{"id", device.id}, {"bus", device.bus}, {"dead", device.dead}});
  }
  return out;
}

}  // namespace

int CpuProcessMain(int fd) {
  // A vector has an eventfd, of which KVM and the device have duplicates.
  const rlimit files{.rlim_cur = 16384, .rlim_max = 16384};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  const MonotonicClock clock;
  auto loop = EpollLoop::Create(clock);
  if (!loop) {
    LogError("vmm-lite", "{}", loop.error().message);
    return 1;
  }
  CpuProcess process(**loop, UniqueFd(fd));
  return process.Run();
}

}  // namespace farside::vmm
