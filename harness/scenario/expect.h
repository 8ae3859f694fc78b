// What a step may say of its verb's outputs: "expect" and "capture".
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "harness/scenario/args.h"
#include "harness/scenario/value.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {

struct Extras {
  struct Expectation {
    const Output* output;
    nlohmann::json condition;  // An object of ConditionParams.
  };

  std::vector<Expectation> expectations;
  std::vector<std::pair<std::string, const Output*>> captures;  // Names, and what they keep.

  // Every reference in the expectations has a value or will have one.
  Result<void> CheckReferences(const Captures& captures) const;
  // An Error says which output is what, and what it should have been.
  Result<void> Check(const Outputs& outputs, const Captures& captures) const;
  void Capture(const Outputs& outputs, Captures* captures) const;
};

// Takes "expect" and "capture" out of a step's parameters; `own` gets the rest.
//
//   "expect": {"value": 1, "mask": 1}         mask goes with the output `value`
//   "expect": {"status": 0, "dw0": {"min": 1, "max": 4}}
//   "capture": "csts"                         the first output
//   "capture": {"status": "s", "dw0": "d"}
Result<Extras> SplitExtras(const Verb& verb, const nlohmann::json& given, nlohmann::json* own);

// The condition of a repeat: what is looked at, and what it must be.
inline constexpr Param kUntilParams[] = {
    {"of", Type::kNumber, "what is looked at: a reference, as \"$csts\"", true},
    {"value", Type::kNumber, "what it is at last"},
    {"mask", Type::kNumber, "the bits that count; default: all", false, "0xffffffffffffffff"},
    {"min", Type::kNumber, "the least that will do"},
    {"max", Type::kNumber, "the most that will do"},
};

// value, mask, min and max for a number; value for a text.
std::span<const Param> ConditionParams(bool is_text);

// Empty if `number` is as the condition says, else what it should have been: "0x1 (mask 0x1)".
std::string Unmet(const Args& condition, uint64_t number);

}  // namespace farside::scenario
