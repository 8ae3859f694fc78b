// The subcommands of `farside fuzz`, and what their command lines share.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace farside::campaign {

inline constexpr int kFound = 1;
inline constexpr int kBadUsage = 2;

using Arguments = std::vector<std::string>;

// An option with a value, or a flag where `value` is empty.
struct Option {
  std::string_view name;
  std::string_view value;  // What to call it: "DIR".
  std::string_view help;
  char letter = 0;  // "-o" besides.
};

// What was given: options in their order, and the rest.
class Given {
 public:
  // `names` are what the rest is called: "TARGET INPUT". Fewer are an error, and more unless the
  // last ends in "...".
  static Result<Given> Parse(std::string_view command, std::string_view names,
                             std::span<const Option> options, const Arguments& args);

  bool help() const { return help_; }
  const std::string& rest(size_t i) const { return rest_[i]; }
  const Arguments& rest() const { return rest_; }
  bool has(std::string_view name) const { return last(name).has_value(); }
  std::string text(std::string_view name, std::string_view fallback = {}) const {
    return last(name).value_or(std::string(fallback));
  }
  std::vector<std::string> all(std::string_view name) const;
  Result<uint64_t> number(std::string_view name, uint64_t fallback, uint64_t least,
                          uint64_t most) const;

 private:
  std::optional<std::string> last(std::string_view name) const;

  std::vector<std::pair<std::string, std::string>> options_;
  Arguments rest_;
  bool help_ = false;
};

struct Subcommand {
  std::string_view name;
  std::string_view rest;  // "TARGET INPUT".
  std::string_view summary;
  std::span<const Option> options;
  // The exit status, or why it could not begin.
  Result<int> (*run)(const Given& given);
};

extern const Subcommand kRunCommand;
extern const Subcommand kTminCommand;
extern const Subcommand kMinCommand;
extern const Subcommand kReproCommand;
extern const Subcommand kTriageCommand;
extern const Subcommand kReportCommand;

}  // namespace farside::campaign
