#include "harness/bench/figures.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/clock.h"

namespace farside::bench {

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

Result<Figure> Compare(const Options& options, std::string name, double bound,
                       const Measure& subject, const Measure& floor) {
  std::vector<double> subjects;
  std::vector<double> floors;
  // The first round warms up.
  for (size_t round = 0; round <= options.rounds; ++round) {
    const auto below = floor(options.accesses);
    if (!below) return tl::unexpected(below.error());
    const auto above = subject(options.accesses);
    if (!above) return tl::unexpected(above.error());
    if (round == 0) continue;
    subjects.push_back(*above / 1000);
    floors.push_back(*below / 1000);
  }
  return MakeFigure(std::move(name), "us", bound, subjects, floors);
}

Figure MakeFigure(std::string name, std::string unit, double bound,
                  const std::vector<double>& subjects, const std::vector<double>& floors) {
  std::vector<double> ratios;
  for (size_t i = 0; i < subjects.size(); ++i) {
    ratios.push_back(floors.empty() ? subjects[i] : subjects[i] / floors[i]);
  }
  return {.name = std::move(name),
          .subject = Quantile(subjects, 0.5),
          .floor = floors.empty() ? 0 : Quantile(floors, 0.5),
          .ratio = Quantile(ratios, 0.5),
          .low = Quantile(ratios, 0.25),
          .high = Quantile(ratios, 0.75),
          .bound = bound,
          .unit = std::move(unit)};
}

void ShowProgress(std::string_view what) {
  if (isatty(STDERR_FILENO) == 0) return;
  fmt::print(stderr, "\r\033[K{}", what.empty() ? "" : fmt::format("measuring: {} ...", what));
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
                    {"bound", figure.bound},
                    {"at_least", figure.at_least}});
  }
  std::ofstream file(path, std::ios::trunc);
  file << nlohmann::json{{"figures", rows}}.dump(1) << "\n";
  file.close();
  if (file) return {};
  return Fail("cannot write {}: does its directory exist, and is there room?", path);
}

void Print(const std::vector<Figure>& figures) {
  fmt::print("{:<46} {:>12} {:>12} {:>7}  {:<15} {:>8}\n", "", "disk-proc", "against", "ratio",
             "quartiles", "bound");
  for (const Figure& figure : figures) {
    const bool ratio = figure.floor != 0;
    fmt::print("{:<46} {:>8.2f} {:<3} {:>12} {:>7}  {:<15} {:>2}{:>6.2f}{}\n", figure.name,
               figure.subject, figure.unit,
               ratio ? fmt::format("{:.2f} {:<3}", figure.floor, figure.unit) : "",
               ratio ? fmt::format("{:.3f}", figure.ratio) : "",
               fmt::format("{:.3f} - {:.3f}", figure.low, figure.high),
               figure.at_least ? ">=" : "<=", figure.bound, figure.kept() ? "" : "  MISSED");
  }
}

}  // namespace farside::bench
