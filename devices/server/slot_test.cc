// The device's timers: who makes them fire, and when.
#include "devices/server/slot.h"

#include <gtest/gtest.h>

#include <memory>

#include "devices/server/test_support.h"
#include "protocol/vfio_user_extensions.h"

namespace farside {
namespace {

constexpr uint64_t kPeriod = 1'000'000;  // ns.

class SlotTimerTest : public testing::TestWithParam<Link> {
 protected:
  // Past VERSION with `client`, whose INTx eventfd is irq_.
  void Arm(RawClient& client) {
    EXPECT_EQ(client.SetIrqs(0x24, vfio_user::IrqIndex::kIntx, 0, 1, irq_.fds()), 0);
  }
  void StartTimer(RawClient& client, uint64_t ns) {
    client.Write(Region::kBar0, FakeDevice::kTimer, ns);
  }

  Bench bench_{GetParam()};
  const Eventfds irq_{1};
};

INSTANTIATE_TEST_SUITE_P(Links, SlotTimerTest, testing::Values(Link::kMemory, Link::kSocket),
                         [](const auto& param) {
                           return param.param == Link::kMemory ? "Memory" : "Socket";
                         });

TEST_P(SlotTimerTest, FiresOnceWhenItsTimeHasCome) {
  const auto client = bench_.ConnectReady();
  Arm(*client);
  StartTimer(*client, kPeriod);
  bench_.Advance(kPeriod - 1);
  EXPECT_EQ(irq_.Take(), 0u);
  bench_.Advance(1);
  EXPECT_EQ(irq_.Take(), 1u);
  EXPECT_FALSE(bench_.loop().NextDeadline());
}

TEST_P(SlotTimerTest, FollowsADeadlineThatMovesWithoutACommand) {
  const auto client = bench_.ConnectReady();
  Arm(*client);
  StartTimer(*client, kPeriod);
  bench_.device().deadline = 3 * kPeriod;
  bench_.Settle();
  bench_.Advance(2 * kPeriod);
  EXPECT_EQ(irq_.Take(), 0u);
  bench_.device().deadline = 2 * kPeriod;
  bench_.Settle();
  EXPECT_EQ(irq_.Take(), 1u) << "as a loaded state may have it: due already";
  bench_.device().deadline = 3 * kPeriod;
  bench_.Settle();
  bench_.device().deadline.reset();
  bench_.Settle();
  EXPECT_FALSE(bench_.loop().NextDeadline());
}

TEST_P(SlotTimerTest, WaitsForADeviceThatIsStopped) {
  const auto client = bench_.ConnectReady();
  Arm(*client);
  StartTimer(*client, kPeriod);
  bench_.device().paused = true;
  bench_.Advance(2 * kPeriod);
  EXPECT_EQ(irq_.Take(), 0u);
  bench_.device().Resume();
  bench_.Settle();
  EXPECT_EQ(irq_.Take(), 1u);
}

TEST_P(SlotTimerTest, IsTheClientsWhereItMovesTheClock) {
  const auto client = bench_.Connect();
  ASSERT_EQ(client->Version(R"({"capabilities":{"farside":{"clock":true}}})").error(), 0);
  Arm(*client);
  StartTimer(*client, kPeriod);
  bench_.Advance(2 * kPeriod);
  EXPECT_EQ(irq_.Take(), 0u);
  const auto advance = [&](uint64_t time_ns) {
    return client->ErrorOf(
        static_cast<vfio_user::Command>(vfio_user::ExtensionCommand::kClockAdvance),
        Pack(vfio_user::ClockAdvance{.time_ns = time_ns}));
  };
  EXPECT_EQ(advance(kPeriod - 1), 0);
  EXPECT_EQ(irq_.Take(), 0u);
  EXPECT_EQ(advance(kPeriod), 0);
  EXPECT_EQ(irq_.Take(), 1u);
}

}  // namespace
}  // namespace farside
