// Saved state: a chip that goes on elsewhere, in whatever it waited for.
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string_view>

#include "base/random.h"
#include "devices/lsi53c895a/driver.h"

namespace farside::lsi53c895a {
namespace {

class StateTest : public ChipTest {
 protected:
  // Saves the chip where it is and puts a new one in its place, with the same units.
  void Migrate() {
    ASSERT_TRUE(m().DrainAndRelease());
    const auto state = m().Save();
    m().Destroy();
    m().Make();
    ASSERT_TRUE(m().Drain());
    m().chip->Reset(ResetKind::kFunction);
    const auto loaded = m().Load(state);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(m().Save(), state) << "and back";
    m().chip->Resume();
    m().Run();
  }
  // Into a chip that was reset: whether it takes it.
  bool LoadAnew(ConstBytes state) {
    m().chip->Reset(ResetKind::kFunction);
    EXPECT_TRUE(m().Drain());
    return m().Load(state).has_value();
  }
  // Where in `state` the payload of a section begins (devices/core/state_format.md).
  static size_t PayloadOf(ConstBytes state, std::string_view section) {
    const auto name = std::ranges::search(state, std::as_bytes(std::span(section)));
    return static_cast<size_t>(name.end() - state.begin()) + 1 + 2 + 4;
  }
};
INSTANTIATE_DMA_MODES(StateTest);

TEST_P(StateTest, RegistersRamAndInterrupts) {
  Driver driver(m());
  m().Write32(kScratchA, 0x1234);
  m().Write8(kDien, kDstatAbrt);
  m().Write8(kSien0, kSist0Rst);
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kScntl1, kScntl1Rst);
  m().Write8(kStime1, 5);
  const uint64_t due = *m().chip->NextDeadline();
  Migrate();
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read32(kScratchA), 0x1234u);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
  EXPECT_EQ(m().Read8(kSist0), kSist0Rst) << "stacked";
  EXPECT_EQ(m().chip->NextDeadline(), due);
  uint32_t word = 0;
  m().chip->ReadRegion(Region::kBar2, 0, AsWritableBytes(word));
  EXPECT_NE(word, 0u);
}

TEST_P(StateTest, DisconnectedCommandsComeBack) {
  Driver driver(m());
  m().unit->Hold();
  for (uint32_t i = 0; i < 3; ++i) {
    driver.Prepare(i, 0, {0xc0, 0x20, static_cast<int>(i)}, {TestUnit::kRead, 1, 1, 7, 0, 0},
                   kData + 256 * i, 256);
    ASSERT_EQ(driver.Go(i), kDisconnected);
  }
  EXPECT_EQ(driver.Go(0, "reselect"), 0u);
  Migrate();  // All want the bus when the chip does no more.
  for (int i = 0; i < 3; ++i) {
    m().Run();
    ASSERT_EQ(driver.TakeInt(), kReselected);
    const uint8_t tag = m().Read8(kSidl);
    ASSERT_EQ(driver.Go(tag, "dispatch"), kCompleted);
    EXPECT_TRUE(IsFilledWith(host().At(kData + 256u * tag + 1, 255), 7));
    m().Start(driver.label("reselect"));
  }
}

TEST_P(StateTest, MoveThatWaitsForItsTarget) {
  Driver driver(m());
  driver.StartMoveThatWaits();
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Con);
  Migrate();
  EXPECT_EQ(driver.TakeInt(), kCompleted);
  EXPECT_EQ(m().unit->written.size(), 512u);
  EXPECT_TRUE(IsFilledWith(m().unit->written, 0x3c));
}

TEST_P(StateTest, AWaitThatIsNotItsInstructionsIsRefused) {
  Driver driver(m());
  EXPECT_EQ(driver.Go(0, "reselect"), 0u);
  ASSERT_TRUE(m().Drain());
  auto state = m().Save();
  std::byte& running = state[PayloadOf(state, "lsi.chip")];
  std::byte& wait = state[PayloadOf(state, "lsi.chip") + 1];
  const std::byte reselect = wait;
  for (uint8_t other = 1; other < 8; ++other) {
    wait = std::byte{other};
    EXPECT_EQ(LoadAnew(state), wait == reselect) << int{other};
  }
  wait = reselect;
  running = std::byte{0};
  EXPECT_FALSE(LoadAnew(state)) << "a script that has halted waits for nothing";
}

TEST_P(StateTest, ACountOfMessageBytesBeyondTheirBufferIsRefused) {
  constexpr size_t kMessageInSize = 111;  // In lsi.target, behind the 64 bytes that it counts.
  ASSERT_TRUE(m().Drain());
  auto state = m().Save();
  std::byte& size = state[PayloadOf(state, "lsi.target") + kMessageInSize];
  size = std::byte{64};
  EXPECT_TRUE(LoadAnew(state));
  for (const uint8_t large : {uint8_t{65}, uint8_t{255}}) {
    size = std::byte{large};
    EXPECT_FALSE(LoadAnew(state)) << int{large};
  }
}

TEST_P(StateTest, DamagedStatesAreRefused) {
  Driver driver(m());
  m().unit->Hold();
  driver.Prepare(0, 0, {0xc0, 0x20, 9}, {TestUnit::kRead, 1, 1, 7, 0, 0}, kData, 256);
  ASSERT_EQ(driver.Go(0), kDisconnected);
  EXPECT_EQ(driver.Go(0, "reselect"), 0u);
  ASSERT_TRUE(m().DrainAndRelease());
  const auto state = m().Save();
  Random random(20230330);
  for (int round = 0; round < 2000; ++round) {
    m().chip->Reset(ResetKind::kFunction);
    ASSERT_TRUE(m().Drain());
    auto damaged = state;
    // Not in the configuration space and RAM, where anything goes.
    const size_t at = random.Below(3) == 0 ? random.Below(damaged.size())
                                           : damaged.size() - 1 - random.Below(900);
    damaged[at] = static_cast<std::byte>(random.Below(256));
    if (!m().Load(damaged)) continue;
    m().chip->Resume();
    m().loop.RunUntilIdle(100);
    m().Probe();
    m().loop.RunUntilIdle(100);
  }
}

}  // namespace
}  // namespace farside::lsi53c895a
