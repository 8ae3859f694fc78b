#include "block/null.h"

#include "block/test_support.h"

namespace farside::block {
namespace {

using NullTest = BlockTest;

TEST_F(NullTest, LeavesMemoryAsItIs) {
  NullNode disk({.name = "disk"}, 4096, /*read_zeroes=*/false);
  EXPECT_EQ(Write(disk, 0, Buffer::Filled(512, 1)), IoStatus{});
  EXPECT_EQ(Content(disk, 0, 512), Buffer::Filled(512, 0xee));
}

TEST_F(NullTest, ReadsZeroes) {
  NullNode disk({.name = "disk"}, 4096, /*read_zeroes=*/true);
  EXPECT_EQ(Write(disk, 0, Buffer::Filled(512, 1)), IoStatus{});
  EXPECT_EQ(Content(disk, 0, 512), Buffer::Filled(512, 0));
}

TEST_F(NullTest, ChecksItsRequestsAllTheSame) {
  NullNode disk({.name = "disk"}, 4096, false);
  EXPECT_EQ(Read(disk, 4096, Buffer(512)), IoStatus{EINVAL});
  EXPECT_EQ(Write(disk, 4096, Buffer(512)), IoStatus{EINVAL});
  EXPECT_EQ(Await(disk.WriteZeroes(0, 4608, false)), IoStatus{EINVAL});
  EXPECT_EQ(Await(disk.Discard(0, 4608)), IoStatus{EINVAL});
  EXPECT_EQ(Await(disk.Flush()), IoStatus{});
  NullNode read_only({.name = "disk", .read_only = true}, 4096, false);
  EXPECT_EQ(Write(read_only, 0, Buffer(512)), IoStatus{EPERM});
}

}  // namespace
}  // namespace farside::block
