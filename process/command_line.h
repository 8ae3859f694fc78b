// The command line that every device process shares: QEMU's option names and value syntax.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace farside {

struct CommandLine {
  std::vector<nlohmann::json> blockdevs;
  std::vector<nlohmann::json> devices;  // With "driver".
  std::vector<nlohmann::json> objects;  // With "qom-type".
  std::optional<std::string> socket_path;
  std::optional<int> fd;
  std::optional<int> primary_fd;
  std::optional<std::string> trace;
  uint64_t spin_us = 0;
  bool help = false;
  bool version = false;
};

// The part of a command line that makes the devices, in JSON forms: what a trace says of its
// process.
std::vector<std::string> DeviceArguments(const CommandLine& line);

// Reads argv. Errors name the option and the remedy.
Result<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// The text of --help for the process `name`.
std::string CommandLineHelp(const std::string& name);

}  // namespace farside
