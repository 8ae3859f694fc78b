// Log lines on standard error: "disk-proc: nvme0: warning: ...". No state but MuteLog's: who speaks
// is an argument.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace farside {

enum class LogLevel { kInfo, kWarning, kError };

// Writes one line at once, so that lines of several processes do not mix.
void LogLine(LogLevel level, std::string_view who, std::string_view message);

// From now on nothing is written: for programs in which peers misbehave on purpose.
void MuteLog();

template <typename... Args>
void LogInfo(std::string_view who, fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kInfo, who, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void LogWarning(std::string_view who, fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kWarning, who, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void LogError(std::string_view who, fmt::format_string<Args...> format, Args&&... args) {
  LogLine(LogLevel::kError, who, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace farside
