#include "harness/scenario/value.h"

#include <string.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/options.h"
#include "base/random.h"

namespace farside::scenario {
namespace {

constexpr uint64_t kMaxErrno = 4095;
constexpr uint64_t kSectorSize = 512;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string ValueText(const Value& value) {
  const auto* number = std::get_if<uint64_t>(&value);
  return number != nullptr ? fmt::format("{:#x}", *number) : std::get<std::string>(value);
}

nlohmann::json ValueJson(const Value& value) { return ValueText(value); }

Result<uint64_t> ReadNumber(const nlohmann::json& value) {
  // Beyond this a JSON number of Jsonnet's is rounded.
  constexpr double kExact = 9007199254740992;
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number >= 0 && number < kExact && std::floor(number) == number) {
      return static_cast<uint64_t>(number);
    }
    return Fail("{} is no whole number below 2^53: write larger ones as text, \"0x...\"",
                value.dump());
  }
  if (value.is_string()) {
    const auto number = ParseSize(value.get_ref<const std::string&>());
    if (number) return *number;
  }
  return Fail("{} is no number: write 12, \"0x1c\" or \"4K\"", Quote(value.dump()));
}

Result<std::vector<std::byte>> ParseHex(std::string_view text) {
  std::vector<std::byte> out;
  out.reserve(text.size() / 2);
  for (size_t i = 0; i < text.size();) {
    if (std::isspace(static_cast<unsigned char>(text[i])) != 0) {
      ++i;
      continue;
    }
    const int high = HexDigit(text[i]);
    const int low = i + 1 < text.size() ? HexDigit(text[i + 1]) : -1;
    if (high < 0 || low < 0) {
      return Fail("{} is no list of bytes: write two hexadecimal digits for each", Quote(text));
    }
    out.push_back(static_cast<std::byte>(high << 4 | low));
    i += 2;
  }
  return out;
}

std::string FormatHex(ConstBytes bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) {
    out.push_back(kDigits[std::to_integer<size_t>(byte) >> 4]);
    out.push_back(kDigits[std::to_integer<size_t>(byte) & 0xf]);
  }
  return out;
}

std::optional<uint64_t> ParseErrno(std::string_view text) {
  for (int code = 1; code <= static_cast<int>(kMaxErrno); ++code) {
    const char* const name = strerrorname_np(code);
    if (name != nullptr && text == name) return static_cast<uint64_t>(code);
  }
  const auto number = ParseSize(text);
  return number && *number <= kMaxErrno ? number : std::nullopt;
}

std::string ErrnoName(uint64_t code) {
  const char* const name = code <= kMaxErrno ? strerrorname_np(static_cast<int>(code)) : nullptr;
  return name != nullptr && code != 0 ? name : std::to_string(code);
}

std::optional<uint64_t> ParseNvmeStatus(std::string_view text) {
  for (const nvme::StatusDef& row : nvme::kStatuses) {
    if (row.name == text) return static_cast<uint64_t>(row.status);
  }
  const auto number = ParseSize(text);
  return number && *number <= UINT16_MAX >> 1 ? number : std::nullopt;
}

std::string NvmeStatusText(nvme::Status status) {
  const std::string_view name = nvme::StatusName(status);
  return fmt::format("{:#x}{}{}", static_cast<uint16_t>(status), name.empty() ? "" : " ", name);
}

bool IsReference(std::string_view text) { return text.size() > 1 && text.front() == '$'; }

void Content::Produce(uint64_t offset, Bytes out) const {
  if (kind == Kind::kFill) return Fill(out, static_cast<uint8_t>(number));
  CHECK(offset % 8 == 0 && out.size() % 8 == 0);
  const uint64_t key = Mix64(number);
  for (uint64_t at = 0; at < out.size(); at += 8) {
    const uint64_t byte = offset + at;
    const uint64_t word = kind == Kind::kSeed
                              ? Mix64(key + byte / 8)
                              : Mix64(Mix64(key ^ byte / kSectorSize) + byte % kSectorSize / 8);
    StoreLe(out.subspan(at), word);
  }
}

}  // namespace farside::scenario
