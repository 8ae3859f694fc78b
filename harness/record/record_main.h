// farside record: the command line of the wire tap.
#pragma once

#include <string>
#include <vector>

namespace farside::record {

// `args` are what follows "record". Runs until SIGTERM or SIGINT; the exit status.
int RecordMain(const std::vector<std::string>& args);

}  // namespace farside::record
