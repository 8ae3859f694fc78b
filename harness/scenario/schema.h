// The JSON Schema (draft 07) of a scenario, made from the table of verbs.
#pragma once

#include <nlohmann/json.hpp>

namespace farside::scenario {

nlohmann::ordered_json ScenarioSchema();

}  // namespace farside::scenario
