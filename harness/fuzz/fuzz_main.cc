#include "harness/fuzz/fuzz_main.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/options.h"
#include "harness/fuzz/command.h"
#include "harness/scenario/value.h"

namespace farside::campaign {
namespace {

// A new subcommand is a row here and its file.
const Subcommand* const kCommands[] = {&kRunCommand,  &kTriageCommand, &kReproCommand,
                                       &kTminCommand, &kMinCommand,    &kReportCommand};

void AppendOptions(std::span<const Option> options, std::string* out) {
  for (const Option& option : options) {
    const std::string left =
        fmt::format("{}--{} {}", option.letter == 0 ? "" : fmt::format("-{}, ", option.letter),
                    option.name, option.value);
    *out += fmt::format("    {:<22} {}\n", left, option.help);
  }
}

std::string Help() {
  std::string text =
      "Usage: farside fuzz COMMAND ...\n\n"
      "Fuzzes Farside's devices, servers and parsers, or anybody's vfio-user server, and makes of\n"
      "what is found something that can be read and run. docs/fuzzing.md is the guide;\n"
      "`farside-fuzz list` names the targets.\n";
  for (const Subcommand* command : kCommands) {
    text += fmt::format("\n  {} {}\n    {}\n", command->name, command->rest, command->summary);
    AppendOptions(command->options, &text);
  }
  return text + "\nExit status: 0, 1 if something was found, 2 if nothing could be done.\n";
}

// Splits "TARGET FILE..." into the least number of words and whether more may follow.
struct Shape {
  size_t least = 0;
  bool more = false;
};
Shape ShapeOf(std::string_view names) {
  Shape shape;
  shape.more = names.ends_with("...");
  while (!names.empty()) {
    const size_t end = std::min(names.find(' '), names.size());
    if (!names.substr(0, end).starts_with('[')) ++shape.least;
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  return shape;
}

const Option* FindOption(std::span<const Option> options, std::string_view name) {
  const bool is_long = name.starts_with("--");
  const auto found = std::ranges::find_if(options, [&](const Option& option) {
    if (is_long) return option.name == name.substr(2);
    return option.letter != 0 && name.size() == 2 && name[1] == option.letter;
  });
  return found == options.end() ? nullptr : &*found;
}

}  // namespace

Result<Given> Given::Parse(std::string_view command, std::string_view names,
                           std::span<const Option> options, const Arguments& args) {
  Given given;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--help" || arg == "-h") {
      given.help_ = true;
      return given;
    }
    if (arg.size() < 2 || arg[0] != '-') {
      given.rest_.push_back(arg);
      continue;
    }
    const size_t equals = arg.find('=');
    const Option* const option = FindOption(options, arg.substr(0, equals));
    if (option == nullptr) {
      return Fail("{} has no option {}; farside fuzz --help lists what there is", command,
                  Quote(arg));
    }
    std::string value;
    if (equals != std::string::npos) {
      value = arg.substr(equals + 1);
    } else if (!option->value.empty()) {
      if (++i == args.size())
        return Fail("--{} is to be followed by {}", option->name, option->value);
      value = args[i];
    }
    given.options_.emplace_back(option->name, value);
  }
  const Shape shape = ShapeOf(names);
  const size_t most = names.empty() ? 0 : static_cast<size_t>(std::ranges::count(names, ' ')) + 1;
  if (given.rest_.size() < shape.least || (!shape.more && given.rest_.size() > most)) {
    return Fail("{} takes {}; farside fuzz --help explains it", command,
                names.empty() ? "options only" : names);
  }
  return given;
}

std::optional<std::string> Given::last(std::string_view name) const {
  std::optional<std::string> found;
  for (const auto& [option, value] : options_) {
    if (option == name) found = value;
  }
  return found;
}

std::vector<std::string> Given::all(std::string_view name) const {
  std::vector<std::string> found;
  for (const auto& [option, value] : options_) {
    if (option == name) found.push_back(value);
  }
  return found;
}

Result<uint64_t> Given::number(std::string_view name, uint64_t fallback, uint64_t least,
                               uint64_t most) const {
  const auto text = last(name);
  if (!text) return fallback;
  const auto number = scenario::ReadNumber(*text);
  if (number && *number >= least && *number <= most) return *number;
  return Fail("--{} {}: give a number from {} to {}", name, Quote(*text), least, most);
}

int FuzzMain(const std::vector<std::string>& args) {
  const auto fail = [](const std::string& sentence) {
    fmt::print(stderr, "farside: fuzz: {}\n", sentence);
    return kBadUsage;
  };
  if (args.empty()) return fail("name a command; farside fuzz --help lists them");
  if (args[0] == "--help" || args[0] == "-h") {
    fmt::print("{}", Help());
    return 0;
  }
  const auto command =
      std::ranges::find_if(kCommands, [&](const Subcommand* one) { return one->name == args[0]; });
  if (command == std::end(kCommands)) {
    return fail(
        fmt::format("there is no command {}; farside fuzz --help lists them", Quote(args[0])));
  }
  const auto given =
      Given::Parse(args[0], (*command)->rest, (*command)->options, {args.begin() + 1, args.end()});
  if (!given) return fail(given.error().message);
  if (given->help()) {
    fmt::print("{}", Help());
    return 0;
  }
  const Result<int> status = (*command)->run(*given);
  return status ? *status : fail(fmt::format("{}: {}", args[0], status.error().message));
}

}  // namespace farside::campaign
