#include "harness/trace/trace_main.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/option_error.h"
#include "base/options.h"
#include "harness/trace/event_file.h"
#include "harness/trace/event_text.h"
#include "harness/trace/flat_event.h"
#include "harness/trace/scenario_file.h"
#include "harness/trace/trace_stats.h"

namespace farside::trace {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kUsage =
    "Usage: farside trace show TRACE [--from N] [--to N] [--device ID] [--data] [--json]\n"
    "       farside trace stats TRACE\n"
    "       farside trace convert IN OUT\n"
    "       farside trace scenario TRACE OUT.json [--device ID]\n\n"
    "show prints a line for each event: number, seconds, > for what goes to the device and < for\n"
    "what comes from it, then what it says. stats counts. convert makes one form of a trace of\n"
    "another, without loss: FILE.trace (compressed pcapng), FILE.pcapng (plain), FILE.json.\n"
    "scenario makes a scenario of a device tap's trace: raw verbs, with what the device answered,\n"
    "wrote and signalled as what is expected.\n"
    "A trace that was cut is read up to the cut, and that is said.\n\n";

struct CommandLine {
  std::vector<std::string> files;
  uint64_t from = 0;
  uint64_t to = UINT64_MAX;
  std::optional<std::string> device;
  bool data = false;
  bool json = false;
};

po::options_description Described() {
  po::options_description all("Options of show");
  auto add = all.add_options();
  add("from", po::value<uint64_t>()->value_name("N"), "the first event that is shown");
  add("to", po::value<uint64_t>()->value_name("N"), "the last one");
  add("device", po::value<std::string>()->value_name("ID"), "only events of this device");
  add("data", "the bytes that a message carries, too");
  add("json", "a JSON object for each event, spelled as by convert, with what it says in \"text\"");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text << kUsage << Described();
  return text.str();
}

Result<CommandLine> Parse(const std::vector<std::string>& args) {
  po::options_description all = Described();
  all.add_options()("files", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("files", -1);
  po::variables_map given;
  CommandLine line;
  try {
    po::store(
        po::command_line_parser(args)
            .options(all)
            .positional(positional)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        given);
    if (given.count("files") != 0) line.files = given["files"].as<std::vector<std::string>>();
    if (given.count("from") != 0) line.from = given["from"].as<uint64_t>();
    if (given.count("to") != 0) line.to = given["to"].as<uint64_t>();
    if (given.count("device") != 0) line.device = given["device"].as<std::string>();
    line.data = given.count("data") != 0;
    line.json = given.count("json") != 0;
  } catch (const po::error& error) {
    return Fail("{}; farside trace --help lists what there is", OptionErrorText(error, args));
  }
  return line;
}

// Calls visit(event) for all events; it returns false to stop. Says if the trace was cut.
template <typename Visit>
Result<void> ForEachEvent(const std::string& path, EventSource& source, const Visit& visit) {
  uint64_t events = 0;
  for (;;) {
    auto event = source.Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) break;
    ++events;
    const Result<bool> more = visit(**event);
    if (!more) return tl::unexpected(more.error());
    if (!*more) return {};
  }
  if (source.truncated()) {
    std::fflush(stdout);
    fmt::print(stderr,
               "farside trace: {} was cut behind event {}: its recorder was killed, or the file is "
               "incomplete\n",
               path, events == 0 ? "-1" : fmt::format("{}", events - 1));
  }
  return {};
}

Result<std::optional<uint32_t>> FindDevice(const CommandLine& line, const TraceInfo& info) {
  if (!line.device) return std::nullopt;
  const auto found = std::ranges::find(info.devices, *line.device, &TraceInfo::Device::id);
  if (found != info.devices.end()) return static_cast<uint32_t>(found - info.devices.begin());
  std::string ids;
  for (const auto& device : info.devices) ids += (ids.empty() ? "" : ", ") + device.id;
  return Fail("--device {}: {} has {}", Quote(*line.device), line.files.front(),
              ids.empty() ? "no device" : ids);
}

Result<void> Show(const CommandLine& line) {
  const std::string& path = line.files.front();
  auto source = OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  const TraceInfo& info = (*source)->info();
  const auto only = FindDevice(line, info);
  if (!only) return tl::unexpected(only.error());
  EventText text(info);
  return ForEachEvent(path, **source, [&](const Event& event) -> Result<bool> {
    if (event.number > line.to) return false;
    const std::string described = text.Describe(event);
    if (event.number < line.from || (*only && event.device != **only)) return true;
    if (line.json) {
      nlohmann::json flat = Flatten(info, event);
      flat["number"] = event.number;
      flat["text"] = described;
      fmt::print("{}\n", FormatFlat(flat));
    } else {
      fmt::print("{}{}\n", LinePrefix(info, event), described);
    }
    if (line.data) fmt::print("{}", HexDump(DataOf(event)));
    if (std::ferror(stdout) != 0) {
      return FailWith(errno, "cannot write: {}", ErrnoText(errno));
    }
    return true;
  });
}

std::string InfoText(const TraceInfo& info) {
  std::string text =
      fmt::format("{}, {}", info.program.empty() ? "unknown recorder" : info.program,
                  info.tap == TraceInfo::Tap::kWire ? "on the wire" : "in the device");
  text += info.dma == TraceInfo::Dma::kMessage ? ", DMA by message"
          : info.tap == TraceInfo::Tap::kWire  ? ", DMA to shared memory is not in it"
                                               : "";
  for (const auto& device : info.devices) {
    text += fmt::format("; {}{}", device.id,
                        device.model.empty() ? "" : fmt::format(" ({})", device.model));
  }
  return text;
}

Result<void> Stats(const CommandLine& line) {
  const std::string& path = line.files.front();
  auto source = OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  TraceStats stats((*source)->info());
  auto read = ForEachEvent(path, **source, [&](const Event& event) -> Result<bool> {
    stats.Add(event);
    return true;
  });
  if (!read) return read;
  struct stat file {};
  stat(path.c_str(), &file);
  const TraceInfo& info = (*source)->info();
  if (!info.note.empty()) fmt::print("{}\n", info.note);
  fmt::print("{}: {}\n{:>10} bytes in the file\n{}", path, InfoText(info), file.st_size,
             stats.Report());
  return {};
}

Result<void> CopyEvents(const std::string& in, EventSource& source, EventSink& sink) {
  auto copied = ForEachEvent(in, source, [&](const Event& event) -> Result<bool> {
    if (auto written = sink.Write(event); !written) return tl::unexpected(written.error());
    return true;
  });
  return copied ? sink.Finish() : copied;
}

bool IsSameFile(const std::string& a, const std::string& b) {
  struct stat one {};
  struct stat other {};
  return stat(a.c_str(), &one) == 0 && stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

Result<void> Convert(const CommandLine& line) {
  const std::string& in = line.files[0];
  const std::string& out = line.files[1];
  auto source = OpenEvents(in);
  if (!source) return tl::unexpected(source.error());
  if (IsSameFile(in, out)) return Fail("{} is both what is read and what is written", out);
  auto sink = CreateEvents(out, (*source)->info());
  if (!sink) return tl::unexpected(sink.error());
  auto copied = CopyEvents(in, **source, **sink);
  // Half a trace would look like a whole one.
  if (!copied) unlink(out.c_str());
  return copied;
}

Result<void> Scenario(const CommandLine& line) {
  const auto source = OpenEvents(line.files[0]);
  if (!source) return tl::unexpected(source.error());
  const auto device = FindDevice(line, (*source)->info());
  if (!device) return tl::unexpected(device.error());
  return WriteScenario(line.files[0], device->value_or(0), line.files[1]);
}

struct Subcommand {
  std::string_view name;
  size_t files;
  Result<void> (*run)(const CommandLine& line);
};

constexpr Subcommand kSubcommands[] = {
    {"show", 1, &Show},
    {"stats", 1, &Stats},
    {"convert", 2, &Convert},
    {"scenario", 2, &Scenario},
};

Result<void> Dispatch(const std::vector<std::string>& args) {
  const auto found = args.empty() ? std::end(kSubcommands)
                                  : std::ranges::find(kSubcommands, args[0], &Subcommand::name);
  if (found == std::end(kSubcommands)) {
    return Fail("{}: give show, stats, convert or scenario; farside trace --help explains them",
                args.empty() ? "what is to be done is missing" : Quote(args[0]));
  }
  const auto line = Parse({args.begin() + 1, args.end()});
  if (!line) return tl::unexpected(line.error());
  if (line->files.size() != found->files) {
    return Fail("{} takes {}, not {}; farside trace --help explains it", found->name,
                found->files == 1 ? "a trace" : "a trace and what to make of it",
                line->files.size());
  }
  const bool shows = line->data || line->json || line->from != 0 || line->to != UINT64_MAX;
  if (shows && found->run != &Show) {
    return Fail("--from, --to, --data and --json go with show");
  }
  if (line->device && found->run != &Show && found->run != &Scenario) {
    return Fail("--device goes with show and scenario");
  }
  return found->run(*line);
}

}  // namespace

int TraceMain(const std::vector<std::string>& args) {
  const bool asks = std::ranges::any_of(
      args, [](const std::string& arg) { return arg == "--help" || arg == "-h"; });
  if (asks) {
    fmt::print("{}", Help());
    return 0;
  }
  const auto done = Dispatch(args);
  if (done) return 0;
  std::fflush(stdout);
  fmt::print(stderr, "farside: trace: {}\n", done.error().message);
  return 2;
}

}  // namespace farside::trace
