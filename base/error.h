// Errors of the peer or the host: a sentence that names the thing and the remedy, and an errno.
#pragma once

#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace farside {

struct Error {
  std::string message;  // A whole sentence without a final dot: what, which, and what to do.
  int code = 0;         // A positive errno, or 0 where none fits.
};

template <typename T = void>
using Result = tl::expected<T, Error>;

// return Fail("cannot open {}: ...", path);
template <typename... Args>
[[nodiscard]] tl::unexpected<Error> Fail(fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected(Error{fmt::format(format, std::forward<Args>(args)...), 0});
}

// As Fail, with an errno: return FailWith(EINVAL, "...").
template <typename... Args>
[[nodiscard]] tl::unexpected<Error> FailWith(int code, fmt::format_string<Args...> format,
                                             Args&&... args) {
  return tl::unexpected(Error{fmt::format(format, std::forward<Args>(args)...), code});
}

// The sentence fragment for an errno: "No such file or directory".
std::string ErrnoText(int code);

}  // namespace farside
