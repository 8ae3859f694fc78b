#include "harness/replay/polls.h"

#include <gtest/gtest.h>

namespace farside::replay {
namespace {

using Verdict = Polls::Verdict;

constexpr uint8_t kReady = 1;
constexpr uint8_t kBusy = 5;
constexpr uint8_t kDone = 9;

class PollsTest : public testing::Test {
 protected:
  Verdict Reply(uint8_t expected, uint8_t got, uint8_t reg = 0x1c) {
    return polls_.OnReply(++event_, 0, AsBytes(reg), AsBytes(expected), AsBytes(got));
  }

  Polls polls_;
  uint32_t event_ = 0;
};

TEST_F(PollsTest, ADeviceThatIsEarlierIsFine) {
  EXPECT_EQ(Reply(kReady, kReady), Verdict::kFine);
  EXPECT_EQ(Reply(kBusy, kDone), Verdict::kOpen);
  EXPECT_EQ(Reply(kBusy, kDone), Verdict::kOpen);
  EXPECT_EQ(Reply(kDone, kDone), Verdict::kFine);
  EXPECT_EQ(polls_.count(), 1u);
  EXPECT_FALSE(polls_.open());
}

TEST_F(PollsTest, ADeviceThatIsLaterIsFine) {
  EXPECT_EQ(Reply(kDone, kBusy), Verdict::kOpen);
  EXPECT_EQ(Reply(kDone, kDone), Verdict::kFine);
  EXPECT_EQ(Reply(kReady, kBusy), Verdict::kOpen);
  polls_.Close();  // It gave kReady when it was asked again.
  EXPECT_EQ(polls_.count(), 2u);
}

TEST_F(PollsTest, AChangedByteOfARegisterThatStandsStillIsWrong) {
  EXPECT_EQ(Reply(kReady, kReady), Verdict::kFine);
  EXPECT_EQ(Reply(kBusy, kReady), Verdict::kOpen) << "kBusy stands there by mistake";
  EXPECT_EQ(polls_.open()->event, 2u);
  EXPECT_EQ(Reply(kReady, kReady), Verdict::kWrong);
  EXPECT_EQ(polls_.open()->event, 2u);
}

TEST_F(PollsTest, AChangedByteInTheFirstReadOfARegisterIsWrong) {
  EXPECT_EQ(Reply(kBusy, kReady), Verdict::kOpen);
  EXPECT_EQ(Reply(kReady, kReady), Verdict::kWrong);
}

TEST_F(PollsTest, AStateThatTheRecordingNeverReachedIsWrong) {
  EXPECT_EQ(Reply(kReady, kReady), Verdict::kFine);
  EXPECT_EQ(Reply(kBusy, 7), Verdict::kOpen);
  EXPECT_EQ(Reply(kDone, kDone), Verdict::kWrong);
}

TEST_F(PollsTest, OnlyTheSameReadGoesOnWithARun) {
  EXPECT_EQ(Reply(kBusy, kDone), Verdict::kOpen);
  EXPECT_TRUE(polls_.Continues(AsBytes(uint8_t{0x1c})));
  EXPECT_FALSE(polls_.Continues(AsBytes(uint8_t{0x08})));
  EXPECT_FALSE(polls_.Continues({}));
}

}  // namespace
}  // namespace farside::replay
