// Two disk-procs, of which one ends by itself after a while.
#include "harness/diff/differ.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "harness/diff/generator.h"
#include "harness/diff/target.h"

namespace farside::diff {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr char kDisk[] = FARSIDE_DISK_PROC
    " -blockdev driver=generated,node-name=d0,size=8M,seed=7 -device nvme,drive=d0,serial=S1";
constexpr uint64_t kEvents = 200'000;  // More than come before the end.

// A device that may end at what its guest does.
class MortalTarget final : public Target {
 public:
  explicit MortalTarget(std::unique_ptr<Target> real) : real_(std::move(real)) {}
  Result<std::unique_ptr<Connection>> Start(DmaHandler* handler) override {
    return real_->Start(handler);
  }
  bool may_die() const override { return true; }

 private:
  std::unique_ptr<Target> real_;
};

class DifferTest : public testing::Test {
 protected:
  static std::unique_ptr<Target> Make(const std::string& text) {
    return std::move(MakeTarget(text, "").value());
  }

  // Gives both the events of a seed until B was started again so often, or there is a difference.
  void Run(Target& a, Target& b, uint64_t restarts) {
    const auto side_a = Side::Create("A", a, NvmeModel().memory());
    const auto side_b = Side::Create("B", b, NvmeModel().memory());
    ASSERT_TRUE(side_a && side_b);
    const Lawful lawful;
    Differ differ(NvmeModel(), lawful, **side_a, **side_b, {});
    const auto started = differ.Start();
    ASSERT_TRUE(started) << started.error().message;
    Generator generator(NvmeModel(), 3);
    for (uint64_t i = 0; i < kEvents && differ.result().restarts_b < restarts; ++i) {
      const auto same = differ.Step(generator.Next());
      ASSERT_TRUE(same) << same.error().message;
      if (!*same) break;
    }
    const auto finished = differ.Finish();
    EXPECT_TRUE(finished) << finished.error().message;
    result_ = differ.result();
  }

  DiffResult result_;
};

TEST_F(DifferTest, ADeviceThatMayEndIsStartedAgainAndSoIsTheOther) {
  const auto a = Make(kDisk);
  MortalTarget b(Make(std::string("timeout --foreground 0.7 ") + kDisk));
  Run(*a, b, 2);
  EXPECT_EQ(result_.restarts_a, 0u);
  EXPECT_EQ(result_.restarts_b, 2u);
  ASSERT_EQ(result_.deaths.size(), 2u);
  EXPECT_EQ(result_.deaths[0].side, "B");
  EXPECT_THAT(result_.deaths[0].how, HasSubstr("exited with status 124"));
  EXPECT_FALSE(result_.difference) << result_.difference->what << " A " << result_.difference->a
                                   << " B " << result_.difference->b;
}

TEST_F(DifferTest, TheEndOfAnotherIsADifference) {
  const auto a = Make(kDisk);
  const auto b = Make(std::string("timeout --foreground 0.7 ") + kDisk);
  Run(*a, *b, 2);
  ASSERT_TRUE(result_.difference);
  EXPECT_EQ(result_.difference->what, "side B is gone");
  EXPECT_EQ(result_.difference->b, "gone");
  // The last one, or the one before, where the settling that it left owed is what found the end.
  EXPECT_THAT(result_.difference->event, AnyOf(result_.events - 1, result_.events - 2));
}

TEST(TargetTest, QuotesKeepBlanks) {
  EXPECT_FALSE(MakeTarget("", ""));
  EXPECT_FALSE(MakeTarget("disk-proc 'open", ""));
  EXPECT_TRUE(MakeTarget("disk-proc -device 'nvme,serial=A B'", ""));
}

}  // namespace
}  // namespace farside::diff
