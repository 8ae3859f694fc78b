#include "vmm-lite/control/process_table.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/options.h"

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36's has no C linkage of its own.
}

namespace farside::vmm {
namespace {

constexpr std::string_view kFdPlace = "%FD%";

// A name that is beside vmm-lite means that program; for others posix_spawnp looks in PATH.
std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  std::error_code ignored;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const std::string beside = self.parent_path() / name;
  return access(beside.c_str(), X_OK) == 0 ? beside : name;
}

// Puts the sockets' numbers into a process's arguments, in the order of `wishes`.
Result<void> AddChannelArgs(const std::vector<ChannelWish>& wishes, const std::vector<int>& fds,
                            std::vector<std::string>* args) {
  size_t used = 0;
  for (std::string& arg : *args) {
    for (size_t at = 0; (at = arg.find(kFdPlace, at)) != std::string::npos; ++used) {
      if (used < fds.size()) arg.replace(at, kFdPlace.size(), std::to_string(fds[used]));
      at += used < fds.size() ? 0 : kFdPlace.size();
    }
  }
  if (used != 0 && used != fds.size()) {
    return Fail("its arguments have {} places {}, but {} of its devices are used: give as many",
                used, kFdPlace, fds.size());
  }
  for (size_t i = used; i < wishes.size(); ++i) {
    const std::string& rid = wishes[i].rid;
    std::string text =
        wishes[i].protocol == Protocol::kVfioUser
            ? fmt::format("x-vfio-user-server,id=server-{},device={},type=fd,str={}", rid, rid,
                          fds[i])
            : fmt::format("x-remote-object,id=server-{},devid={},fd={}", rid, rid, fds[i]);
    args->insert(args->end(), {"-object", std::move(text)});
  }
  return {};
}

}  // namespace

std::string ChildEnd::Text() const {
  return signalled ? fmt::format("was killed by signal {} ({})", code, sigabbrev_np(code))
                   : fmt::format("exited with status {}", code);
}

