#include "harness/bench/bench_main.h"
#include "base/option_error.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <sstream>
#include <thread>

#include "harness/bench/figures.h"

namespace farside::bench {
namespace {

namespace po = boost::program_options;

constexpr size_t kMinAccesses = 32;

struct Bench {
  std::string_view name;
  Result<std::vector<Figure>> (*measure)(const Options& options);
};
constexpr Bench kBenches[] = {{"mmio", &MeasureMmio}, {"mpqemu", &MeasureMpqemu}};

struct CommandLine {
  const Bench* bench = nullptr;
  Options options;
  std::string json;
  bool check = false;
  bool help = false;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("rounds", po::value<size_t>()->value_name("N"), "rounds of subject and floor; default 15");
  add("accesses", po::value<size_t>()->value_name("N"), "accesses in a round; default 4000");
  add("bin-dir", po::value<std::string>()->value_name("DIR"),
      "look for disk-proc here first; then beside farside, then in PATH");
  add("peer", po::value<std::string>()->value_name("PROGRAM"),
      "mpqemu: the QEMU whose remote is the peer; default qemu-system-x86_64");
  add("json", po::value<std::string>()->value_name("FILE"), "write the figures as JSON, too");
  add("check", "exit with 1 if a figure misses its bound");
  add("help,h", "print this text");
  return all;
}

std::string Help() {
  std::ostringstream text;
  text << "Usage: farside bench mmio|mpqemu [OPTIONS]\n\n"
          "Measures register accesses to disk-proc in rounds that alternate with the floor: two\n"
          "processes that exchange as many bytes by the same system calls and do nothing else.\n"
          "Both are pinned, to one core and to two. A ratio is the median of the rounds' ratios,\n"
          "with its quartiles. mmio is an NVMe controller over vfio-user; mpqemu an LSI53C895A\n"
          "over mpqemu, which is compared with QEMU's own remote in the same rounds, too.\n\n"
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
  Options& options = line.options;
  std::string what;
  try {
    po::store(
        po::command_line_parser(args)
            .options(all)
            .positional(positional)
            .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
            .run(),
        given);
    if (given.count("what") != 0) what = given["what"].as<std::string>();
    if (given.count("rounds") != 0) options.rounds = given["rounds"].as<size_t>();
    if (given.count("accesses") != 0) options.accesses = given["accesses"].as<size_t>();
    if (given.count("bin-dir") != 0) options.bin_dir = given["bin-dir"].as<std::string>();
    if (given.count("peer") != 0) options.peer = given["peer"].as<std::string>();
    if (given.count("json") != 0) line.json = given["json"].as<std::string>();
  } catch (const po::error& error) {
    return Fail("{}; farside bench --help lists what there is", OptionErrorText(error, args));
  }
  line.check = given.count("check") != 0;
  line.help = given.count("help") != 0;
  const auto* const bench = std::ranges::find(kBenches, what, &Bench::name);
  if (bench != std::end(kBenches)) line.bench = bench;
  if (line.bench == nullptr && !line.help) {
    return Fail("say what to measure: farside bench mmio, or farside bench mpqemu");
  }
  if (options.rounds < 3 || options.rounds > 1000 || options.accesses < kMinAccesses ||
      options.accesses > 10'000'000) {
    return Fail("--rounds takes 3 to 1000, --accesses {} to 10000000", kMinAccesses);
  }
  return line;
}

Result<std::vector<Figure>> Run(const CommandLine& line) {
  if (std::thread::hardware_concurrency() < 2) {
    return Fail("this machine has one CPU: accesses between two can't be measured");
  }
  auto figures = line.bench->measure(line.options);
  if (!figures) return figures;
  Print(*figures);
  if (line.json.empty()) return figures;
  if (auto written = WriteJson(line.json, *figures); !written) {
    return tl::unexpected(written.error());
  }
  return figures;
}

}  // namespace

int BenchMain(const std::vector<std::string>& args) {
  const auto line = Parse(args);
  if (line && line->help) {
    fmt::print("{}", Help());
    return 0;
  }
  const auto figures = line ? Run(*line) : tl::unexpected(line.error());
  if (!figures) {
    fmt::print(stderr, "farside: bench: {}\n", figures.error().message);
    return 2;
  }
  const bool missed = !std::ranges::all_of(*figures, &Figure::kept);
  return line->check && missed ? 1 : 0;
}

}  // namespace farside::bench
