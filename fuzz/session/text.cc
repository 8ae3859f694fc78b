#include "fuzz/session/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/options.h"

namespace farside::fuzz {
namespace {

std::string Hex(uint64_t value) { return fmt::format("{:#x}", value); }

std::string HexBytes(ConstBytes data) {
  std::string text;
  text.reserve(2 * data.size());
  for (const std::byte byte : data) text += fmt::format("{:02x}", std::to_integer<uint8_t>(byte));
  return text;
}

std::optional<uint8_t> Digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint8_t>(c - 'a' + 10);
  return std::nullopt;
}

bool ParseHexBytes(std::string_view text, Bytes out) {
  for (size_t i = 0; i < out.size(); ++i) {
    const auto high = Digit(text[2 * i]);
    const auto low = Digit(text[2 * i + 1]);
    if (!high || !low) return false;
    out[i] = static_cast<std::byte>(*high << 4 | *low);
  }
  return true;
}

// Members of one event's object.
class Members {
 public:
  Members(const KindDef& def, const nlohmann::json& json) : def_(def), json_(json) {}

  uint64_t Number(std::string_view name, uint64_t max) {
    if (name.empty()) return 0;
    ++known_;
    const auto found = json_.find(std::string(name));
    if (found == json_.end()) return Fails(name, "is missing"), 0;
    std::optional<uint64_t> value;
    if (found->is_number_unsigned()) value = found->get<uint64_t>();
    if (found->is_string()) value = ParseNumber(found->get<std::string>());
    if (!value || *value > max) return Fails(name, "is no number that it can be"), 0;
    return *value;
  }

  ConstBytes Data(bool has, Store& store) {
    if (!has) return {};
    ++known_;
    const auto found = json_.find("data");
    if (found == json_.end() || !found->is_string())
      return Fails("data", "is missing"), ConstBytes();
    const std::string text = found->get<std::string>();
    if (text.size() % 2 != 0 || text.size() / 2 > kMaxData) {
      return Fails("data", "is to be pairs of hexadecimal digits, at most 4096"), ConstBytes();
    }
    const Bytes data = store.Add(text.size() / 2);
    if (!ParseHexBytes(text, data)) Fails("data", "has other digits than 0-9 and a-f");
    return data;
  }

  Result<void> Finish() const {
    if (!error_.empty()) return farside::Fail("{}", error_);
    if (json_.size() != known_) {
      return farside::Fail("a \"{}\" has other members than it can have", def_.name);
    }
    return {};
  }

 private:
  static std::optional<uint64_t> ParseNumber(const std::string& text) {
    const bool hex = text.starts_with("0x");
    if (text.empty() || text.size() > 20) return std::nullopt;
    try {
      size_t used = 0;
      const uint64_t value = std::stoull(text, &used, hex ? 16 : 10);
      if (used == text.size() && text[0] != '-') return value;
    } catch (const std::exception&) {
      // No number, or too large a one.
    }
    return std::nullopt;
  }
  void Fails(std::string_view name, std::string_view how) {
    if (error_.empty()) error_ = fmt::format("\"{}\" of a \"{}\" {}", name, def_.name, how);
  }

  const KindDef& def_;
  const nlohmann::json& json_;
  size_t known_ = 0;
  std::string error_;
};

}  // namespace

nlohmann::json ToJson(const Event& event) {
  const KindDef& def = Definition(event.kind);
  nlohmann::json members = nlohmann::json::object();
  if (!def.what.empty()) members[std::string(def.what)] = event.what;
  if (!def.size.empty()) members[std::string(def.size)] = event.size;
  if (!def.at.empty()) members[std::string(def.at)] = Hex(event.at);
  if (!def.value.empty()) members[std::string(def.value)] = Hex(event.value);
  if (def.data) members["data"] = HexBytes(event.data);
  return {{std::string(def.name), std::move(members)}};
}

Result<Event> FromJson(const nlohmann::json& json, Store& store) {
  if (!json.is_object() || json.size() != 1) {
    return Fail("an event is an object with one member, its kind");
  }
  const std::string name = json.begin().key();
  for (size_t i = 0; i < kKindCount; ++i) {
    const KindDef& def = Definition(static_cast<Kind>(i));
    if (def.name != name) continue;
    if (!json.begin()->is_object()) return Fail("\"{}\" is to be an object", name);
    Members members(def, *json.begin());
    Event event{.kind = def.kind};
    event.what = static_cast<uint8_t>(members.Number(def.what, UINT8_MAX));
    event.size = static_cast<uint8_t>(members.Number(def.size, UINT8_MAX));
    event.at = members.Number(def.at, UINT64_MAX);
    event.value = members.Number(def.value, UINT64_MAX);
    event.data = members.Data(def.data, store);
    if (auto finished = members.Finish(); !finished) return tl::unexpected(finished.error());
    return event;
  }
  return Fail("there is no event {}", Quote(name));
}

std::string FormatEvent(const Event& event, std::string_view note) {
  const std::string text = ToJson(event).dump();
  return note.empty() ? text : fmt::format("{}  {}", text, note);
}

std::string FormatSession(std::string_view target, const Session& session) {
  std::string text =
      fmt::format("{{\"target\": \"{}\", \"flags\": {}, \"events\": [", target, session.flags);
  std::string_view separator = "\n  ";
  for (const Event& event : session.events) {
    text += fmt::format("{}{}", separator, ToJson(event).dump());
    separator = ",\n  ";
  }
  return text + "\n]}\n";
}

Result<NamedSession> ParseSession(std::string_view text, Store& store) {
  const auto json = ParseJson(text);
  if (!json) return tl::unexpected(json.error());
  NamedSession named;
  const auto member = [&](const char* name) -> const nlohmann::json* {
    const auto found = json->is_object() ? json->find(name) : json->end();
    return json->is_object() && found != json->end() ? &*found : nullptr;
  };
  const nlohmann::json* target = member("target");
  const nlohmann::json* flags = member("flags");
  const nlohmann::json* events = member("events");
  if (target == nullptr || !target->is_string() || flags == nullptr ||
      !flags->is_number_unsigned() || events == nullptr || !events->is_array()) {
    return Fail("a session is an object with \"target\", \"flags\" and \"events\"");
  }
  if (events->size() > kMaxEvents || flags->get<uint64_t>() > UINT8_MAX) {
    return Fail("a session has at most {} events, and flags of 8 bits", kMaxEvents);
  }
  named.target = target->get<std::string>();
  named.session.flags = flags->get<uint8_t>();
  for (size_t i = 0; i < events->size(); ++i) {
    auto event = FromJson((*events)[i], store);
    if (!event) return Fail("events[{}]: {}", i, event.error().message);
    named.session.events.push_back(*event);
  }
  return named;
}

}  // namespace farside::fuzz
