#include "fuzz/cli/told.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/check.h"

namespace farside::fuzz {

void Tell(const char* what, const nlohmann::json& value) {
  const std::string line = nlohmann::json{{what, value}}.dump() + "\n";
  CHECK(write(STDOUT_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
}

std::vector<nlohmann::json> Listen(const std::function<void()>& play) {
  int fds[2];
  CHECK(pipe(fds) == 0);
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    dup2(fds[1], STDOUT_FILENO);
    close(fds[0]);
    close(fds[1]);
    play();
    _exit(0);
  }
  close(fds[1]);
  std::string text;
  std::array<char, 16 << 10> buffer;
  for (ssize_t got; (got = read(fds[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  close(fds[0]);
  waitpid(pid, nullptr, 0);

  std::vector<nlohmann::json> told;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    auto line = nlohmann::json::parse(text.substr(at, end - at), nullptr, false);
    if (!line.is_discarded()) told.push_back(std::move(line));
    at = end + 1;
  }
  return told;
}

std::string Hex(uint64_t value) { return fmt::format("{:#x}", value); }

}  // namespace farside::fuzz
