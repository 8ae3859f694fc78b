#include "harness/bench/bench_main.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "harness/bench/floor.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/served_process.h"
#include "protocol/vfio_user_client.h"

namespace farside::bench {
namespace {

namespace po = boost::program_options;
using scenario::ServedProcess;
using vfio_user::VfioUserClient;

constexpr uint32_t kBar0 = 0;
constexpr uint64_t kCsts = 0x1c;   // NVMe: reading it has no side effect.
constexpr uint64_t kIntms = 0x0c;  // Writing 0 changes nothing.
constexpr size_t kDepth = 16;
constexpr size_t kBatch = 32;
constexpr uint64_t kSpinUs = 1000;

struct CommandLine {
  size_t rounds = 15;
  size_t accesses = 4000;
  std::string bin_dir;
  std::string json;
  bool check = false;
  bool help = false;
};

// What one row of the table measures: nanoseconds for an access, in a round of `accesses`.
using Measure = std::function<Result<double>(size_t accesses)>;

struct Figure {
  std::string name;
  double subject = 0;  // Medians over the rounds, in the unit of the row.
  double floor = 0;
  double ratio = 0;
  double low = 0;  // Quartiles of the rounds' ratios.
  double high = 0;
  double bound = 0;
  std::string unit = "us";
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("rounds", po::value<size_t>()->value_name("N"), "rounds of subject and floor; default 15");
  add("accesses", po::value<size_t>()->value_name("N"), "accesses in a round; default 4000");
  add("bin-dir", po::value<std::string>()->value_name("DIR"),
      "look for disk-proc here first; then beside farside, then in PATH");
  add("json", po::value<std::string>()->value_name("FILE"), "write the figures as JSON, too");
  add("check", "exit with 1 if a figure is over its bound");
  add("help,h", "print this text");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text
      << "Usage: farside bench mmio [OPTIONS]\n\n"
         "Measures register accesses to an NVMe controller in disk-proc, in rounds that alternate\n"
         "with the floor: two processes that exchange as many bytes by the same system calls and\n"
         "do nothing else. Both are pinned, to one core and to two. A ratio is the median of the\n"
         "rounds' ratios, with its quartiles.\n\n"
      << Described();
  return text.str();
}

Result<CommandLine> Parse(const std::vector<std::string>& args) {
  po::options_description all = Described();
  all.add_options()("what", po::value<std::string>());
  po::positional_options_description positional;
  positional.add("what", 1);
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
    if (given.count("rounds") != 0) line.rounds = given["rounds"].as<size_t>();
    if (given.count("accesses") != 0) line.accesses = given["accesses"].as<size_t>();
    if (given.count("bin-dir") != 0) line.bin_dir = given["bin-dir"].as<std::string>();
    if (given.count("json") != 0) line.json = given["json"].as<std::string>();
  } catch (const po::error& error) {
    return Fail("{}; farside bench --help lists what there is", error.what());
  }
  line.check = given.count("check") != 0;
  line.help = given.count("help") != 0;
  const bool known = given.count("what") != 0 && given["what"].as<std::string>() == "mmio";
  if (!known && !line.help) return Fail("say what to measure: farside bench mmio");
  if (line.rounds < 3 || line.rounds > 1000 || line.accesses < kBatch ||
      line.accesses > 10'000'000) {
    return Fail("--rounds takes 3 to 1000, --accesses {} to 10000000", kBatch);
  }
  return line;
}

double Quantile(std::vector<double> values, double part) {
  std::ranges::sort(values);
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1) + 0.5)];
}

// The median time of one call, over `count` calls.
Result<double> MedianOf(size_t count, const std::function<Result<void>()>& call) {
  const MonotonicClock clock;
  std::vector<double> times;
  times.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t start = clock.now_ns();
    if (auto done = call(); !done) return tl::unexpected(done.error());
    times.push_back(static_cast<double>(clock.now_ns() - start));
  }
  return Quantile(std::move(times), 0.5);
}

// The mean time of an access over all that `run` does.
Result<double> MeanOf(size_t accesses, const std::function<Result<void>()>& run) {
  const MonotonicClock clock;
  const uint64_t start = clock.now_ns();
  if (auto done = run(); !done) return tl::unexpected(done.error());
  return static_cast<double>(clock.now_ns() - start) / static_cast<double>(accesses);
}

// disk-proc with a controller, on a CPU, and the client in this thread.
struct Subject {
  std::unique_ptr<ServedProcess> process;
  std::unique_ptr<VfioUserClient> client;
};

std::vector<std::string> Arguments() {
  return {"-blockdev", "driver=null-co,node-name=d0,size=64M", "-device",
          "nvme,id=nvme0,drive=d0,serial=BENCH",
          fmt::format("--socket-path={}", scenario::kSocketPlace)};
}

