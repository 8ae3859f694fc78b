// farside help: the commands, and the verbs from their table.
#include <cstdio>

#include "base/options.h"
#include "harness/cli/command.h"
#include "harness/cli/help.h"
#include "harness/scenario/scenario.h"

namespace farside::cli {

using scenario::Output;
using scenario::Param;
using scenario::Type;
using scenario::Verb;

namespace {

std::string Words(std::span<const std::string_view> words) {
  std::string out;
  for (const std::string_view word : words) {
    if (word.empty()) continue;
    out += out.empty() ? "" : "|";
    out += word;
  }
  return out;
}

std::string TypeName(const Param& param) {
  switch (param.type) {
    case Type::kNumber:
      return "NUMBER";
    case Type::kBool:
      return "on|off";
    case Type::kText:
      return "TEXT";
    case Type::kPattern:
      return "REGEX";
    case Type::kBytes:
      return "HEX";
    case Type::kWord:
      return Words(param.words);
    case Type::kCode:
      return "NAME or NUMBER";
    case Type::kErrno:
      return "ERRNO";
    case Type::kStatus:
      return "STATUS";
    case Type::kNumbers:
      return "NUMBER,...";
    case Type::kTexts:
      return "TEXT,...";
    case Type::kRecord:
    case Type::kUntil:
      return "{...}";
    case Type::kRecords:
      return "[{...},...]";
    case Type::kSteps:
      return "[STEP,...]";
  }
  return {};
}

void AppendParams(std::span<const Param> params, size_t indent, std::string* out) {
  for (const Param& param : params) {
    const std::string left = fmt::format("{:{}}{}={}", "", indent, param.name, TypeName(param));
    *out += fmt::format("{:<34} {}", left, param.help);
    if (param.required) *out += " (required)";
    const bool said = param.help.find("default") != std::string_view::npos;
    if (!param.fallback.empty() && !said) *out += fmt::format("; default: {}", param.fallback);
    *out += '\n';
    if (param.type == Type::kCode) {
      *out += fmt::format("{:<34} names: {}\n", "", Words(param.words));
    }
    AppendParams(param.fields, indent + 4, out);
  }
}

}  // namespace

std::string VerbList() {
  std::string out;
  std::string_view group;
  for (const Verb* verb : scenario::AllVerbs()) {
    const std::string_view prefix = verb->name.substr(0, verb->name.find('.'));
    if (prefix != group) out += group.empty() ? "" : "\n";
    group = prefix;
    out += fmt::format("  {:<22} {}\n", verb->name, verb->help);
  }
  return out;
}

std::string VerbHelp(const Verb& verb) {
  std::string out = fmt::format("{}: {}\n\nParameters, in this order where they have no name:\n",
                                verb.name, verb.help);
  AppendParams(scenario::AllParams(verb), 2, &out);
  if (verb.outputs.empty()) return out;
  out += "\nGives back, for expect and capture:\n";
  for (const Output& output : verb.outputs) {
    out += fmt::format("  {:<32} {}\n", output.name, output.help);
  }
  return out;
}

std::string Usage() {
  std::string out = "Usage: farside COMMAND ...\n\nCommands:\n";
  for (const Command& command : Commands()) {
    out += fmt::format("  {:<10} {}\n", command.name, command.summary);
  }
  out +=
      "\n`farside COMMAND --help` lists a command's options, `farside help VERB` explains a "
      "verb.\nThe verbs of scenarios and of the shell:\n\n";
  return out + VerbList();
}

int BadUsage(const Error& error) {
  fmt::print(stderr, "farside: {}\n", error.message);
  return kBadUsage;
}

int HelpCommand(const Arguments& args) {
  if (args.size() > 1) return BadUsage({"help explains one thing at a time", 0});
  if (args.empty() || args.front() == "--help") {
    fmt::print("{}", Usage());
    return kOk;
  }
  for (const Command& command : Commands()) {
    const bool has_help = command.run != &HelpCommand && command.run != &VersionCommand;
    if (command.name == args.front() && has_help) return command.run({"--help"});
  }
  const Verb* const verb = scenario::FindVerb(args.front());
  if (verb == nullptr) {
    return BadUsage({scenario::NoSuchVerb(args.front()).message + " and the commands", 0});
  }
  fmt::print("{}", VerbHelp(*verb));
  return kOk;
}

}  // namespace farside::cli