Result<StartedChild> StartedChild::Start(const std::string& path,
                                         const std::vector<std::string>& argv,
                                         const std::vector<int>& inherit) {
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  CHECK(posix_spawn_file_actions_init(&files) == 0 && posix_spawnattr_init(&attributes) == 0);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  // Onto itself: takes its close-on-exec flag away, in the child.
  for (const int fd : inherit) posix_spawn_file_actions_adddup2(&files, fd, fd);
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigaddset(&signals, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  StartedChild child;
  const int error =
      posix_spawnp(&child.pid, path.c_str(), &files, &attributes, words.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  if (error != 0) {
    return FailWith(error, "cannot start {}: {}; name a program that is beside vmm-lite or in PATH",
                    Quote(path), ErrnoText(error));
  }
  child.pidfd = UniqueFd(pidfd_open(child.pid, 0));
  if (child.pidfd) return child;
  const int saved = errno;
  kill(child.pid, SIGKILL);
  waitpid(child.pid, nullptr, 0);
  return FailWith(saved, "cannot watch {}: {}", path, ErrnoText(saved));
}

ChildEnd StartedChild::Reap() {
  siginfo_t info{};
  CHECK(waitid(P_PIDFD, static_cast<id_t>(pidfd.get()), &info, WEXITED) == 0);
  pidfd.reset();
  return {.signalled = info.si_code != CLD_EXITED, .code = info.si_status};
}

struct ProcessTable::Process final : FdWatcher {
  Process(ProcessTable& owner, ProcessOptions given, std::vector<ChannelWish> wished)
      : table(owner), options(std::move(given)), wishes(std::move(wished)) {}

  bool running() const { return static_cast<bool>(child.pidfd); }

  void OnReady(uint32_t) override {
    watch.Stop();
    channels.clear();
    const ChildEnd end = child.Reap();
    table.on_end_(options.id, child.pid, end);
  }

  ProcessTable& table;
  ProcessOptions options;
  std::vector<ChannelWish> wishes;
  std::vector<std::pair<std::string, UniqueFd>> channels;  // By rid; those not taken yet.
  StartedChild child;
  FdWatch watch;
};

ProcessTable::ProcessTable(EpollLoop& loop, OnEnd on_end)
    : loop_(loop), on_end_(std::move(on_end)) {}

ProcessTable::~ProcessTable() = default;

ProcessTable::Process* ProcessTable::Find(const std::string& id) {
  const auto found =
      std::ranges::find(processes_, id, [](const auto& process) { return process->options.id; });
  return found == processes_.end() ? nullptr : found->get();
}

Result<pid_t> ProcessTable::Add(ProcessOptions options, std::vector<ChannelWish> wishes) {
  Process* process = Find(options.id);
  if (process != nullptr && process->running()) {
    return Fail("process {} runs already: choose another id", Quote(options.id));
  }
  if (process == nullptr) {
    auto added = std::make_unique<Process>(*this, std::move(options), std::move(wishes));
    if (auto started = Start(*added); !started) return tl::unexpected(started.error());
    processes_.push_back(std::move(added));
    return processes_.back()->child.pid;
  }
  process->options = std::move(options);
  process->wishes = std::move(wishes);
  if (auto started = Start(*process); !started) return tl::unexpected(started.error());
  return process->child.pid;
}

Result<void> ProcessTable::Start(Process& process) {
  const auto fail = [&](const Error& error) {
    return FailWith(error.code, "process {}: {}", Quote(process.options.id), error.message);
  };
  process.channels.clear();
  std::vector<UniqueFd> theirs;
  std::vector<int> inherit;
  for (const ChannelWish& wish : process.wishes) {
    auto sockets = MakeSocketPair();
    if (!sockets) return fail(sockets.error());
    process.channels.emplace_back(wish.rid, std::move(sockets->first));
    theirs.push_back(std::move(sockets->second));
    inherit.push_back(theirs.back().get());
  }
  std::vector<std::string> argv = process.options.args;
  if (auto ok = AddChannelArgs(process.wishes, inherit, &argv); !ok) return fail(ok.error());
  const std::string program = FindProgram(process.options.exec);
  argv.insert(argv.begin(), program);
  auto child = StartedChild::Start(program, argv, inherit);
  if (!child) return fail(child.error());
  process.child = std::move(*child);
  return process.watch.Start(loop_, process.child.pidfd.get(), EPOLLIN, process);
}

Result<UniqueFd> ProcessTable::TakeChannel(const std::string& id, const ChannelWish& wish) {
  Process* const process = Find(id);
  if (process == nullptr) {
    return FailWith(ENODEV, "there is no process {}: start it with add-process first", Quote(id));
  }
  // It may have ended without the loop having come to see it.
  pollfd ended{.fd = process->child.pidfd.get(), .events = POLLIN, .revents = 0};
  if (process->running() && poll(&ended, 1, 0) == 1) process->OnReady(EPOLLIN);
  if (!process->running()) {
    const auto known = std::ranges::find(process->wishes, wish.rid, &ChannelWish::rid);
    if (known == process->wishes.end()) process->wishes.push_back(wish);
    if (auto started = Start(*process); !started) return tl::unexpected(started.error());
  }
  const auto known = std::ranges::find(process->wishes, wish.rid, &ChannelWish::rid);
  if (known != process->wishes.end() && known->protocol != wish.protocol) {
    return Fail("process {} serves device {} by {}: use that protocol", Quote(id), Quote(wish.rid),
                ProtocolName(known->protocol));
  }
  const auto found = std::ranges::find(process->channels, wish.rid,
                                       [](const auto& channel) { return channel.first; });
  if (found == process->channels.end()) {
    return Fail(
        "process {} has no free channel for device {}: name it in the \"devices\" of its "
        "add-process, or let it serve a UNIX socket",
        Quote(id), Quote(wish.rid));
  }
  UniqueFd socket = std::move(found->second);
  process->channels.erase(found);
  return socket;
}

nlohmann::json ProcessTable::Query() const {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& process : processes_) {
    list.push_back({{"id", process->options.id},
                    {"pid", process->child.pid},
                    {"running", process->running()}});
  }
  return list;
}

}  // namespace farside::vmm
