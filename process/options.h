// The value syntax of QEMU's -blockdev, -device and -object.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "base/error.h"

namespace farside {

// Turns one option's value into the object an OptionReader reads. A text that begins with '{' is
// JSON. Any other is key=value pairs with commas between them:
//
//   driver=file,filename=a,,b.img    a comma inside a value is doubled
//   nvme,id=nvme0                    the first key may be left out where `implied_key` is not empty
//   cache.direct=on                  {"cache": {"direct": "on"}}
//   a.0=x,a.1=y                      {"a": ["x", "y"]}
//   nvme,help                        "help" needs no value: {"driver": "nvme", "help": "on"}
//
// Values of pairs stay strings. A key that comes twice is an error.
Result<nlohmann::json> ParseOptionValue(std::string_view text, std::string_view implied_key);

}  // namespace farside
