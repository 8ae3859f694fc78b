// What a fuzz target says when nothing crashed and something is wrong all the same.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace farside::fuzz {

// Prints "farside-fuzz: ORACLE <oracle>: <sentence>" and aborts. `oracle` is a name of
// docs/fuzzing.md's table: findings are told apart by it.
[[noreturn]] void Violate(std::string_view oracle, const std::string& sentence);

template <typename... T>
[[noreturn]] void Violation(std::string_view oracle, fmt::format_string<T...> format, T&&... args) {
  Violate(oracle, fmt::format(format, std::forward<T>(args)...));
}

}  // namespace farside::fuzz
