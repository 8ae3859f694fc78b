// Saved device state: a section per register block, each with name, version and length. The format
// is devices/core/state_format.md.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace farside {

// Whether a reader that does not know a section may go on without it.
enum class SectionKind : uint8_t { kRequired = 0, kOptional = 1 };

// Builds a state in memory. Integers are little-endian.
class StateWriter {
 public:
  StateWriter();

  // Starts a section; it ends where the next one starts. `name` has 1 to 255 bytes.
  void Section(std::string_view name, uint16_t version, SectionKind kind = SectionKind::kRequired);

  template <std::integral T>
  void Put(T value) {
    const auto bytes = AsBytes(value);
    PutBytes(bytes);
  }
  void PutBytes(ConstBytes bytes);

  // Ends the state. The writer is used up.
  std::vector<std::byte> Finish();

 private:
  void EndSection();

  std::vector<std::byte> bytes_;
  size_t section_size_at_ = 0;
};

// Reads what StateWriter made. Every number in it may be hostile: reads past a section's end give
// zeroes and make the state bad, which Finish reports.
class StateReader {
 public:
  // `state` outlives the reader.
  static Result<StateReader> Parse(ConstBytes state);

  // Goes to section `name`; its version, or an error if it is absent or newer than `max_version`.
  Result<uint16_t> Section(std::string_view name, uint16_t max_version);

  template <std::integral T>
  T Get() {
    T value{};
    GetBytes(AsWritableBytes(value));
    return value;
  }
  void GetBytes(Bytes out);
  // Bytes left in this section.
  uint64_t remaining() const { return cursor_.size(); }

  // An error if a read went past its section, or if a required section was never asked for.
  Result<void> Finish() const;

 private:
  struct Entry {
    std::string name;
    uint16_t version = 0;
    SectionKind kind = SectionKind::kRequired;
    ConstBytes payload;
    bool used = false;
  };

  std::vector<Entry> sections_;
  ConstBytes cursor_;
  std::string overrun_;  // The section that was read past its end, if any.
  std::string current_;
};

}  // namespace farside
