// Values as scenarios and shell commands spell them, and the contents that disks and memory are
// filled with.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "devices/nvme/commands.h"

namespace farside::scenario {

// What a verb gives back and a capture keeps: a number or a text. Bytes are hexadecimal text.
using Value = std::variant<uint64_t, std::string>;

// By name; "$name" in a step stands for one.
using Captures = std::map<std::string, Value, std::less<>>;

// 0x1c, or the text.
std::string ValueText(const Value& value);
// As it can be given to a verb again: numbers as "0x1c", since JSON's own end at 2^53.
nlohmann::json ValueJson(const Value& value);

// A JSON number without a fraction, or a text: decimal, 0x and hexadecimal, or a number of K, M, G.
Result<uint64_t> ReadNumber(const nlohmann::json& value);

// Pairs of hexadecimal digits, with any blanks between them.
Result<std::vector<std::byte>> ParseHex(std::string_view text);
std::string FormatHex(ConstBytes bytes);

// "EINVAL", or a number.
std::optional<uint64_t> ParseErrno(std::string_view text);
// "EINVAL"; the number where there is no name.
std::string ErrnoName(uint64_t code);

// A status of NVMe by its name in the specification ("LBA Out of Range"), or a number.
std::optional<uint64_t> ParseNvmeStatus(std::string_view text);
// "0x4080 LBA Out of Range".
std::string NvmeStatusText(nvme::Status status);

// "$csts" names the capture csts.
bool IsReference(std::string_view text);

// The contents that can be had at any offset of a disk or a piece of memory.
struct Content {
  enum class Kind {
    kFill,       // Every byte is the low byte of `number`.
    kSeed,       // 8-byte word i is Mix64(Mix64(number) + i).
    kGenerated,  // What -blockdev driver=generated,seed=NUMBER holds (block/generated.h).
  };
  Kind kind = Kind::kFill;
  uint64_t number = 0;

  // The bytes from `offset` on; `offset` and out.size() are multiples of 8, for kGenerated of 512.
  void Produce(uint64_t offset, Bytes out) const;
};

}  // namespace farside::scenario
