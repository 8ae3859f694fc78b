#include "block/memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace farside::block {
namespace {

using ::testing::HasSubstr;

TEST(MemoryTest, SaysThatItsFileCannotBeMade) {
  const std::string name(300, 'n');  // That of a memory file has at most 249 characters.
  const auto node = MemoryNode::Create({.name = name}, 1 << 20);
  ASSERT_FALSE(node);
  EXPECT_EQ(node.error().code, EINVAL);
  EXPECT_THAT(node.error().message, HasSubstr("cannot make memory file nnn"));
}

}  // namespace
}  // namespace farside::block
