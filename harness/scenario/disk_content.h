// What the verbs of disks write and expect, whatever controller the disk is behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "harness/scenario/args.h"

namespace farside::scenario {

// What the arguments seed, fill or generated stand for, over the blocks that `block` and `blocks`
// name. Empty where none is given; `choices` names them where there are two.
Result<std::vector<std::byte>> DiskContent(const Args& args, uint64_t block_size,
                                           std::string_view choices);

// An Error that shows the first bytes that differ. `offset` of both on the disk, in bytes.
Result<void> CheckDiskContent(ConstBytes got, ConstBytes expected, uint64_t offset);

}  // namespace farside::scenario
