// Listen and Tell: a child of this process plays a session and tells of it, so that a fault ends
// what is told and nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace farside::fuzz {

// In the child: a line a thing, as it comes.
void Tell(const char* what, const nlohmann::json& value);

// Runs `play` in a child. What it told until its end, whatever that was: {what: value} each.
std::vector<nlohmann::json> Listen(const std::function<void()>& play);

// A number as scenarios have it.
std::string Hex(uint64_t value);

}  // namespace farside::fuzz
