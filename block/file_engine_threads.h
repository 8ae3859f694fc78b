// The file engine for hosts that refuse io_uring: a few threads that make the blocking calls.
#pragma once

#include <memory>

#include "block/file_engine.h"

namespace farside::block {

// Its threads are all started here: no clone() is needed later.
Result<std::unique_ptr<FileEngine>> CreateThreadEngine(int fd, EpollLoop& loop);

}  // namespace farside::block
