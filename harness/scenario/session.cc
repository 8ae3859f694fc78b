#include "harness/scenario/session.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/options.h"
#include "protocol/mpqemu_client.h"

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36's has no C linkage of its own.
}

namespace farside::scenario {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
// Between two tries to connect to a server that is about to listen.
constexpr uint64_t kConnectRetryNs = 2 * kNsPerMs;
// For a process to drain and exit after SIGTERM.
constexpr uint64_t kExitTimeoutNs = 20'000 * kNsPerMs;

// A connected socket; EAGAIN where the server's backlog is full. Never waits.
Result<UniqueFd> TryConnect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return FailWith(ENAMETOOLONG, "socket path {} is too long: set TMPDIR to a shorter directory",
                    path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FailWith(errno, "cannot make a UNIX socket: {}", ErrnoText(errno));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return FailWith(errno, "cannot connect to {}: {}", path, ErrnoText(errno));
  }
  return fd;
}

}  // namespace

void Interruption::Add(int pidfd) {
  const std::lock_guard lock(mutex_);
  pidfds_.insert(pidfd);
}

void Interruption::Remove(int pidfd) {
  const std::lock_guard lock(mutex_);
  pidfds_.erase(pidfd);
}

void Interruption::Trigger() {
  triggered_ = true;
  const std::lock_guard lock(mutex_);
  for (const int pidfd : pidfds_) (void)pidfd_send_signal(pidfd, SIGKILL, nullptr, 0);
}

Session::Session(Scenario scenario, SessionOptions options)
    : scenario_(std::move(scenario)), options_(std::move(options)), log_(options_.flat) {}

Result<std::unique_ptr<Session>> Session::Start(const Scenario& scenario, SessionOptions options) {
  std::unique_ptr<Session> session(new Session(scenario, std::move(options)));
  if (const auto set_up = session->SetUp(); !set_up) return tl::unexpected(set_up.error());
  return session;
}

Result<void> Session::SetUp() {
  const uint64_t timeout_ms = scenario_.timeout_ms;
  deadline_ns_ = timeout_ms == 0 ? UINT64_MAX : clock_.now_ns() + timeout_ms * kNsPerMs;
  BeginStep(scenario_.step_timeout_ms);
  auto directory = MakeDirectory();
  if (!directory) return tl::unexpected(directory.error());
  directory_ = std::move(*directory);
  auto memory = GuestMemory::Create(scenario_.memory, options_.reach);
  if (!memory) return tl::unexpected(memory.error());
  memory_ = std::move(*memory);
  tapped_memory_ = std::make_unique<TappedMemory>(*memory_, log_);
  for (const ProcessSpec& spec : scenario_.processes) {
    processes_.emplace_back();
    processes_.back().spec = spec;
  }
  for (const DeviceSpec& spec : scenario_.devices) {
    auto link = std::make_unique<Link>();
    link->spec = spec;
    link->path = (std::filesystem::path(directory_) / spec.socket).string();
    links_.push_back(std::move(link));
  }
  for (ProcessSlot& slot : processes_) {
    if (!slot.spec.start) continue;
    if (const auto started = StartProcess(slot); !started) return started;
  }
  for (const auto& link : links_) {
    if (!link->spec.connect) continue;
    if (const auto connected = Connect(*link, {}); !connected) return connected;
  }
  return {};
}

