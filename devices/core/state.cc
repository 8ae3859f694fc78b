#include "devices/core/state.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/options.h"

namespace farside {
namespace {

constexpr std::string_view kMagic = "FARSTATE";
constexpr uint16_t kFormatVersion = 1;
constexpr size_t kHeaderSize = 12;
constexpr size_t kMaxSections = 256;

// Takes n bytes off the front of `in`; false if it has fewer.
bool Take(ConstBytes& in, size_t n, ConstBytes* out) {
  if (in.size() < n) return false;
  *out = in.first(n);
  in = in.subspan(n);
  return true;
}

}  // namespace

StateWriter::StateWriter() {
  PutBytes(std::as_bytes(std::span(kMagic)));
  Put(kFormatVersion);
  Put(uint16_t{0});
}

void StateWriter::Section(std::string_view name, uint16_t version, SectionKind kind) {
  CHECK(!name.empty() && name.size() <= 255);
  EndSection();
  Put(static_cast<uint8_t>(name.size()));
  PutBytes(std::as_bytes(std::span(name)));
  Put(static_cast<uint8_t>(kind));
  Put(version);
  section_size_at_ = bytes_.size();
  Put(uint32_t{0});
}

void StateWriter::EndSection() {
  if (section_size_at_ == 0) return;
  const size_t size = bytes_.size() - section_size_at_ - sizeof(uint32_t);
  CHECK(size <= UINT32_MAX);
  StoreLe(Bytes(bytes_).subspan(section_size_at_), static_cast<uint32_t>(size));
}

void StateWriter::PutBytes(ConstBytes bytes) {
  const size_t at = bytes_.size();
  bytes_.resize(at + bytes.size());
  Copy(Bytes(bytes_).subspan(at), bytes);
}

std::vector<std::byte> StateWriter::Finish() {
  EndSection();
  return std::move(bytes_);
}

Result<StateReader> StateReader::Parse(ConstBytes state) {
  if (state.size() < kHeaderSize ||
      !std::ranges::equal(state.first(kMagic.size()), std::as_bytes(std::span(kMagic)))) {
    return Fail("the device state does not start with {}: it is not a Farside device state",
                kMagic);
  }
  const auto version = LoadLe<uint16_t>(state.subspan(kMagic.size()));
  if (version != kFormatVersion) {
    return Fail("the device state has format version {}, this build reads {}", version,
                kFormatVersion);
  }
  if (LoadLe<uint16_t>(state.subspan(kMagic.size() + sizeof version)) != 0) {
    return Fail("the device state's reserved bytes are not 0: it is damaged");
  }
  StateReader reader;
  ConstBytes rest = state.subspan(kHeaderSize);
  while (!rest.empty()) {
    Entry entry;
    ConstBytes field;
    const auto truncated = [&] {
      return Fail("the device state ends inside section {}: it was cut short",
                  reader.sections_.size());
    };
    Take(rest, 1, &field);
    const auto name_size = LoadLe<uint8_t>(field);
    if (!Take(rest, name_size, &field)) return truncated();
    entry.name.assign(reinterpret_cast<const char*>(field.data()), field.size());
    if (!Take(rest, 7, &field)) return truncated();
    entry.kind = SectionKind{LoadLe<uint8_t>(field)};
    entry.version = LoadLe<uint16_t>(field.subspan(1));
    if (!Take(rest, LoadLe<uint32_t>(field.subspan(3)), &entry.payload)) return truncated();
    const bool again = std::ranges::any_of(
        reader.sections_, [&](const Entry& other) { return other.name == entry.name; });
    if (entry.name.empty() || again || entry.kind > SectionKind::kOptional ||
        reader.sections_.size() == kMaxSections) {
      return Fail("the device state's section {} is malformed, repeated or one too many",
                  Quote(entry.name));
    }
    reader.sections_.push_back(std::move(entry));
  }
  return reader;
}

Result<uint16_t> StateReader::Section(std::string_view name, uint16_t max_version) {
  for (Entry& entry : sections_) {
    if (entry.name != name) continue;
    if (entry.version > max_version) {
      return Fail("the device state's section '{}' has version {}, this build reads up to {}", name,
                  entry.version, max_version);
    }
    entry.used = true;
    cursor_ = entry.payload;
    current_ = entry.name;
    return entry.version;
  }
  return Fail("the device state has no section '{}': it is of another device", name);
}

void StateReader::GetBytes(Bytes out) {
  ConstBytes in;
  if (Take(cursor_, out.size(), &in)) {
    Copy(out, in);
    return;
  }
  Fill(out, 0);
  cursor_ = {};
  if (overrun_.empty()) overrun_ = current_;
}

Result<void> StateReader::Finish() const {
  if (!overrun_.empty()) {
    return Fail("the device state's section '{}' is shorter than its version needs", overrun_);
  }
  for (const Entry& entry : sections_) {
    if (!entry.used && entry.kind == SectionKind::kRequired) {
      return Fail("the device state's section {} is required and unknown to this build",
                  Quote(entry.name));
    }
  }
  return {};
}

}  // namespace farside
