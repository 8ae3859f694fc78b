// The report as a page of HTML that needs nothing else.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace farside::campaign {

// `report` is what `farside fuzz report --json` writes.
std::string Page(const nlohmann::json& report);

}  // namespace farside::campaign
