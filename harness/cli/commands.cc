// The table of subcommands.
#include <algorithm>
#include <cstdio>
#include <string>

#include "base/options.h"
#include "base/version.h"
#include "harness/bench/bench_main.h"
#include "harness/cli/command.h"
#include "harness/diff/diff_main.h"
#include "harness/fuzz/fuzz_main.h"
#include "harness/record/record_main.h"
#include "harness/replay/replay_main.h"
#include "harness/trace/trace_main.h"

namespace farside::cli {
namespace {

// A new command is a row here and its function.
constexpr Command kCommands[] = {
    {"run", "run scenarios against devices", &RunCommand},
    {"shell", "talk to a device by hand", &ShellCommand},
    {"record", "stand between a client and a server and write a trace", &record::RecordMain},
    {"replay", "give a trace's guest events to a device, and compare", &replay::ReplayMain},
    {"diff", "give two devices the same events, and compare", &diff::DiffMain},
    {"trace", "show, count or convert what is in a trace", &trace::TraceMain},
    {"bench", "measure a device process against this machine's floor", &bench::BenchMain},
    {"fuzz", "fuzz a target, or a server, and make something of what is found",
     &campaign::FuzzMain},
    {"help", "explain a command or a verb; list all verbs", &HelpCommand},
    {"version", "print the version", &VersionCommand},
};

}  // namespace

int Main(int argc, char** argv) {
  Arguments args(argv + std::min(argc, 1), argv + argc);
  if (args.empty()) return BadUsage({"name a command; `farside help` lists them", 0});
  if (args.front() == "--help" || args.front() == "-h") args = {"help"};
  if (args.front() == "--version") args = {"version"};
  const auto command = std::ranges::find(kCommands, args.front(), &Command::name);
  if (command == std::end(kCommands)) {
    return BadUsage(
        {fmt::format("there is no command {}; `farside help` lists them", Quote(args.front())), 0});
  }
  return command->run({args.begin() + 1, args.end()});
}

std::span<const Command> Commands() { return kCommands; }

int VersionCommand(const Arguments& args) {
  if (!args.empty()) return BadUsage({"version takes no arguments", 0});
  fmt::print("farside {}\n", kVersion);
  return kOk;
}

}  // namespace farside::cli
