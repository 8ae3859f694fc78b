// The subcommands of `farside`.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace farside::cli {

// Exit statuses.
inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;    // What was to be shown was not.
inline constexpr int kBadUsage = 2;  // A wrong command line or file; nothing was done.
inline constexpr int kInterrupted = 130;

using Arguments = std::vector<std::string>;

struct Command {
  std::string_view name;
  std::string_view summary;
  // `args` is what follows the name. Gives the exit status.
  int (*run)(const Arguments& args);
};

std::span<const Command> Commands();

// All that main does.
int Main(int argc, char** argv);

int RunCommand(const Arguments& args);
int ShellCommand(const Arguments& args);
int HelpCommand(const Arguments& args);
int VersionCommand(const Arguments& args);

// The text of `farside --help`.
std::string Usage();

// Prints "farside: <message>" to standard error and gives kBadUsage.
int BadUsage(const Error& error);

}  // namespace farside::cli
