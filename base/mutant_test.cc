#include "base/mutant.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace farside {
namespace {

#ifdef FARSIDE_MUTANTS
// A test that is done with a mutant of its own must not put to sleep the one that all tests of the
// program are tried against.
TEST(MutantTest, TheEnvironmentsIsAwakeAgainAfterAnother) {
  ASSERT_EQ(setenv("FARSIDE_MUTANT", "outer", /*overwrite=*/1), 0);
  SetMutant("inner");
  EXPECT_TRUE(IsMutant("inner"));
  EXPECT_FALSE(IsMutant("outer"));
  SetMutant("");
  EXPECT_FALSE(IsMutant("inner"));
  EXPECT_TRUE(IsMutant("outer"));
  ASSERT_EQ(unsetenv("FARSIDE_MUTANT"), 0);
  SetMutant("");
  EXPECT_FALSE(IsMutant("outer"));
}
#endif

}  // namespace
}  // namespace farside
