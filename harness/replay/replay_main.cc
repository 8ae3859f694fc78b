#include "harness/replay/replay_main.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/option_error.h"
#include "base/options.h"
#include "harness/replay/replayer.h"
#include "harness/scenario/remote_process.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/served_process.h"
#include "harness/trace/event_file.h"

namespace farside::replay {
namespace {

namespace po = boost::program_options;
using scenario::ServedProcess;

constexpr int kDiverged = 1;
constexpr int kBadUsage = 2;

constexpr OptionWord<Level> kLevels[] = {
    {"exact", Level::kExact}, {"memory", Level::kMemory}, {"guest", Level::kGuest}};

struct CommandLine {
  std::string trace;
  std::string level_word = "memory";
  std::string connect;
  std::string bin_dir;
  std::string json;
  std::string device;  // Empty: all.
  std::string protocol = "vfio-user";
  std::vector<std::string> program;  // Behind "--": what is started instead of what the trace says.
  bool in_process = false;
  bool help = false;
  ReplayOptions replay;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("level", po::value<std::string>()->value_name("exact|memory|guest"),
      "what is compared. memory (default): what reads give, interrupts per vector, what the "
      "device writes to memory. guest: what reads give; interrupts and written bytes are only "
      "waited "
      "for. exact: every event in its one order, in process");
  add("connect", po::value<std::string>()->value_name("PATH"),
      "replay against the server on this UNIX socket; it must be in the state in which the "
      "recording began");
  add("protocol", po::value<std::string>()->value_name("vfio-user|mpqemu"),
      "what PROGRAM speaks. mpqemu: %FD% in ARGS is its end of the channel; memory is shared, so "
      "of what the device writes only the recorded bytes are looked at");
  add("in-process", "make the device in farside itself, instead of starting a process");
  add("bin-dir", po::value<std::string>()->value_name("DIR"),
      "look for the trace's program here first; then beside farside, then in PATH");
  add("device", po::value<std::string>()->value_name("ID"),
      "replay only this device's events; default: each device, one after the other");
  add("speed", po::value<std::string>()->value_name("max|recorded|xN"),
      "max (default): as fast as it goes; recorded: as it was; x2: twice as fast as that");
  add("timeout-ms", po::value<uint64_t>()->value_name("N"),
      "how long an output of the device may be missing; default 2000");
  add("json", po::value<std::string>()->value_name("FILE"), "write the result as JSON, too");
  add("help,h", "print this text");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text << "Usage: farside replay [OPTIONS] TRACE [-- PROGRAM ARGS...]\n\n"
          "Gives a recorded guest's events to a fresh device and compares what the device does.\n"
          "The device is what the trace's first block names, or PROGRAM (started with\n"
          "--socket-path=PATH behind ARGS; with --protocol mpqemu, as QEMU's remote is), or a\n"
          "server that listens already (--connect).\n\n"
       << Described()
       << "\nExit status: 0 nothing diverged, 1 something did, 2 it could not be replayed.\n";
  return text.str();
}

Result<double> ParseSpeed(const std::string& text) {
  if (text == "max") return 0;
  if (text == "recorded") return 1;
  char* end = nullptr;
  const double factor = text.starts_with('x') ? std::strtod(text.c_str() + 1, &end) : 0;
  if (end != nullptr && *end == '\0' && factor > 0 && factor <= 1e6) return factor;
  return Fail("--speed {}: give max, recorded or a factor like x2", Quote(text));
}

Result<CommandLine> Parse(const std::vector<std::string>& args) {
  const auto end = std::ranges::find(args, "--");
  po::options_description all = Described();
  all.add_options()("trace", po::value<std::string>());
  po::positional_options_description positional;
  positional.add("trace", 1);
  po::variables_map given;
  CommandLine line;
  std::string level = "memory";
  std::string speed = "max";
  try {
    po::store(
        po::command_line_parser(std::vector<std::string>(args.begin(), end))
            .options(all)
            .positional(positional)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        given);
    for (const auto& [name, to] :
         {std::pair("trace", &line.trace), std::pair("level", &line.level_word),
          std::pair("connect", &line.connect), std::pair("bin-dir", &line.bin_dir),
          std::pair("device", &line.device), std::pair("json", &line.json),
          std::pair("protocol", &line.protocol), std::pair("speed", &speed)}) {
      if (given.count(name) != 0) *to = given[name].as<std::string>();
    }
    if (given.count("timeout-ms") != 0) {
      const auto ms = std::clamp<uint64_t>(given["timeout-ms"].as<uint64_t>(), 1, 3'600'000);
      line.replay.timeout_ns = ms * 1'000'000;
    }
  } catch (const po::error& error) {
    return Fail("{}; farside replay --help lists what there is", OptionErrorText(error, args));
  }
  line.help = given.count("help") != 0;
  line.in_process = given.count("in-process") != 0;
  if (end != args.end()) line.program.assign(end + 1, args.end());
  if (line.help) return line;
  if (line.trace.empty()) return Fail("name a trace; farside replay --help explains the rest");
  const auto found = std::ranges::find(kLevels, line.level_word, &OptionWord<Level>::first);
  if (found == std::end(kLevels)) {
    return Fail("--level {}: give exact, memory or guest", Quote(line.level_word));
  }
  line.replay.level = found->second;
  if (line.replay.level == Level::kExact) line.in_process = true;
  const auto factor = ParseSpeed(speed);
  if (!factor) return tl::unexpected(factor.error());
  line.replay.speed = *factor;
  if (line.replay.level == Level::kExact && (!line.connect.empty() || !line.program.empty())) {
    return Fail(
        "--level exact replays in process only, which has the one order of events: leave "
        "{} away, or use --level memory",
        line.connect.empty() ? "-- PROGRAM" : "--connect");
  }
  if (int{line.in_process} + int{!line.connect.empty()} + int{!line.program.empty()} > 1) {
    return Fail("give one of --connect, --in-process and -- PROGRAM");
  }
  if (line.protocol == "mpqemu") {
    if (!line.connect.empty() || line.in_process || line.program.empty()) {
      return Fail("--protocol mpqemu needs -- PROGRAM ARGS..., with %FD% in ARGS");
    }
  } else if (line.protocol != "vfio-user") {
    return Fail("--protocol {}: give vfio-user or mpqemu", Quote(line.protocol));
  }
  return line;
}

// What serves `device` of the trace.
Result<std::unique_ptr<ServedProcess>> StartProcess(const CommandLine& line,
                                                    const trace::TraceInfo& info,
                                                    const trace::TraceInfo::Device& device) {
  if (!line.program.empty()) {
    std::vector<std::string> args(line.program.begin() + 1, line.program.end());
    args.push_back(fmt::format("--socket-path={}", scenario::kSocketPlace));
    return ServedProcess::Start(line.program.front(), std::move(args), line.bin_dir);
  }
  if (info.program.empty() || info.args.empty()) {
    return Fail("{} does not say what served it: name a server with --connect PATH or -- PROGRAM",
                line.trace);
  }
  // The wire tap notes the server's whole command line, the device tap its own options.
  std::vector<std::string> args = info.args;
  std::string program = info.program.substr(0, info.program.find(' '));
  if (info.tap == trace::TraceInfo::Tap::kWire) {
    program = args.front();
    args.erase(args.begin());
  }
  if (info.devices.size() == 1) {
    args.push_back(fmt::format("--socket-path={}", scenario::kSocketPlace));
  } else {
    args.insert(args.end(),
                {"-object", fmt::format("x-vfio-user-server,id=replay,type=unix,path={},device={}",
                                        scenario::kSocketPlace, device.id)});
  }
  return ServedProcess::Start(program, std::move(args), line.bin_dir);
}

// PROGRAM at the other end of an mpqemu channel. It ends when the channel does.
Result<ReplayResult> ReplayOverMpqemu(const CommandLine& line, const ReplayOptions& options) {
  constexpr uint64_t kEndNs = 5'000'000'000;
  const std::vector<std::string> args(line.program.begin() + 1, line.program.end());
  auto remote = scenario::RemoteProcess::Start(line.program.front(), line.program.front(), args,
                                               line.bin_dir);
  if (!remote) return tl::unexpected(remote.error());
  auto target = MakeMpqemuTarget(std::move(remote->socket), remote->child->pid());
  auto result = target ? Replay(line.trace, **target, options) : tl::unexpected(target.error());
  if (target) target->reset();
  const auto ended = remote->child->Wait(kEndNs);
  if (!result || result->divergence) return result;
  if (!ended) return Fail("{} does not end when its channel is closed", line.program.front());
  if (!ended->signalled && ended->code == 0) return result;
  return Fail("{} {} at the end: {}", line.program.front(), ended->Text(),
              fmt::format("{}", fmt::join(remote->child->LastLines(4), " | ")));
}

class Progress {
 public:
  Progress() : terminal_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() { Show(""); }
  void Show(const std::string& text) const {
    if (terminal_) fmt::print(stderr, "\r\033[K{}", text);
  }

