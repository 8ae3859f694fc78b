// The block drivers: one table, from which nodes are opened and the help is printed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/options.h"
#include "block/node.h"

namespace farside::block {

struct OptionHelp {
  std::string_view name;
  std::string_view help;
};

struct Driver {
  std::string_view name;
  std::string_view help;
  // Besides CommonOptions().
  std::span<const OptionHelp> options;
  // True if it stands on another node, its option `file`.
  bool has_file;
  // Reads the driver's own options, calls `reader.Finish()` and opens the node. `file` is null
  // unless has_file.
  Result<std::unique_ptr<BlockDevice>> (*open)(const NodeOptions& node, OptionReader& reader,
                                               BlockDevice* file, EpollLoop& loop);
};

std::span<const Driver> Drivers();

// The options that every driver takes.
std::span<const OptionHelp> CommonOptions();

// The answer to -blockdev help, and with a driver's name to -blockdev NAME,help.
std::string DriverHelp(std::string_view driver = "");

// "file, raw, ...".
std::string DriverNames();

}  // namespace farside::block
