// Sessions as text: JSON with an event a line, for people, files and scenarios.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// {"write": {"region": 0, "offset": "0x14", "size": 4, "value": "0x460001"}}.
nlohmann::json ToJson(const Event& event);
// Errors say which member is wrong. Data is kept in `store`.
Result<Event> FromJson(const nlohmann::json& json, Store& store);

// The same on one line, and behind it what `note` says of it.
std::string FormatEvent(const Event& event, std::string_view note = {});

// A whole session: {"target": "nvme", "flags": 5, "events": [...]}.
std::string FormatSession(std::string_view target, const Session& session);
struct NamedSession {
  std::string target;
  Session session;
};
Result<NamedSession> ParseSession(std::string_view text, Store& store);

}  // namespace farside::fuzz
