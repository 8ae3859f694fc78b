#include "harness/scenario/child.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/check.h"
#include "harness/scenario/pattern.h"

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36's has no C linkage of its own.
}

namespace farside::scenario {
namespace {

// What the new process does before it becomes the program: only what is safe after fork. Does not
// return; what went wrong goes to `report`.
[[noreturn]] void BecomeProgram(const ChildOptions& options, char* const* argv, int output,
                                int report, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY);
  bool ok = prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && null >= 0 &&
            dup2(null, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 &&
            dup2(output, STDERR_FILENO) >= 0 && chdir(options.directory.c_str()) == 0;
  // What farside inherited is not the program's.
  ok = ok && close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) == 0;
  if (options.own_group) ok = ok && setpgid(0, 0) == 0;
  if (options.inherit >= 0) ok = ok && fcntl(options.inherit, F_SETFD, 0) == 0;
  if (ok && options.max_fds != 0) {
    const rlimit limit{options.max_fds, options.max_fds};
    ok = setrlimit(RLIMIT_NOFILE, &limit) == 0;
  }
  if (ok) execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(report, &error, sizeof error);
  _exit(127);
}

Result<std::pair<UniqueFd, UniqueFd>> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0)
    return FailWith(errno, "cannot make a pipe: {}", ErrnoText(errno));
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

ExitStatus StatusOf(const siginfo_t& info) {
  return {.signalled = info.si_code != CLD_EXITED, .code = info.si_status};
}

// `text` without the part of its last line that has not come yet, as lines.
std::vector<std::string_view> Lines(std::string_view text, bool complete) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos && !complete) break;
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), lines.back().size() + 1));
  }
  return lines;
}

bool IsExecutable(const std::string& path) {
  return std::filesystem::is_regular_file(path) && access(path.c_str(), X_OK) == 0;
}

}  // namespace

Result<std::string> FindProgram(const std::string& name, const std::string& bin_dir) {
  namespace fs = std::filesystem;
  if (name.find('/') != std::string::npos) {
    const std::string path = fs::absolute(name).string();
    if (IsExecutable(path)) return path;
    return Fail("{} is no program that can be run", path);
  }
  std::vector<std::string> folders;
  if (!bin_dir.empty()) folders.push_back(fs::absolute(bin_dir).string());
  std::error_code ignored;
  folders.push_back(fs::read_symlink("/proc/self/exe", ignored).parent_path().string());
  const char* const path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
    if (!folder.empty()) folders.emplace_back(folder);
  }
  for (const std::string& folder : folders) {
    std::string candidate = (fs::path(folder) / name).string();
    if (IsExecutable(candidate)) return candidate;
  }
  return Fail("there is no program {} in --bin-dir, beside farside or in PATH", name);
}

Result<std::string> MakeDirectory() {
  const char* const base = std::getenv("TMPDIR");
  std::string path = fmt::format("{}/farside-XXXXXX", base != nullptr ? base : "/tmp");
  if (mkdtemp(path.data()) == nullptr) {
    return FailWith(errno, "cannot make directory {}: {}; set TMPDIR to one that can be written",
                    path, ErrnoText(errno));
  }
  return path;
}

std::string ExitStatus::Text() const {
  if (!signalled) return fmt::format("exited with status {}", code);
  return fmt::format("was killed by signal {} ({})", code, sigabbrev_np(code));
}

