#include "harness/scenario/expect.h"

#include <algorithm>

#include "base/check.h"
#include "base/options.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

constexpr Param kNumberCondition[] = {
    {"value", Type::kNumber, "what it is"},
    {"mask", Type::kNumber, "the bits that count; default: all", false, "0xffffffffffffffff"},
    {"min", Type::kNumber, "the least that will do"},
    {"max", Type::kNumber, "the most that will do"},
};
constexpr Param kTextCondition[] = {
    {"value", Type::kText, "what it is"},
};

std::string OutputNames(const Verb& verb) {
  std::string out;
  for (const Output& output : verb.outputs) {
    out += out.empty() ? "" : ", ";
    out += output.name;
  }
  return out.empty() ? "nothing" : out;
}

Result<const Output*> FindOutput(const Verb& verb, std::string_view name) {
  const auto found = std::ranges::find(verb.outputs, name, &Output::name);
  if (found != verb.outputs.end()) return &*found;
  return Fail("{} gives back no {}: it gives {}", verb.name, Quote(name), OutputNames(verb));
}

Result<void> ReadExpectations(const Verb& verb, const json& given, Extras* out) {
  if (!given.is_object()) return Fail("expect is no object: {{\"{}\": 1}}", OutputNames(verb));
  for (const auto& [name, condition] : given.items()) {
    if (name == "mask" && given.contains("value")) continue;
    const auto output = FindOutput(verb, name);
    if (!output) return tl::unexpected(output.error());
    json object = condition.is_object() ? condition : json{{"value", condition}};
    if (name == "value" && given.contains("mask")) object["mask"] = given["mask"];
    out->expectations.push_back({*output, std::move(object)});
  }
  return {};
}

Result<void> AddCapture(const Output* output, const json& name, Extras* out) {
  if (!name.is_string() || name.get_ref<const std::string&>().empty() ||
      IsReference(name.get_ref<const std::string&>())) {
    return Fail("capture: {} is no name", Quote(name.dump()));
  }
  out->captures.emplace_back(name.get<std::string>(), output);
  return {};
}

Result<void> ReadCaptures(const Verb& verb, const json& given, Extras* out) {
  if (verb.outputs.empty()) return Fail("{} gives back nothing to capture", verb.name);
  if (!given.is_object()) return AddCapture(&verb.outputs.front(), given, out);
  for (const auto& [name, capture] : given.items()) {
    const auto output = FindOutput(verb, name);
    if (!output) return tl::unexpected(output.error());
    if (const auto added = AddCapture(*output, capture, out); !added) return added;
  }
  return {};
}

const Value& ValueOf(const Outputs& outputs, const Output& output) {
  const auto found =
      std::ranges::find_if(outputs, [&](const auto& pair) { return pair.first == output.name; });
  CHECK(found != outputs.end());
  return found->second;
}

}  // namespace

std::span<const Param> ConditionParams(bool is_text) {
  if (is_text) return kTextCondition;
  return kNumberCondition;
}

std::string Unmet(const Args& condition, uint64_t number) {
  const uint64_t mask = condition.Number("mask");
  const uint64_t masked = number & mask;
  const std::string with_mask = ~mask == 0 ? "" : fmt::format(" (mask {:#x})", mask);
  if (condition.Has("value") && masked != (condition.Number("value") & mask)) {
    return fmt::format("{:#x}{}", condition.Number("value"), with_mask);
  }
  if (condition.Has("min") && masked < condition.Number("min")) {
    return fmt::format("{:#x} or more{}", condition.Number("min"), with_mask);
  }
  if (condition.Has("max") && masked > condition.Number("max")) {
    return fmt::format("{:#x} or less{}", condition.Number("max"), with_mask);
  }
  return {};
}

Result<Extras> SplitExtras(const Verb& verb, const json& given, json* own) {
  Extras out;
  *own = given;
  if (!given.is_object()) return out;  // ReadArgs says so.
  if (const auto expect = given.find("expect"); expect != given.end()) {
    if (const auto read = ReadExpectations(verb, *expect, &out); !read) {
      return tl::unexpected(read.error());
    }
    own->erase("expect");
  }
  if (const auto capture = given.find("capture"); capture != given.end()) {
    if (const auto read = ReadCaptures(verb, *capture, &out); !read) {
      return tl::unexpected(read.error());
    }
    own->erase("capture");
  }
  return out;
}

Result<void> Extras::CheckReferences(const Captures& names) const {
  for (const auto& [output, condition] : expectations) {
    const auto read =
        ReadArgs("expect", ConditionParams(output->is_text), condition, names, Resolve::kLater);
    if (!read) return tl::unexpected(read.error());
  }
  return {};
}

Result<void> Extras::Check(const Outputs& outputs, const Captures& values) const {
  for (const auto& [output, condition] : expectations) {
    const auto args =
        ReadArgs("expect", ConditionParams(output->is_text), condition, values, Resolve::kNow);
    if (!args) return tl::unexpected(args.error());
    const Value& value = ValueOf(outputs, *output);
    std::string wanted;
    if (output->is_text) {
      const bool met = !args->Has("value") || std::get<std::string>(value) == args->Text("value");
      if (!met) wanted = fmt::format("\"{}\"", args->Text("value"));
    } else {
      wanted = Unmet(*args, std::get<uint64_t>(value));
    }
    if (!wanted.empty())
      return Fail("{} is {}, expected {}", output->name, ValueText(value), wanted);
  }
  return {};
}

void Extras::Capture(const Outputs& outputs, Captures* values) const {
  for (const auto& [name, output] : captures) {
    (*values)[name] = ValueOf(outputs, *output);
  }
}

}  // namespace farside::scenario
