// Verb: one row of the table that scenarios, shell, help and JSON Schema are made of.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "harness/scenario/value.h"

namespace farside::scenario {

class Args;
class Session;

enum class Type {
  kNumber,  // 12, "0x1c", "4K".
  kBool,    // true, "on".
  kText,
  kPattern,  // A regular expression (pattern.h).
  kBytes,    // "00ff", or a list of pieces: [{"u32": 1}, {"u64": "0x1000"}, {"text": "x"}].
  kWord,     // One of `words`; its index is the value.
  kCode,     // The same, or any number up to `max`. Empty words stand for numbers without a name.
  kErrno,    // "EINVAL" or 22.
  kStatus,   // "LBA Out of Range" or 0x4080.
  kNumbers,  // A list of numbers.
  kTexts,    // A list of texts.
  kRecord,   // An object of `fields`.
  kRecords,  // A list of them.
  kSteps,    // A list of steps.
  kUntil,    // An object of `fields` whose references are replaced when it is looked at.
};

struct Param {
  std::string_view name;
  Type type;
  std::string_view help;  // With the unit and what holds where it is not given.
  bool required = false;
  std::string_view fallback = {};  // As text; empty: absent, and the verb sees that.
  uint64_t max = UINT64_MAX;       // Of a number.
  std::span<const std::string_view> words = {};
  std::span<const Param> fields = {};
};

struct Output {
  std::string_view name;
  std::string_view help;
  bool is_text = false;
};

// In the order of Verb::outputs.
using Outputs = std::vector<std::pair<std::string_view, Value>>;

enum class Kind {
  kRaw,      // One event at the boundary, or of the world around it: what --expand prints.
  kDriver,   // A guest driver's work: many events.
  kControl,  // Steps in steps.
};

struct Verb {
  std::string_view name;
  std::string_view help;
  Kind kind;
  std::span<const Param> params;  // In the order of the shell's positional arguments.
  std::span<const Output> outputs;
  // An Error: what was to be done could not be, or a check of the verb's own failed. `code` is the
  // errno with which the device refused. Null for control verbs, which the interpreter knows.
  Result<Outputs> (*run)(Session& session, const Args& args);
};

// What every verb takes besides.
std::span<const Param> CommonParams();

// All verbs, those of a group together.
std::vector<const Verb*> AllVerbs();

// Null where there is none.
const Verb* FindVerb(std::string_view name);

// "there is no verb 'bar.raed': did you mean 'bar.read'?"
Error NoSuchVerb(std::string_view name);

// Rows that each file of verbs contributes.
std::span<const Verb> RegionVerbs();
std::span<const Verb> MemoryVerbs();
std::span<const Verb> IrqVerbs();
std::span<const Verb> StateVerbs();
std::span<const Verb> FrameVerbs();
std::span<const Verb> ProcessVerbs();
std::span<const Verb> NvmeVerbs();
std::span<const Verb> LsiVerbs();
std::span<const Verb> ControlVerbs();

// Parameters that many verbs share.
inline constexpr Param kDeviceParam = {"device", Type::kText,
                                       "the device's id; default: the scenario's first"};
inline constexpr Param kCpuParam = {.name = "cpu",
                                    .type = Type::kNumber,
                                    .help = "the vCPU that does it",
                                    .fallback = "0",
                                    .max = UINT32_MAX};

}  // namespace farside::scenario