Result<std::unique_ptr<Child>> Child::Start(std::string id, const ChildOptions& options) {
  auto output = MakePipe();
  if (!output) return tl::unexpected(output.error());
  auto report = MakePipe();
  if (!report) return tl::unexpected(report.error());
  std::vector<char*> argv{const_cast<char*>(options.program.c_str())};
  for (const std::string& arg : options.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return FailWith(errno, "cannot start {}: {}", options.program, ErrnoText(errno));
  if (pid == 0) {
    BecomeProgram(options, argv.data(), output->second.get(), report->second.get(), parent);
  }
  output->second.reset();
  report->second.reset();
  UniqueFd pidfd(pidfd_open(pid, 0));
  const int pidfd_error = pidfd ? 0 : errno;
  int error = 0;
  ssize_t got;
  do {
    got = read(report->first.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == 0 && pidfd) {
    return std::unique_ptr<Child>(
        new Child(std::move(id), pid, std::move(pidfd), std::move(output->first)));
  }
  if (got == 0) {
    error = pidfd_error;
    kill(pid, SIGKILL);
  }
  waitpid(pid, nullptr, 0);
  return FailWith(error, "cannot start {} in {}: {}", options.program, options.directory,
                  ErrnoText(error));
}

Child::Child(std::string id, pid_t pid, UniqueFd pidfd, UniqueFd output)
    : id_(std::move(id)),
      pid_(pid),
      pidfd_(std::move(pidfd)),
      pipe_(std::move(output)),
      reader_([this] { ReadOutput(); }) {}

Child::~Child() {
  Signal(SIGKILL);
  Wait(UINT64_MAX);
  reader_.join();
}

// The pipe ends when the process does, unless a child of its own keeps it open: then the process's
// end counts.
void Child::ReadOutput() {
  std::array<char, 16 << 10> buffer;
  for (;;) {
    std::array<pollfd, 2> fds{pollfd{pipe_.get(), POLLIN, 0}, pollfd{pidfd_.get(), POLLIN, 0}};
    if (poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[0].revents == 0) break;
    const ssize_t got = read(pipe_.get(), buffer.data(), buffer.size());
    if (got <= 0) break;
    const std::lock_guard lock(mutex_);
    output_.append(buffer.data(), static_cast<size_t>(got));
    if (output_.size() > kMaxOutput) {
      dropped_ += output_.size() - kMaxOutput / 2;
      output_.erase(0, output_.size() - kMaxOutput / 2);
    }
    changed_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

bool Child::running() { return !Wait(0); }

std::optional<ExitStatus> Child::Wait(uint64_t timeout_ns) {
  pollfd fd{pidfd_.get(), POLLIN, 0};
  const timespec timeout{.tv_sec = static_cast<time_t>(timeout_ns / 1'000'000'000),
                         .tv_nsec = static_cast<long>(timeout_ns % 1'000'000'000)};
  int ready;
  do {
    ready = ppoll(&fd, 1, timeout_ns == UINT64_MAX ? nullptr : &timeout, nullptr);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return std::nullopt;
  const std::lock_guard lock(wait_mutex_);
  if (!status_) {
    siginfo_t info{};
    CHECK(waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED) == 0);
    status_ = StatusOf(info);
  }
  return status_;
}

void Child::Signal(int number) {
  // By pidfd: a process that is gone is never taken for another one.
  (void)pidfd_send_signal(pidfd_.get(), number, nullptr, 0);
}

std::string Child::output() const {
  const std::lock_guard lock(mutex_);
  return output_;
}

std::vector<std::string> Child::LastLines(size_t count) const {
  const std::string text = output();
  const auto lines = Lines(text, true);
  const size_t skip = lines.size() - std::min(lines.size(), count);
  return {lines.begin() + static_cast<ptrdiff_t>(skip), lines.end()};
}

Result<std::string> Child::WaitForLine(const std::string& pattern, uint64_t timeout_ns) const {
  const auto regex = Pattern::Compile(pattern);
  CHECK(regex.has_value());  // Type::kPattern.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(timeout_ns);
  uint64_t seen = 0;  // In the stream.
  std::unique_lock lock(mutex_);
  for (;;) {
    const std::string_view fresh =
        std::string_view(output_).substr(static_cast<size_t>(std::max(seen, dropped_) - dropped_));
    for (const std::string_view line : Lines(fresh, ended_)) {
      if (regex->Finds(line)) return std::string(line);
      seen = dropped_ + static_cast<uint64_t>(line.data() - output_.data()) + line.size() + 1;
    }
    const bool more = !ended_ && changed_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    if (more) continue;
    return Fail("{} {} and printed no line that matches \"{}\"", id_,
                ended_ ? "has ended" : fmt::format("was given {} ms", timeout_ns / 1'000'000),
                pattern);
  }
}

Result<uint64_t> Child::CountFds() const {
  std::error_code error;
  std::filesystem::directory_iterator files(fmt::format("/proc/{}/fd", pid_), error);
  uint64_t count = 0;
  while (!error && files != std::filesystem::directory_iterator()) {
    ++count;
    files.increment(error);
  }
  if (!error) return count;
  return Fail("cannot count the file descriptors of {}: {}; is it still running?", id_,
              error.message());
}

Result<uint64_t> Child::PrivateBytes() const {
  std::ifstream file(fmt::format("/proc/{}/smaps_rollup", pid_));
  uint64_t total_kib = 0;
  bool found = false;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("Private_Clean:") && !line.starts_with("Private_Dirty:")) continue;
    total_kib += std::strtoull(line.c_str() + std::strlen("Private_Clean:"), nullptr, 10);
    found = true;
  }
  if (found) return total_kib * 1024;
  return Fail("cannot read the memory of {}: is it still running?", id_);
}

}  // namespace farside::scenario