Result<Subject> StartSubject(const CommandLine& line, int cpu, bool spin) {
  std::vector<std::string> args = Arguments();
  if (spin) args.push_back(fmt::format("--spin-us={}", kSpinUs));
  auto process = ServedProcess::Start("disk-proc", std::move(args), line.bin_dir);
  if (!process) return tl::unexpected(process.error());
  vfio_user::ClientOptions options;
  options.channel.spin_ns = spin ? kSpinUs * 1000 : 0;
  auto client = (*process)->Connect(
      [&](const std::string& path) { return VfioUserClient::Connect(path, options, nullptr); });
  if (!client) return tl::unexpected(client.error());
  if (auto pinned = Pin((*process)->child().pid(), cpu); !pinned) {
    return tl::unexpected(pinned.error());
  }
  return Subject{std::move(*process), std::move(*client)};
}

Result<void> ReadOnce(VfioUserClient& client) {
  const auto read = client.Read<uint32_t>({.region = kBar0, .offset = kCsts});
  return read ? Result<void>() : tl::unexpected(read.error());
}

Result<void> ReadPipelined(VfioUserClient& client, size_t count) {
  std::array<uint32_t, kDepth> values{};
  std::array<DeviceClient::ReadTicket, kDepth> tickets;
  for (size_t done = 0; done < count; done += kDepth) {
    for (size_t i = 0; i < kDepth; ++i) {
      const auto ticket =
          client.BeginRead({.region = kBar0, .offset = kCsts}, AsWritableBytes(values[i]));
      if (!ticket) return tl::unexpected(ticket.error());
      tickets[i] = *ticket;
    }
    for (const auto ticket : tickets) {
      if (auto read = client.FinishRead(ticket); !read) return read;
    }
  }
  return {};
}

// A read at the end waits until all were taken.
Result<void> WritePosted(VfioUserClient& client, size_t count) {
  const uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto posted = client.PostWrite({.region = kBar0, .offset = kIntms}, AsBytes(value));
    if (!posted) return posted;
  }
  return ReadOnce(client);
}

Result<void> WriteBatches(VfioUserClient& client, size_t count) {
  std::array<vfio_user::WriteMultiEntry, kBatch> writes{};
  for (auto& write : writes) write = {.offset = kIntms, .region = kBar0, .count = 4, .data = {}};
  for (size_t done = 0; done < count; done += kBatch) {
    if (auto posted = client.WriteMulti(0, writes, true); !posted) return posted;
  }
  return ReadOnce(client);
}

Result<Figure> Compare(const CommandLine& line, std::string name, double bound,
                       const Measure& subject, const Measure& floor) {
  std::vector<double> subjects;
  std::vector<double> floors;
  std::vector<double> ratios;
  // The first round warms up.
  for (size_t round = 0; round <= line.rounds; ++round) {
    const auto below = floor(line.accesses);
    if (!below) return tl::unexpected(below.error());
    const auto above = subject(line.accesses);
    if (!above) return tl::unexpected(above.error());
    if (round == 0) continue;
    subjects.push_back(*above);
    floors.push_back(*below);
    ratios.push_back(*above / *below);
  }
  return Figure{.name = std::move(name),
                .subject = Quantile(subjects, 0.5) / 1000,
                .floor = Quantile(floors, 0.5) / 1000,
                .ratio = Quantile(ratios, 0.5),
                .low = Quantile(ratios, 0.25),
                .high = Quantile(ratios, 0.75),
                .bound = bound};
}

Result<void> MeasureAccesses(const CommandLine& line, int cpu, bool spin, std::string_view where,
                             std::vector<Figure>* figures) {
  auto subject = StartSubject(line, cpu, spin);
  if (!subject) return tl::unexpected(subject.error());
  auto floor = PingPong::Start(cpu, spin);
  if (!floor) return tl::unexpected(floor.error());
  VfioUserClient& client = *subject->client;
  const Measure ping = [&](size_t count) {
    return MedianOf(count, [&] { return (*floor)->Call(); });
  };
  const Measure read = [&](size_t count) {
    return MedianOf(count, [&] { return ReadOnce(client); });
  };
  const auto mean = [&](Result<void> (*run)(VfioUserClient&, size_t)) -> Measure {
    return
        [&client, run](size_t count) { return MeanOf(count, [&] { return run(client, count); }); };
  };
  const bool two_cores = cpu != 0;
  struct Row {
    const char* name;
    double bound;
    Measure measure;
  };
  std::vector<Row> rows;
  rows.push_back({"BAR read", spin ? 1.20 : two_cores ? 1.15 : 1.12, read});
  if (!spin) {
    rows.push_back({"BAR read, 16 in flight", 0.25, mean(&ReadPipelined)});
    rows.push_back({"posted BAR write", 0.20, mean(&WritePosted)});
    rows.push_back({"write in WRITE_MULTI of 32", 0.05, mean(&WriteBatches)});
  }
  for (const Row& row : rows) {
    auto figure =
        Compare(line, fmt::format("{}, {}", row.name, where), row.bound, row.measure, ping);
    if (!figure) return tl::unexpected(figure.error());
    figures->push_back(std::move(*figure));
  }
  subject->client.reset();
  return subject->process->Finish();
}

