#include "base/log.h"

#include <errno.h>
#include <unistd.h>

#include <atomic>
#include <string>

namespace farside {
namespace {

std::string_view Prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return "";
    case LogLevel::kWarning:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
  }
  return "";
}

std::atomic<bool> muted = false;

}  // namespace

void MuteLog() { muted = true; }

void LogLine(LogLevel level, std::string_view who, std::string_view message) {
  if (muted) return;
  const std::string line =
      fmt::format("{}: {}: {}{}\n", program_invocation_short_name, who, Prefix(level), message);
  // A log that cannot be written must not stop the process.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace farside
