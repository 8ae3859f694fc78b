#include "harness/fuzz/programs.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "harness/fuzz/command.h"
#include "harness/scenario/child.h"

namespace farside::campaign {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> FindIn(const std::vector<fs::path>& folders, const std::string& name) {
  for (const fs::path& folder : folders) {
    if (folder.empty()) continue;
    std::error_code error;
    const fs::path file = fs::absolute(folder / name, error);
    if (!error && fs::is_regular_file(file, error) && access(file.c_str(), X_OK) == 0) {
      return file.lexically_normal().string();
    }
  }
  return std::nullopt;
}

std::vector<fs::path> Folders(const std::string& bin_dir) {
  std::error_code ignored;
  const fs::path own = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  return {bin_dir, own, own / "../../fuzz/bin"};
}

void AddOptions(const char* name, std::string_view options) {
  const char* const own = std::getenv(name);
  // What the caller says counts more: of two the last one does.
  setenv(name, fmt::format("{}:{}", options, own != nullptr ? own : "").c_str(), 1);
}

}  // namespace

Result<std::string> FindFuzzer(const std::string& target, const std::string& bin_dir) {
  if (target.empty() || target.find('/') != std::string::npos) {
    return Fail("{} is no target; farside-fuzz list names them", target);
  }
  const std::string name = "fuzz_" + target;
  if (auto found = FindIn(Folders(bin_dir), name)) return *std::move(found);
  return Fail(
      "there is no {} in --bin-dir, beside farside or in the fuzz build: is there a target {} "
      "(farside-fuzz list)? Build it: cmake --preset fuzz && cmake --build --preset fuzz -t {} "
      "farside-fuzz",
      name, target, name);
}

Result<std::string> FindTool(const std::string& bin_dir, const std::string& fuzzer) {
  std::vector<fs::path> folders = Folders(bin_dir);
  if (!fuzzer.empty()) folders.insert(folders.begin(), fs::path(fuzzer).parent_path());
  if (auto found = FindIn(folders, "farside-fuzz")) return *std::move(found);
  return Fail(
      "there is no farside-fuzz in --bin-dir or beside farside; build it: cmake --preset debug && "
      "cmake --build --preset debug -t farside-fuzz");
}

void SetSanitizerOptions() {
  AddOptions("ASAN_OPTIONS", "handle_abort=1:handle_sigbus=0:print_summary=1");
  AddOptions("UBSAN_OPTIONS", "print_stacktrace=1");
  for (const char* path : {"/usr/bin/llvm-symbolizer-16", "/usr/lib/llvm-16/bin/llvm-symbolizer"}) {
    if (access(path, X_OK) == 0) setenv("ASAN_SYMBOLIZER_PATH", path, 0);
  }
}

Result<Ran> RunProgram(const std::string& program, const std::vector<std::string>& args,
                       uint64_t timeout_ns) {
  auto child = scenario::Child::Start(fs::path(program).filename().string(),
                                      {.program = program, .args = args, .directory = "."});
  if (!child) return tl::unexpected(child.error());
  const auto status = (*child)->Wait(timeout_ns);
  Ran ran;
  ran.in_time = status.has_value();
  if (!status) {
    (*child)->Signal(SIGKILL);
    (*child)->Wait(UINT64_MAX);
  }
  // What it printed last may still be on its way: waits for the end of its output.
  (void)(*child)->WaitForLine("^a line that no program prints$", 2'000'000'000);
  ran.output = (*child)->output();
  ran.failed = !status || status->signalled || status->code != 0;
  ran.how = status ? status->Text() : "did not end in time";
  return ran;
}

Result<int> RunInForeground(const std::string& program, const std::vector<std::string>& args) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return FailWith(errno, "cannot start {}: {}", program, ErrnoText(errno));
  if (pid == 0) {
    execv(argv[0], argv.data());
    _exit(kBadUsage);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : kFound;
}

}  // namespace farside::campaign
