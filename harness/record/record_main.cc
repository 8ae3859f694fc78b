#include "harness/record/record_main.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cerrno>
#include <sstream>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/log.h"
#include "base/option_error.h"
#include "base/options.h"
#include "base/version.h"
#include "devices/server/sigbus.h"
#include "harness/record/mpqemu_main.h"
#include "harness/record/recorder.h"
#include "harness/record/signal_watcher.h"

namespace farside::record {
namespace {

namespace po = boost::program_options;

struct CommandLine {
  RecorderOptions recorder;
  std::string output;
  std::string model;
  std::vector<std::string> args;
  std::string protocol;
  std::string client;
  bool help = false;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("listen", po::value<std::string>()->value_name("PATH"),
      "the UNIX socket that the client is given instead of the server's");
  add("connect", po::value<std::string>()->value_name("PATH"), "the server's UNIX socket");
  add("output", po::value<std::string>()->value_name("FILE"), "the trace; overwritten");
  add("dma", po::value<std::string>()->value_name("message|shared"),
      "message (default): memory is kept from the server, so that its DMA comes by message and is "
      "recorded; shared: for servers that need the memory itself, whose DMA is not recorded then");
  add("protocol", po::value<std::string>()->value_name("vfio-user|mpqemu"),
      "default: vfio-user. mpqemu: both ends are started, with %FD% in their arguments an end of "
      "the channel; DMA is not visible there");
  add("client", po::value<std::string>()->value_name("'PROGRAM ARG...'"),
      "mpqemu: the client's command line, split at blanks; PROGRAM behind -- is the server's");
  add("id", po::value<std::string>()->value_name("ID"), "the device's id; default: device0");
  add("model", po::value<std::string>()->value_name("MODEL"),
      "the device's model, which decides how registers are named: nvme; default: found out from "
      "its PCI class");
  add("help,h", "print this text");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text << "Usage: farside record --listen PATH --connect PATH --output FILE [OPTION...] "
          "[-- PROGRAM ARG...]\n"
          "       farside record --protocol mpqemu --client 'PROGRAM ARG...' --output FILE "
          "[OPTION...]\n          -- PROGRAM ARG...\n\n"
          "Stands between a vfio-user client and its server and records what passes, until SIGINT\n"
          "or SIGTERM. PROGRAM and its arguments are what a replay starts; they are only noted.\n\n"
       << Described()
       << "\nExample:\n  farside record --listen /run/tap.sock --connect /run/nvme0.sock "
          "--output boot.trace\n  and QEMU with ...\"socket\":{\"type\":\"unix\",\"path\":"
          "\"/run/tap.sock\"}...\n";
  return text.str();
}

Result<CommandLine> Parse(const std::vector<std::string>& args) {
  const auto end = std::ranges::find(args, "--");
  po::variables_map given;
  try {
    po::store(
        po::command_line_parser(std::vector<std::string>(args.begin(), end))
            .options(Described())
            .positional({})
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        given);
  } catch (const po::error& error) {
    return Fail("{}; farside record --help lists what there is", OptionErrorText(error, args));
  }
  CommandLine line;
  line.help = given.count("help") != 0;
  if (line.help) return line;
  const auto text = [&](const char* name, std::string fallback) {
    return given.count(name) == 0 ? std::move(fallback) : given[name].as<std::string>();
  };
  line.protocol = text("protocol", "vfio-user");
  line.client = text("client", "");
  if (line.protocol != "vfio-user" && line.protocol != "mpqemu") {
    return Fail("--protocol={}: give vfio-user or mpqemu", line.protocol);
  }
  const bool mpqemu = line.protocol == "mpqemu";
  if (mpqemu != (given.count("client") != 0)) {
    return Fail("--client and --protocol=mpqemu come together");
  }
  for (const auto& [name, to] :
       {std::pair("listen", &line.recorder.listen), std::pair("connect", &line.recorder.connect),
        std::pair("output", &line.output)}) {
    *to = text(name, "");
    const bool of_sockets = to != &line.output;
    if (mpqemu && of_sockets && !to->empty()) return Fail("--{} is of vfio-user", name);
    if (mpqemu && of_sockets) continue;
    if (to->empty()) return Fail("--{} is missing; farside record --help explains it", name);
  }
  line.recorder.id = text("id", "device0");
  line.model = text("model", "");
  const std::string dma = text("dma", "message");
  if (dma != "message" && dma != "shared") {
    return Fail("--dma={}: give message or shared", dma);
  }
  line.recorder.dma = dma == "shared" ? DmaMode::kShared : DmaMode::kMessage;
  if (end != args.end()) line.args.assign(end + 1, args.end());
  return line;
}

// Every vector costs two descriptors.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // As it was will do for most devices.
}

std::string Size(uint64_t bytes) {
  constexpr uint64_t kKib = 1024;
  if (bytes < 10 * kKib) return fmt::format("{} bytes", bytes);
  if (bytes < 10 * kKib * kKib) return fmt::format("{} KiB", bytes / kKib);
  return fmt::format("{} MiB", bytes / kKib / kKib);
}

void PrintSummary(const CommandLine& line, const Recording& recording) {
  const Counts& counts = recording.counts();
  struct stat file {};
  stat(line.output.c_str(), &file);
  const bool shared = line.recorder.dma == DmaMode::kShared;
  fmt::print(
      "{}: {} client{}, {} messages, {} bytes read and {} written by DMA{}, {} interrupts "
      "in {:.1f} s; {}\n",
      line.output, counts.clients, counts.clients == 1 ? "" : "s", counts.messages,
      counts.dma_read_bytes, counts.dma_written_bytes,
      shared ? " messages (DMA to shared memory is not recorded: --dma=shared)" : "",
      counts.interrupts, static_cast<double>(recording.elapsed_ns()) / 1e9,
      Size(static_cast<uint64_t>(file.st_size)));
}

Result<void> Run(const CommandLine& line) {
  if (auto installed = InstallSigbusHandler(); !installed) return installed;
  RaiseDescriptorLimit();
  const MonotonicClock clock;
  auto loop = EpollLoop::Create(clock);
  if (!loop) return tl::unexpected(loop.error());
  SignalWatcher signals(**loop);
  if (auto started = signals.Start(); !started) return started;
  const bool shared = line.recorder.dma == DmaMode::kShared;
  const trace::TraceInfo info{
      .program = fmt::format("farside record {}", kVersion),
      .tap = trace::TraceInfo::Tap::kWire,
      .dma = shared ? trace::TraceInfo::Dma::kDirect : trace::TraceInfo::Dma::kMessage,
      .clock = trace::TraceInfo::ClockKind::kMonotonic,
      .args = line.args,
      .devices = {{line.recorder.id, line.model}}};
  auto recording = Recording::Create(line.output, info, **loop);
  if (!recording) return tl::unexpected(recording.error());
  auto recorder = Recorder::Create(**loop, **recording, line.recorder);
  if (!recorder) return tl::unexpected(recorder.error());
  LogInfo(line.recorder.id, "recording to {}: clients at {}, the server at {}{}", line.output,
          line.recorder.listen, line.recorder.connect,
          shared ? "; DMA to shared memory is not recorded" : "");
  (*loop)->Run();
  recorder->reset();
  const auto finished = (*recording)->Finish();
  PrintSummary(line, **recording);
  return finished;
}

Result<void> Dispatch(const CommandLine& line) {
  if (line.protocol != "mpqemu") return Run(line);
  return RecordMpqemu({.output = line.output,
                       .id = line.recorder.id,
                       .model = line.model,
                       .client = line.client,
                       .program = line.args});
}

}  // namespace

int RecordMain(const std::vector<std::string>& args) {
  const auto line = Parse(args);
  if (line && line->help) {
    fmt::print("{}", Help());
    return 0;
  }
  const auto run = line ? Dispatch(*line) : tl::unexpected(line.error());
  if (run) return 0;
  fmt::print(stderr, "farside: record: {}\n", run.error().message);
  return 2;
}

}  // namespace farside::record
