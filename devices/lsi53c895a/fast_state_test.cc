// Going back by a copy of the state, as a fuzzer does between two inputs.
#include <gtest/gtest.h>

#include "devices/core/fast_state.h"
#include "devices/lsi53c895a/driver.h"

namespace farside::lsi53c895a {
namespace {

class FastStateTest : public ChipTest {
 protected:
  // Of a chip that is at rest.
  void Mark() {
    state_ = m().Save();
    fast_ = m().SaveFast();
    const Bytes ram = host().At(0, kHostSize);
    ram_.assign(ram.begin(), ram.end());
  }
  void Resume() {
    m().chip->Resume();
    m().Run();
  }
  void GoBack() {
    m().unit->Release();
    m().chip->Reset(ResetKind::kFunction);
    host().Release();
    ASSERT_TRUE(m().Drain());
    m().chip->LoadFast(fast_);
    EXPECT_EQ(m().Save(), state_);
    Copy(host().At(0, kHostSize), ram_);
    m().irq.Forget();
    Resume();
  }
  // Registers, timers, interrupts, SCRIPTS RAM, a target that is connected and one that is not.
  void Traffic() {
    Driver driver(m());
    m().unit->Hold();
    driver.Prepare(5, 0, {0xc0, 0x20, 5}, {TestUnit::kRead, 1, 1, 7, 0, 0}, kData, 256);
    EXPECT_EQ(driver.Go(5), kDisconnected);
    driver.Prepare(6, 3, {0x80}, {TestUnit::kFail, 0, 0, 0, 0, 0});
    EXPECT_EQ(driver.Go(6), kCompleted);
    m().Write8(kStime0, 0x70);
    m().Write8(kStime1, 6);
    m().Write8(kSien0, kSist0Rst);
    m().Write8(kIstat0, kIstat0Abrt);
    m().Write32(kScratchB, 0x5678);
  }

  FastState fast_;
  std::vector<std::byte> state_;
  std::vector<std::byte> ram_;
};
INSTANTIATE_DMA_MODES(FastStateTest);

TEST_P(FastStateTest, BackAtAFreshChip) {
  ASSERT_TRUE(m().Drain());
  Mark();
  Resume();
  for (int input = 0; input < 3; ++input) {
    Traffic();
    EXPECT_NE(m().Save(), state_);
    GoBack();
    EXPECT_FALSE(m().chip->NextDeadline());
    EXPECT_EQ(m().chip->instructions(), 0u);
  }
  Driver driver(m());
  driver.Prepare(0, 0, {0x80}, {TestUnit::kRead, 1, 2, 9, 0, 0}, kData, 512);
  EXPECT_EQ(driver.Go(0), kCompleted);
  EXPECT_TRUE(IsFilledWith(host().At(kData + 257, 255), 9));
}

TEST_P(FastStateTest, BackAmongRegistersTimersAndInterrupts) {
  Driver driver(m());
  m().Write32(kScratchA, 0x1234);
  m().Write8(kDien, kDstatAbrt);
  m().Write8(kSien0, kSist0Rst);
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kScntl1, kScntl1Rst);
  m().Write8(kStime1, 5);
  const auto due = m().chip->NextDeadline();
  ASSERT_TRUE(m().Drain());
  Mark();
  Resume();
  for (int input = 0; input < 3; ++input) {
    m().Write32(kScratchA, 0);
    EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
    EXPECT_EQ(m().Read8(kSist0), kSist0Rst);
    EXPECT_FALSE(m().irq.intx());
    m().Write8(kStime1, 0);
    m().chip->WriteRegion(Region::kBar2, 0, AsBytes(uint64_t{0}));
    GoBack();
    EXPECT_TRUE(m().irq.intx());
    EXPECT_EQ(m().chip->NextDeadline(), due);
  }
  EXPECT_EQ(m().Read32(kScratchA), 0x1234u);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
  EXPECT_EQ(m().Read8(kSist0), kSist0Rst) << "stacked";
  driver.Prepare(0, 0, {0x80}, {TestUnit::kRead, 1, 1, 9, 0, 0}, kData, 256);
  EXPECT_EQ(driver.Go(0), kCompleted) << "from SCRIPTS RAM as it was";
  EXPECT_EQ(driver.StatusOf(0), 0x02) << "the bus was reset: a unit attention";
}

TEST_P(FastStateTest, BackWhereThreeCommandsWantTheBus) {
  Driver driver(m());
  m().unit->Hold();
  for (uint32_t i = 0; i < 3; ++i) {
    driver.Prepare(i, 0, {0xc0, 0x20, static_cast<int>(i)}, {TestUnit::kRead, 1, 1, 7, 0, 0},
                   kData + 256 * i, 256);
    ASSERT_EQ(driver.Go(i), kDisconnected);
  }
  EXPECT_EQ(driver.Go(0, "reselect"), 0u);
  ASSERT_TRUE(m().DrainAndRelease());
  Mark();
  Resume();
  for (int input = 0; input < 3; ++input) {
    if (input != 0) GoBack();
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(driver.TakeInt(), kReselected);
      const uint8_t tag = m().Read8(kSidl);
      ASSERT_EQ(driver.Go(tag, "dispatch"), kCompleted);
      EXPECT_TRUE(IsFilledWith(host().At(kData + 256u * tag + 1, 255), 7));
      m().Start(driver.label("reselect"));
    }
  }
}

TEST_P(FastStateTest, BackWhereAMoveWaitsForItsTarget) {
  Driver driver(m());
  driver.StartMoveThatWaits();
  ASSERT_TRUE(m().DrainAndRelease());
  Mark();
  Resume();
  for (int input = 0; input < 2; ++input) {
    if (input != 0) {
      m().unit->written.clear();
      GoBack();
    }
    EXPECT_EQ(driver.TakeInt(), kCompleted);
    EXPECT_EQ(m().unit->written.size(), 512u);
    EXPECT_TRUE(IsFilledWith(m().unit->written, 0x3c));
  }
}

}  // namespace
}  // namespace farside::lsi53c895a