// From exec to the reply to VERSION, and what the process then holds.
Result<void> MeasureStart(const CommandLine& line, std::vector<Figure>* figures) {
  std::vector<double> times;
  std::vector<double> sizes;
  for (size_t round = 0; round < line.rounds; ++round) {
    const MonotonicClock clock;
    const uint64_t start = clock.now_ns();
    auto process = ServedProcess::Start("disk-proc", Arguments(), line.bin_dir);
    if (!process) return tl::unexpected(process.error());
    auto client = (*process)->Connect(
        [](const std::string& path) { return VfioUserClient::Connect(path, {}, nullptr); });
    if (!client) return tl::unexpected(client.error());
    times.push_back(static_cast<double>(clock.now_ns() - start) / 1e6);
    const auto bytes = (*process)->child().PrivateBytes();
    if (!bytes) return tl::unexpected(bytes.error());
    sizes.push_back(static_cast<double>(*bytes) / (1 << 20));
  }
  const auto add = [&](const char* name, const char* unit, double bound,
                       const std::vector<double>& values) {
    figures->push_back({.name = name,
                        .subject = Quantile(values, 0.5),
                        .floor = 0,
                        .ratio = Quantile(values, 0.5),
                        .low = Quantile(values, 0.25),
                        .high = Quantile(values, 0.75),
                        .bound = bound,
                        .unit = unit});
  };
  add("exec to VERSION's reply", "ms", 15, times);
  add("private memory, idle", "MiB", 8, sizes);
  return {};
}

Result<std::vector<Figure>> MeasureAll(const CommandLine& line) {
  if (std::thread::hardware_concurrency() < 2) {
    return Fail("this machine has one CPU: accesses between two can't be measured");
  }
  if (auto pinned = Pin(0, 0); !pinned) return tl::unexpected(pinned.error());
  std::vector<Figure> figures;
  for (const auto& [cpu, spin, where] :
       {std::tuple(0, false, "one core"), std::tuple(1, false, "two cores"),
        std::tuple(1, true, "two cores, spinning")}) {
    if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\033[Kmeasuring: {} ...", where);
    if (auto done = MeasureAccesses(line, cpu, spin, where, &figures); !done) {
      return tl::unexpected(done.error());
    }
  }
  if (auto done = MeasureStart(line, &figures); !done) return tl::unexpected(done.error());
  if (isatty(STDERR_FILENO) != 0) fmt::print(stderr, "\r\033[K");
  return figures;
}

Result<void> WriteJson(const std::string& path, const std::vector<Figure>& figures) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Figure& figure : figures) {
    rows.push_back({{"name", figure.name},
                    {"unit", figure.unit},
                    {"subject", figure.subject},
                    {"floor", figure.floor},
                    {"ratio", figure.ratio},
                    {"quartiles", {figure.low, figure.high}},
                    {"bound", figure.bound}});
  }
  std::ofstream file(path, std::ios::trunc);
  file << nlohmann::json{{"figures", rows}}.dump(1) << "\n";
  file.close();
  if (file) return {};
  return Fail("cannot write {}: does its directory exist, and is there room?", path);
}

void Print(const std::vector<Figure>& figures) {
  fmt::print("{:<42} {:>9} {:>9} {:>7}  {:<15} {:>6}\n", "", "disk-proc", "floor", "ratio",
             "quartiles", "bound");
  for (const Figure& figure : figures) {
    const bool ratio = figure.floor != 0;
    fmt::print("{:<42} {:>6.2f} {:<2} {:>9} {:>7}  {:<15} {:>6.2f}{}\n", figure.name,
               figure.subject, figure.unit, ratio ? fmt::format("{:.2f} us", figure.floor) : "",
               ratio ? fmt::format("{:.3f}", figure.ratio) : "",
               fmt::format("{:.3f} - {:.3f}", figure.low, figure.high), figure.bound,
               figure.ratio > figure.bound ? "  OVER" : "");
  }
}

}  // namespace

int BenchMain(const std::vector<std::string>& args) {
  const auto line = Parse(args);
  if (line && line->help) {
    fmt::print("{}", Help());
    return 0;
  }
  auto figures = line ? MeasureAll(*line) : tl::unexpected(line.error());
  if (figures) Print(*figures);
  if (figures && !line->json.empty()) {
    if (auto written = WriteJson(line->json, *figures); !written) {
      figures = tl::unexpected(written.error());
    }
  }
  if (!figures) {
    fmt::print(stderr, "farside: bench: {}\n", figures.error().message);
    return 2;
  }
  const bool over = std::ranges::any_of(
      *figures, [](const Figure& figure) { return figure.ratio > figure.bound; });
  return line->check && over ? 1 : 0;
}

}  // namespace farside::bench
