// Coverage of a child process, brought back by shared memory.
#pragma once

#include <cstddef>

namespace farside::fuzz {

// From here on the counters of clang's -fsanitize=fuzzer-no-link are memory that is shared with the
// children that are forked: an engine in this process sees what a child executes, as if it were
// done here. Counters that share a page with other data stay out. Gives the number of those that
// are shared: 0 in a build without them. To be called once, before there are threads.
size_t ShareCounters();

}  // namespace farside::fuzz