Session::~Session() {
  for (const auto& link : links_) Disconnect(*link);
  for (ProcessSlot& slot : processes_) Forget(slot);
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

void Session::Forget(ProcessSlot& slot) {
  if (slot.child && options_.interruption != nullptr) {
    options_.interruption->Remove(slot.child->pidfd());
  }
  slot.child.reset();
}

Result<void> Session::Finish() {
  for (const auto& link : links_) Disconnect(*link);
  for (const ProcessSlot& slot : processes_) {
    if (!slot.child || slot.may_end) continue;
    // A stopped one would never see the SIGTERM.
    slot.child->Signal(SIGCONT);
    if (slot.child->running()) slot.child->Signal(SIGTERM);
  }
  for (const ProcessSlot& slot : processes_) {
    if (!slot.child || slot.may_end) continue;
    const auto status = slot.child->Wait(kExitTimeoutNs);
    if (!status) {
      return Fail("process {} did not exit within {} s of its SIGTERM", slot.spec.id,
                  kExitTimeoutNs / kNsPerMs / 1000);
    }
    if (status->signalled || status->code != 0) {
      return Fail("process {} {} where status 0 after SIGTERM is due", slot.spec.id,
                  status->Text());
    }
  }
  return {};
}

Result<Link*> Session::FindLink(const Args& args) {
  if (links_.empty()) return Fail("there is no device: name one in the scenario's \"devices\"");
  if (!args.Has("device")) return links_.front().get();
  const std::string& id = args.Text("device");
  std::string ids;
  for (const auto& link : links_) {
    if (link->spec.id == id) return link.get();
    ids += (ids.empty() ? "" : ", ") + link->spec.id;
  }
  return Fail("there is no device {}: there are {}", Quote(id), ids);
}

Result<Link*> Session::FindClient(const Args& args) {
  auto link = FindLink(args);
  if (!link || (*link)->client) return link;
  return Fail("device {} is {}", (*link)->spec.id,
              (*link)->raw ? "connected raw: only frame.* verbs and disconnect reach it"
                           : "not connected: use connect first");
}

Result<Link*> Session::FindRaw(const Args& args) {
  auto link = FindLink(args);
  if (!link || (*link)->raw) return link;
  return Fail("device {} is not connected raw: use {}connect with raw=true first", (*link)->spec.id,
              (*link)->client ? "disconnect and " : "");
}

Result<Link*> Session::FindNvme(const Args& args) {
  auto link = FindClient(args);
  if (!link || (*link)->nvme) return link;
  return Fail("device {} has no NVMe driver: use nvme.enable first", (*link)->spec.id);
}

Result<Link*> Session::FindLsi(const Args& args) {
  auto link = FindClient(args);
  if (!link || (*link)->lsi) return link;
  return Fail("device {} has no LSI53C895A driver: use lsi.enable first", (*link)->spec.id);
}

Result<ProcessSlot*> Session::FindProcess(const Args& args, bool running) {
  if (processes_.empty()) return Fail("the scenario starts no process");
  auto found = processes_.begin();
  if (args.Has("process")) {
    found = std::ranges::find(processes_, args.Text("process"),
                              [](const ProcessSlot& slot) { return slot.spec.id; });
  }
  if (found == processes_.end()) {
    return Fail("there is no process {}", Quote(args.Text("process")));
  }
  if (running && !found->child) {
    return Fail("process {} is not started: use process.start first", found->spec.id);
  }
  return &*found;
}

Result<int> Session::FindFd(const std::string& name) {
  const auto found = fds_.find(name);
  if (found != fds_.end()) return found->second.get();
  return Fail("there is no fd {}: make it with fd.make first", Quote(name));
}

Result<void> Session::StartProcess(ProcessSlot& slot) {
  if (slot.child && slot.child->running()) {
    return Fail("process {} runs already", slot.spec.id);
  }
  const auto program = FindProgram(slot.spec.program, options_.bin_dir);
  if (!program) return tl::unexpected(program.error());
  Forget(slot);
  std::vector<std::string> args = slot.spec.args;
  if (slot.spec.in_place) ReplacePlace(kSocketPlace, links_.front()->path, &args);
  UniqueFd theirs;
  for (const auto& link : links_) {
    if (link->spec.protocol != Protocol::kMpqemu || link->spec.process != slot.spec.id) continue;
    auto sockets = MakeSocketPair();
    if (!sockets) return tl::unexpected(sockets.error());
    link->socket = std::move(sockets->first);
    theirs = std::move(sockets->second);
    ReplacePlace(kFdPlace, std::to_string(theirs.get()), &args);
  }
  auto child = Child::Start(slot.spec.id, {.program = *program,
                                           .args = std::move(args),
                                           .directory = slot.spec.in_place ? "." : directory_,
                                           .max_fds = slot.spec.max_fds,
                                           .inherit = theirs.get()});
  if (!child) return tl::unexpected(child.error());
  slot.child = std::move(*child);
  slot.may_end = false;
  if (options_.interruption != nullptr) options_.interruption->Add(slot.child->pidfd());
  return {};
}

// Waits for a server that was just started to listen.
Result<UniqueFd> Session::ConnectSocket(const Link& link) {
  const auto process = std::ranges::find(processes_, link.spec.process,
                                         [](const ProcessSlot& slot) { return slot.spec.id; });
  Child* const child = process == processes_.end() ? nullptr : process->child.get();
  for (;;) {
    auto socket = TryConnect(link.path);
    if (socket) return socket;
    const int code = socket.error().code;
    const bool transient = code == ENOENT || code == ECONNREFUSED || code == EAGAIN;
    if (!transient || child == nullptr || time_left_ns() == 0) {
      return FailWith(code, "{}; is the server running?", socket.error().message);
    }
    if (const auto status = child->Wait(kConnectRetryNs)) {
      const auto words = child->LastLines(3);
      return FailWith(code, "process {} {} and serves nobody; it printed: {}", child->id(),
                      status->Text(),
                      words.empty() ? "nothing" : fmt::format("{}", fmt::join(words, " | ")));
    }
  }
}

Result<std::unique_ptr<DeviceClient>> Session::OpenWire(Link& link, ConnectOptions options) {
  if (link.spec.protocol == Protocol::kMpqemu) return OpenMpqemu(link);
  auto socket = ConnectSocket(link);
  if (!socket) return tl::unexpected(socket.error());
  options.client.channel.timeout_ns = std::max(time_left_ns(), kNsPerMs);
  auto wire = vfio_user::VfioUserClient::Open(std::move(*socket), std::move(options.client),
                                              tapped_memory_.get());
  if (!wire) return tl::unexpected(wire.error());
  if (options.negotiate) {
    if (const auto negotiated = (*wire)->Negotiate(); !negotiated) {
      return tl::unexpected(negotiated.error());
    }
  }
  return std::unique_ptr<DeviceClient>(std::move(*wire));
}

// Of a device that speaks mpqemu.
Result<UniqueFd> Session::TakeSocket(Link& link) {
  if (link.socket) return std::move(link.socket);
  return Fail(
      "device {} speaks mpqemu, which has one connection for each start of its process: "
      "use process.start for {} first",
      link.spec.id, link.spec.process);
}

Result<std::unique_ptr<DeviceClient>> Session::OpenMpqemu(Link& link) {
  auto socket = TakeSocket(link);
  if (!socket) return tl::unexpected(socket.error());
  const auto process = std::ranges::find(processes_, link.spec.process,
                                         [](const ProcessSlot& slot) { return slot.spec.id; });
  mpqemu::ClientOptions options{.timeout_ns = std::max(time_left_ns(), kNsPerMs)};
  if (process->spec.qemu_remote) options.settle_ns = kQemuSettleNs;
  auto client = mpqemu::MpqemuClient::Attach(std::move(*socket), options);
  if (!client) {
    const auto words = process->child->LastLines(3);
    return Fail("device {}: {}; process {} printed: {}", link.spec.id, client.error().message,
                link.spec.process,
                words.empty() ? "nothing" : fmt::format("{}", fmt::join(words, " | ")));
  }
  return std::unique_ptr<DeviceClient>(std::move(*client));
}

Result<void> Session::Connect(Link& link, ConnectOptions options) {
  if (link.client || link.raw)
    return Fail("device {} is connected: disconnect first", link.spec.id);
  if (options.raw) {
    const bool mpqemu = link.spec.protocol == Protocol::kMpqemu;
    auto socket = mpqemu ? TakeSocket(link) : ConnectSocket(link);
    if (!socket) return tl::unexpected(socket.error());
    auto raw = mpqemu ? RawChannel::OpenMpqemu(std::move(*socket))
                      : RawChannel::OpenVfioUser(std::move(*socket));
    if (!raw) return tl::unexpected(raw.error());
    link.raw = std::move(*raw);
    return {};
  }
  const bool map = options.map;
  auto wire = OpenWire(link, std::move(options));
  if (!wire) return tl::unexpected(wire.error());
  auto client = std::make_unique<TappedClient>(link.spec.id, **wire, *tapped_memory_, log_);
  if (map) {
    if (const auto mapped = memory_->MapTo(*client); !mapped) return mapped;
  }
  link.wire = std::move(*wire);
  link.client = std::move(client);
  return {};
}

void Session::Disconnect(Link& link) {
  DropDriver(link);
  link.client.reset();
  link.wire.reset();
  link.raw.reset();
  link.held_bytes.clear();
}

void Session::DropDriver(Link& link) {
  if (IrqCollector* const irqs = link.irqs()) {
    for (uint32_t i = 0; i < irqs->count(); ++i) {
      link.vectors[{irqs->index(), i}].total += irqs->total(i);
    }
  }
  link.nvme.reset();
  link.lsi.reset();
}

uint64_t Session::CountIrqs(Link& link, VectorId vector) {
  VectorCount& count = link.vectors[vector];
  if (count.eventfd) count.total += DrainEventfd(count.eventfd.get());
  IrqCollector* const irqs = link.irqs();
  const bool driven =
      irqs != nullptr && irqs->index() == vector.first && vector.second < irqs->count();
  return count.total + (driven ? irqs->total(vector.second) : 0);
}

std::map<VectorId, uint64_t> Session::CountAllIrqs(Link& link) {
  std::map<VectorId, uint64_t> counts;
  for (auto& [vector, count] : link.vectors) {
    const uint64_t total = CountIrqs(link, vector);
    if (total != 0) counts[vector] = total;
  }
  return counts;
}

void Session::BeginStep(uint64_t timeout_ms) {
  const uint64_t now_ns = clock_.now_ns();
  const uint64_t wanted_ns = timeout_ms * kNsPerMs;
  step_deadline_ns_ = wanted_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + wanted_ns;
  step_deadline_ns_ = std::min(step_deadline_ns_, deadline_ns_);
}

uint64_t Session::time_left_ns() const {
  const uint64_t now_ns = clock_.now_ns();
  return step_deadline_ns_ - std::min(step_deadline_ns_, now_ns);
}

}  // namespace farside::scenario
