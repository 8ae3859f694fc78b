#include "harness/diff/diff_main.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/option_error.h"
#include "base/options.h"
#include "harness/diff/differ.h"
#include "harness/diff/event_list.h"
#include "harness/diff/generator.h"
#include "harness/diff/lawful.h"
#include "harness/diff/target.h"
#include "harness/scenario/value.h"

namespace farside::diff {
namespace {

namespace po = boost::program_options;

constexpr int kDiffers = 1;
constexpr int kBadUsage = 2;
constexpr size_t kShown = 10;  // Events before a difference.
constexpr uint64_t kProgressEvery = 256;

struct CommandLine {
  std::string file;  // Or `seed`.
  std::optional<uint64_t> seed;
  uint64_t events = 10'000;  // Of each seed.
  uint64_t seeds = 1;
  std::string device;
  std::string a;
  std::string b;
  std::string bin_dir;
  std::string lawful;
  std::string output;
  std::string json;
  bool help = false;
  DiffOptions options;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  add("random", text("SEED"), "make up the events: register accesses and a driver's work");
  add("events", text("N"), "how many events of a seed; default 10000");
  add("seeds", text("N"), "run N seeds, from SEED on, each against fresh devices; default 1");
  add("device", text("MODEL"), "what both are; default: what the file says");
  add("a", text("TARGET"),
      "one device: 'PROGRAM ARGS...', started with --socket-path=PATH behind "
      "ARGS unless %SOCKET% is in them; or socket:PATH, which listens already");
  add("b", text("TARGET"), "the other one");
  add("bin-dir", text("DIR"), "look for programs here first; then beside farside, then in PATH");
  add("lawful", text("FILE"), "differences that a data sheet allows");
  add("timeout-ms", text("N"), "how long one side may lag behind; default 2000");
  add("output", text("FILE"), "write the events up to a difference, for farside diff FILE");
  add("json", text("FILE"), "write the result as JSON, too");
  add("help,h", "print this text");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text << "Usage: farside diff --random SEED --device MODEL --a TARGET --b TARGET [OPTIONS]\n"
          "       farside diff FILE --a TARGET --b TARGET [OPTIONS]\n\n"
          "Gives two devices the same events and compares the answers, interrupts, and guest\n"
          "memory wherever both are quiet. FILE is a trace, or a list of events (.json).\n"
          "Models: "
       << ModelNames() << ".\n\n"
       << Described()
       << "\nExit status: 0 no difference, 1 a difference, 2 they could not be compared.\n";
  return text.str();
}

Result<uint64_t> ParseNumber(const po::variables_map& given, const char* name, uint64_t fallback,
                             uint64_t most) {
  if (given.count(name) == 0) return fallback;
  const auto text = given[name].as<std::string>();
  const auto number = scenario::ReadNumber(text);
  if (number && *number <= most) return *number;
  return Fail("--{} {}: give a number up to {}", name, Quote(text), most);
}

Result<void> CheckLine(const CommandLine& line) {
  if (line.file.empty() == !line.seed.has_value()) {
    return Fail("give a file or --random SEED; farside diff --help explains the rest");
  }
  if (line.a.empty() || line.b.empty()) return Fail("name both devices: --a TARGET --b TARGET");
  if (line.seed && line.device.empty()) return Fail("--random needs --device: {}", ModelNames());
  if (line.seeds == 0 || line.events == 0) return Fail("--events and --seeds are at least 1");
  if (!line.file.empty() && line.seeds != 1) return Fail("--seeds is for --random");
  return {};
}

Result<CommandLine> Parse(const std::vector<std::string>& args) {
  po::options_description all = Described();
  all.add_options()("file", po::value<std::string>());
  po::positional_options_description positional;
  positional.add("file", 1);
  po::variables_map given;
  try {
    po::store(
        po::command_line_parser(args)
            .options(all)
            .positional(positional)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        given);
  } catch (const po::error& error) {
    return Fail("{}; farside diff --help lists what there is", OptionErrorText(error, args));
  }
  CommandLine line;
  line.help = given.count("help") != 0;
  if (line.help) return line;
  for (const auto& [name, to] :
       {std::pair("file", &line.file), std::pair("device", &line.device), std::pair("a", &line.a),
        std::pair("b", &line.b), std::pair("bin-dir", &line.bin_dir),
        std::pair("lawful", &line.lawful), std::pair("output", &line.output),
        std::pair("json", &line.json)}) {
    if (given.count(name) != 0) *to = given[name].as<std::string>();
  }
  const auto seed = ParseNumber(given, "random", 0, UINT64_MAX);
  const auto events = ParseNumber(given, "events", line.events, 1'000'000'000);
  const auto seeds = ParseNumber(given, "seeds", 1, 1'000'000);
  const auto timeout = ParseNumber(given, "timeout-ms", 2000, 3'600'000);
  for (const auto* number : {&seed, &events, &seeds, &timeout}) {
    if (!*number) return tl::unexpected(number->error());
  }
  if (given.count("random") != 0) line.seed = *seed;
  line.events = *events;
  line.seeds = *seeds;
  line.options.settle_ns = std::max<uint64_t>(*timeout, 1) * 1'000'000;
  if (auto checked = CheckLine(line); !checked) return tl::unexpected(checked.error());
  return line;
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

// One comparison, from fresh devices to its result.
struct Comparison {
  const CommandLine& line;
  const Model& model;
  const Lawful& lawful;
  Target& a;
  Target& b;
};

struct Outcome {
  std::string name;  // "seed 0x1", or the file.
  DiffResult result;
  uint64_t compared_bits = 0;
  uint64_t bits_of_reads = 0;
  uint64_t lawful_bits = 0;
  uint64_t lawful_bytes = 0;
  uint64_t elapsed_ns = 0;
  EventList list;  // Up to the difference, if there is one.
};

// Runs the events of `given`, or makes up those of its seed.
Result<Outcome> Compare(const Comparison& comparison, EventList given, std::string name) {
  const auto& [line, model, lawful, target_a, target_b] = comparison;
  if (given.memory.empty()) given.memory.assign(model.memory().begin(), model.memory().end());
  auto a = Side::Create("A", target_a, given.memory);
  if (!a) return tl::unexpected(a.error());
  auto b = Side::Create("B", target_b, given.memory);
  if (!b) return tl::unexpected(b.error());
  Differ differ(model, lawful, **a, **b, line.options);
  const MonotonicClock clock;
  if (auto started = differ.Start(); !started) return tl::unexpected(started.error());
  Outcome outcome;
  outcome.name = std::move(name);
  outcome.list = std::move(given);
  std::optional<Generator> generator;
  if (outcome.list.seed && outcome.list.events.empty()) {
    generator.emplace(model, *outcome.list.seed, lawful);
  }
  const uint64_t count = generator ? line.events : outcome.list.events.size();
  const uint64_t start = clock.now_ns();
  const Progress progress;
  for (uint64_t i = 0; i < count; ++i) {
    if (generator) outcome.list.events.push_back(generator->Next());
    const auto same = differ.Step(outcome.list.events[i]);
    if (!same) return Fail("event {}: {}", i, same.error().message);
    if (!*same) break;
    if (i % kProgressEvery == 0) {
      progress.Show(fmt::format("{}: {} of {} events ...", outcome.name, i, count));
    }
  }
  if (auto finished = differ.Finish(); !finished) return tl::unexpected(finished.error());
  outcome.elapsed_ns = clock.now_ns() - start;
  outcome.result = differ.result();
  outcome.compared_bits = differ.comparator().compared_bits();
  outcome.bits_of_reads = differ.comparator().bits_of_reads();
  outcome.lawful_bits = differ.comparator().lawful_bits();
  outcome.lawful_bytes = differ.comparator().lawful_bytes();
  outcome.list.events.resize(outcome.result.events);
  return outcome;
}

void PrintDifference(const Comparison& comparison, const Outcome& outcome) {
  const CommandLine& line = comparison.line;
  const Difference& found = *outcome.result.difference;
  fmt::print("  DIFFERENCE at event {}: {}\n    A  {}\n    B  {}\n", found.event, found.what,
             found.a, found.b);
  if (!found.detail.empty()) fmt::print("    {}\n", found.detail);
  const uint64_t first = found.event < kShown ? 0 : found.event - kShown;
  for (uint64_t i = first; i <= found.event && i < outcome.list.events.size(); ++i) {
    fmt::print("  {} {:8}  {}\n", i == found.event ? "=>" : "  ", i,
               comparison.model.Text(outcome.list.events[i]));
  }
  const std::string targets = fmt::format("--a '{}' --b '{}'{}", line.a, line.b,
                                          line.lawful.empty() ? "" : " --lawful " + line.lawful);
  if (line.seed) {
    fmt::print("  again: farside diff --random {:#x} --events {} --device {} {}\n",
               *outcome.list.seed, outcome.result.events, comparison.model.name(), targets);
  }
  if (!line.output.empty()) fmt::print("  again: farside diff {} {}\n", line.output, targets);
}

void PrintOutcome(const Comparison& comparison, const Outcome& outcome) {
  const DiffResult& result = outcome.result;
  const double seconds = static_cast<double>(std::max<uint64_t>(outcome.elapsed_ns, 1)) / 1e9;
  fmt::print(
      "{}: {}: {} events, {} reads, {} writes, {} quiet points, {} interrupts in {:.1f} s ({:.0f} "
      "events/s)\n",
      comparison.model.name(), outcome.name, result.events, result.reads, result.writes,
      result.settles, result.interrupts, seconds, static_cast<double>(result.events) / seconds);
  fmt::print(
      "  compared {} of {} register bits, {} are masked by {} lawful rows; {} bits of answers\n",
      outcome.compared_bits, RegisterBits(comparison.model), comparison.lawful.masked_bits(),
      comparison.lawful.rows(), outcome.bits_of_reads);
  if (const auto& lawful = comparison.lawful; lawful.unwritten_bits() != 0) {
    fmt::print(
        "  {} bits are never set by random traffic, {} of places without a register left out\n",
        lawful.unwritten_bits(), lawful.reserved_bits());
  }
  if (outcome.lawful_bits + outcome.lawful_bytes != 0) {
    fmt::print("  lawful: {} bits of answers and {} bytes of memory differed\n",
               outcome.lawful_bits, outcome.lawful_bytes);
  }
  fmt::print("  restarts: A {}, B {}\n", result.restarts_a, result.restarts_b);
  for (const Death& death : result.deaths) {
    fmt::print("    {} at or before event {}: {}\n", death.side, death.event, death.how);
  }
  for (const auto& [number, what] :
       {std::pair(result.unfulfilled, "times both sides left undone what was awaited"),
        std::pair(result.restless, "times both sides were still busy when the time was over"),
        std::pair(result.late, "reads were equal when they were asked for again"),
        std::pair(result.skipped, "accesses were left out: one side can't reach that far")}) {
    if (number != 0) fmt::print("  {} {}\n", number, what);
  }
  if (result.difference) {
    PrintDifference(comparison, outcome);
  } else {
    fmt::print("  no difference\n");
  }
}

nlohmann::json JsonOf(const Comparison& comparison, const Outcome& outcome) {
  const DiffResult& result = outcome.result;
  nlohmann::json json = {{"name", outcome.name},
                         {"events", result.events},
                         {"reads", result.reads},
                         {"writes", result.writes},
                         {"quiet_points", result.settles},
                         {"interrupts", result.interrupts},
                         {"unfulfilled", result.unfulfilled},
                         {"restless", result.restless},
                         {"late", result.late},
                         {"skipped", result.skipped},
                         {"restarts", {{"a", result.restarts_a}, {"b", result.restarts_b}}},
                         {"register_bits", RegisterBits(comparison.model)},
                         {"compared_bits", outcome.compared_bits},
                         {"masked_bits", comparison.lawful.masked_bits()},
                         {"unwritten_bits", comparison.lawful.unwritten_bits()},
                         {"reserved_bits", comparison.lawful.reserved_bits()},
                         {"bits_of_answers", outcome.bits_of_reads},
                         {"lawful_bits", outcome.lawful_bits},
                         {"lawful_bytes", outcome.lawful_bytes},
                         {"elapsed_ns", outcome.elapsed_ns},
                         {"difference", nullptr}};
  if (result.difference) {
    json["difference"] = {{"event", result.difference->event},
                          {"what", result.difference->what},
                          {"a", result.difference->a},
                          {"b", result.difference->b},
                          {"detail", result.difference->detail}};
  }
  return json;
}

// The file's events, or nothing but the seed.
Result<EventList> FirstList(const CommandLine& line) {
  if (!line.file.empty()) return ReadEventList(line.file, 0);
  EventList list;
  list.seed = line.seed;
  return list;
}

Result<int> Run(const CommandLine& line) {
  auto list = FirstList(line);
  if (!list) return tl::unexpected(list.error());
  const std::string device = line.device.empty() ? list->device : line.device;
  const Model* model = FindModel(device);
  if (model == nullptr) {
    return Fail("there is no model {} to compare: {}", Quote(device), ModelNames());
  }
  auto lawful = line.lawful.empty() ? Lawful() : Lawful::Load(*model, line.lawful);
  if (!lawful) return tl::unexpected(lawful.error());
  auto a = MakeTarget(line.a, line.bin_dir);
  if (!a) return Fail("--a: {}", a.error().message);
  auto b = MakeTarget(line.b, line.bin_dir);
  if (!b) return Fail("--b: {}", b.error().message);
  const Comparison comparison{line, *model, *lawful, **a, **b};
  nlohmann::json results = nlohmann::json::array();
  int status = 0;
  for (uint64_t i = 0; i < line.seeds && status == 0; ++i) {
    EventList events = *list;
    events.device = device;
    if (line.seed) events.seed = *line.seed + i;
    const std::string name =
        line.seed ? fmt::format("seed {:#x}", *events.seed) : std::string(line.file);
    const auto outcome = Compare(comparison, std::move(events), name);
    if (!outcome) return Fail("{}: {}", name, outcome.error().message);
    results.push_back(JsonOf(comparison, *outcome));
    if (outcome->result.difference && !line.output.empty()) {
      if (auto wrote = WriteEventList(line.output, outcome->list); !wrote) {
        return tl::unexpected(wrote.error());
      }
    }
    PrintOutcome(comparison, *outcome);
    std::fflush(stdout);
    if (outcome->result.difference) status = kDiffers;
  }
  if (!line.json.empty()) {
    std::ofstream file(line.json, std::ios::trunc);
    file << nlohmann::json{{"device", device}, {"a", line.a}, {"b", line.b}, {"runs", results}}
                .dump(1)
         << "\n";
    file.close();
    if (!file) {
      return Fail("cannot write {}: does its directory exist, and is there room?", line.json);
    }
  }
  return status;
}

}  // namespace

int DiffMain(const std::vector<std::string>& args) {
  const auto line = Parse(args);
  if (line && line->help) {
    fmt::print("{}", Help());
    return 0;
  }
  const Result<int> status = line ? Run(*line) : tl::unexpected(line.error());
  if (status) return *status;
  fmt::print(stderr, "farside: diff: {}\n", status.error().message);
  return kBadUsage;
}

}  // namespace farside::diff
