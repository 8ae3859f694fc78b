// Locks that keep two programs from using one image against each other, QEMU among them.
#pragma once

#include <string>

#include "base/error.h"

namespace farside::block {

// Says on the open file `fd` that we read it, and write it unless `read_only`, and that nobody else
// may write it; fails if somebody else said what contradicts. QEMU's scheme: open-file-description
// locks, shared ones, on a byte for each permission that is held (from byte 100) and for each that
// is not shared with others (from byte 200). Error code EAGAIN: held by another; else the file
// system has no such locks.
Result<void> LockFile(int fd, const std::string& filename, bool read_only);

// Gives the locks back now, although the kernel may hold the file open a while longer for its
// io_uring.
void UnlockFile(int fd);

}  // namespace farside::block
