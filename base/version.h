#pragma once

#include <string_view>

namespace farside {

inline constexpr std::string_view kVersion = FARSIDE_VERSION;

}  // namespace farside
