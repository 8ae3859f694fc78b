// What a command line that Boost.Program_options refused is answered with.
#pragma once

#include <boost/program_options/errors.hpp>
#include <string>
#include <string_view>

#include "base/options.h"

namespace farside {

// Boost puts names and values into the text of an error until no placeholder is left in it: an
// argument that looks like one keeps it at that for ever. Then its text is not asked for.
template <typename Arguments>
std::string OptionErrorText(const boost::program_options::error& error, const Arguments& args) {
  for (const std::string_view arg : args) {
    if (arg.find('%') != arg.npos) {
      return "an option is unknown or has a wrong value, perhaps " + Quote(arg);
    }
  }
  return error.what();
}

}  // namespace farside
