// Figures: what a bench measures, as ratios to a floor or to a peer in the same rounds.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace farside::bench {

struct Options {
  size_t rounds = 15;
  size_t accesses = 4000;
  std::string bin_dir;
  std::string peer = "qemu-system-x86_64";
};

// Nanoseconds for an access, in a round of `accesses`.
using Measure = std::function<Result<double>(size_t accesses)>;

struct Figure {
  std::string name;
  double subject = 0;  // Medians over the rounds, in the unit of the row.
  double floor = 0;    // 0: none, and `ratio` is the subject itself.
  double ratio = 0;
  double low = 0;  // Quartiles of the rounds' ratios.
  double high = 0;
  double bound = 0;
  std::string unit = "us";
  bool at_least = false;  // `bound` is the least ratio, not the largest.

  bool kept() const { return at_least ? ratio >= bound : ratio <= bound; }
};

double Quantile(std::vector<double> values, double part);

// The median time of one call, over `count` calls, in ns.
Result<double> MedianOf(size_t count, const std::function<Result<void>()>& call);
// The mean time of an access over all that `run` does, in ns.
Result<double> MeanOf(size_t accesses, const std::function<Result<void>()>& run);

// Alternates rounds of subject and floor.
Result<Figure> Compare(const Options& options, std::string name, double bound,
                       const Measure& subject, const Measure& floor);
// The same for what was measured by pairs already, in `unit`s; without `floors` the subject is the
// figure.
Figure MakeFigure(std::string name, std::string unit, double bound,
                  const std::vector<double>& subjects, const std::vector<double>& floors = {});

// What is being measured, on a terminal only; empty: nothing any more.
void ShowProgress(std::string_view what);

void Print(const std::vector<Figure>& figures);
Result<void> WriteJson(const std::string& path, const std::vector<Figure>& figures);

}  // namespace farside::bench
