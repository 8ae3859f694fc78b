// Layouts: the fields of every vfio-user message, by name, for what is to be read by people.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "protocol/vfio_user.h"

namespace farside::trace {

struct LayoutField {
  enum class Style {
    kDecimal,
    kHex,
    kWord,      // One of `words`; a number where there is none.
    kFlags,     // Names out of `words`, by bit, joined by '|'; a number where a bit has none.
    kDataSize,  // The number of bytes that follow, where they follow.
  };

  std::string_view name;
  uint32_t offset = 0;  // In the payload.
  uint32_t size = 4;    // In bytes.
  Style style = Style::kDecimal;
  // The value that goes without saying.
  std::optional<uint64_t> fallback = std::nullopt;
  std::span<const std::string_view> words = {};
};

// What follows the fields.
enum class LayoutTail {
  kNone,
  kData,    // "data", as hexadecimal digits.
  kValue,   // The same; or "value", a little-endian number, where it has up to 8 bytes.
  kText,    // "json", a text and a NUL.
  kWrites,  // "writes", WriteMultiEntry.
};

struct MessageLayout {
  uint16_t command = 0;
  bool reply = false;
  std::string_view verb;
  uint32_t fixed = 0;  // Bytes of the payload that the fields are in; what none names is 0.
  std::span<const LayoutField> fields = {};
  LayoutTail tail = LayoutTail::kNone;
};

// nullptr for what is no command.
const MessageLayout* FindLayout(uint16_t command, bool reply);
// By verb; "bar.read" and "config.read" are "region.read".
const MessageLayout* FindLayout(std::string_view verb, bool reply);

// Whether a command goes from client to server.
bool IsClientCommand(uint16_t command);

}  // namespace farside::trace
