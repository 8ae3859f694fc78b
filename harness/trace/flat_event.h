// Flat events: events of a trace as JSON, in the words of scenarios' raw verbs (docs/traces.md).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/error.h"
#include "protocol/trace/event.h"

namespace farside::trace {

// The event without its number, which is its place in the list. Messages that are spelled by fields
// give the same bytes again; all others are "frame", with their bytes in hexadecimal digits.
nlohmann::json Flatten(const TraceInfo& info, const Event& event);

// The event that `flat` spells; its number is 0. Errors say which field is wrong.
Result<Event> Unflatten(const TraceInfo& info, const nlohmann::json& flat);

// One line of JSON, with the verb first.
std::string FormatFlat(const nlohmann::json& flat);

}  // namespace farside::trace