 private:
  const bool terminal_;
};

Result<ReplayResult> ReplayDevice(const CommandLine& line, const trace::TraceInfo& info,
                                  uint32_t index) {
  ReplayOptions options = line.replay;
  options.device = index;
  Progress progress;
  options.on_progress = [&](uint32_t events) {
    progress.Show(fmt::format("{} events ...", events));
  };
  if (line.in_process) {
    if (options.level == Level::kExact && info.tap == trace::TraceInfo::Tap::kWire) {
      return Fail(
          "{} was recorded on the wire, which has no one order of events: use --level memory",
          line.trace);
    }
    const auto target = MakeTargetInProcess(info);
    if (!target) return tl::unexpected(target.error());
    return Replay(line.trace, **target, options);
  }
  if (line.protocol == "mpqemu") return ReplayOverMpqemu(line, options);
  std::unique_ptr<ServedProcess> process;
  if (line.connect.empty()) {
    auto started = StartProcess(line, info, info.devices[index]);
    if (!started) return tl::unexpected(started.error());
    process = std::move(*started);
  }
  auto target = process ? process->Connect(&ConnectTarget) : ConnectTarget(line.connect);
  if (!target) return tl::unexpected(target.error());
  auto result = Replay(line.trace, **target, options);
  target->reset();
  if (!process || !result || result->divergence) return result;
  if (auto finished = process->Finish(); !finished) return tl::unexpected(finished.error());
  return result;
}

nlohmann::json JsonOf(const std::string& device, const ReplayResult& result) {
  nlohmann::json json = {{"device", device},
                         {"events", result.events},
                         {"guest_events", result.guest_events},
                         {"dma_bytes", result.dma_bytes},
                         {"interrupts", result.interrupts},
                         {"polls", result.polls},
                         {"recorded_ns", result.recorded_ns},
                         {"elapsed_ns", result.elapsed_ns},
                         {"truncated", result.truncated},
                         {"divergence", nullptr}};
  if (result.divergence) {
    json["divergence"] = {{"event", result.divergence->event},
                          {"time_ns", result.divergence->time_ns},
                          {"what", result.divergence->what},
                          {"expected", result.divergence->expected},
                          {"got", result.divergence->got}};
  }
  return json;
}

void PrintResult(const CommandLine& line, const std::string& device, const ReplayResult& result) {
  const double seconds = static_cast<double>(std::max<uint64_t>(result.elapsed_ns, 1)) / 1e9;
  fmt::print(
      "{}: {}: {} events, {} of them the guest's; {:.1f} MiB of DMA, {} interrupts\n"
      "  recorded in {:.2f} s, replayed in {:.2f} s ({:.0f} events/s) at level {}\n",
      line.trace, device, result.events, result.guest_events,
      static_cast<double>(result.dma_bytes) / (1 << 20), result.interrupts,
      static_cast<double>(result.recorded_ns) / 1e9, seconds,
      static_cast<double>(result.events) / seconds, line.level_word);
  if (result.polls != 0) {
    fmt::print("  {} polls found the device earlier or later in its work than the recorded one\n",
               result.polls);
  }
  if (result.truncated) fmt::print("  the trace is cut off; what there is was replayed\n");
  if (!result.divergence) {
    fmt::print("  nothing diverged\n");
    return;
  }
  const Divergence& found = *result.divergence;
  fmt::print("  DIVERGED at event {}, {:.6f} s: {}\n    expected  {}\n    got       {}\n",
             found.event, static_cast<double>(found.time_ns) / 1e9, found.what, found.expected,
             found.got);
  const auto around = DescribeAround(line.trace, found.event);
  for (const std::string& text : around.value_or(std::vector<std::string>())) {
    fmt::print("  {}\n", text);
  }
}

Result<int> Run(const CommandLine& line) {
  const auto source = trace::OpenEvents(line.trace);
  if (!source) return tl::unexpected(source.error());
  const trace::TraceInfo& info = (*source)->info();
  if (!info.note.empty()) fmt::print("{}\n", info.note);
  int status = 0;
  nlohmann::json results = nlohmann::json::array();
  for (uint32_t index = 0; index < info.devices.size(); ++index) {
    const std::string& id = info.devices[index].id;
    if (!line.device.empty() && line.device != id) continue;
    const auto result = ReplayDevice(line, info, index);
    if (!result) return tl::unexpected(result.error());
    if (result->guest_events == 0) {
      return Fail("{} has nothing to replay for {}: no event of a guest{}", line.trace, id,
                  result->truncated ? " before it is cut off" : "");
    }
    PrintResult(line, id, *result);
    results.push_back(JsonOf(id, *result));
    if (result->divergence) status = kDiverged;
  }
  if (results.empty()) {
    return Fail("{} has no device{}", line.trace,
                line.device.empty() ? "" : " with the id " + Quote(line.device));
  }
  if (!line.json.empty()) {
    std::ofstream file(line.json, std::ios::trunc);
    file << nlohmann::json{{"trace", line.trace}, {"level", line.level_word}, {"devices", results}}
                .dump(1)
         << "\n";
    file.close();
    if (!file)
      return Fail("cannot write {}: does its directory exist, and is there room?", line.json);
  }
  return status;
}

}  // namespace

int ReplayMain(const std::vector<std::string>& args) {
  const auto line = Parse(args);
  if (line && line->help) {
    fmt::print("{}", Help());
    return 0;
  }
  const Result<int> status = line ? Run(*line) : tl::unexpected(line.error());
  if (status) return *status;
  fmt::print(stderr, "farside: replay: {}\n", status.error().message);
  return kBadUsage;
}

}  // namespace farside::replay
