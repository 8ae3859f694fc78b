#include "harness/host/irq_collector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using vfio_user::FakeServer;
using vfio_user::IrqIndex;
using vfio_user::VfioUserClient;

constexpr uint64_t kMs = 1'000'000;

// A device whose vectors are rung by writing their number to region 0.
bool RingOnWrite(FakeServer& self, vfio_user::Frame& frame) {
  if (!frame.is_reply() && frame.command() == vfio_user::Command::kRegionWrite) {
    SignalEventfd(self.eventfds.at(LoadLe<uint32_t>(frame.payload.subspan(16))).get());
  }
  return false;
}

TEST(IrqCollectorTest, CountsAndWaitsByVector) {
  FakeServer server(RingOnWrite);
  {
    const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
    const auto irqs = IrqCollector::Arm(*client, IrqIndex::kMsix, 4).value();
    EXPECT_EQ(irqs->count(), 4u);
    EXPECT_FALSE(irqs->Wait(2, 1 * kMs).value());
    ASSERT_TRUE(client->Write<uint32_t>({}, 2));
    ASSERT_TRUE(client->Write<uint32_t>({}, 2));
    EXPECT_TRUE(irqs->Wait(2, 5000 * kMs).value());
    EXPECT_EQ(irqs->Take(2), 2u);
    EXPECT_EQ(irqs->Take(2), 0u);
    EXPECT_FALSE(irqs->Wait(2, 0).value());
    EXPECT_EQ(irqs->total(2), 2u);
    EXPECT_EQ(irqs->total(1), 0u);
    ASSERT_TRUE(client->Write<uint32_t>({}, 2));
    EXPECT_EQ(irqs->total(2), 3u);
    EXPECT_TRUE(irqs->Wait(2, 0).value()) << "a signal that was counted was not taken";
  }
  server.Join();
  server.eventfds.clear();
}

TEST(IrqCollectorTest, DisablesAtItsEndAndUnmasksIntx) {
  std::vector<uint32_t> flags;
  FakeServer server([&](FakeServer&, vfio_user::Frame& frame) {
    if (frame.command() == vfio_user::Command::kDeviceSetIrqs) {
      flags.push_back(LoadLe<uint32_t>(frame.payload.subspan(4)));
    }
    return false;
  });
  {
    const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
    const auto irqs = IrqCollector::Arm(*client, IrqIndex::kIntx, 1).value();
    EXPECT_TRUE(irqs->UnmaskIntx());
  }
  server.Join();
  EXPECT_EQ(flags, (std::vector<uint32_t>{0x24, 0x11, 0x21}));
}

TEST(IrqCollectorTest, RefusesMoreVectorsThanTheDeviceHas) {
  FakeServer server;
  const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
  const auto irqs = IrqCollector::Arm(*client, IrqIndex::kMsix, 5);
  ASSERT_FALSE(irqs);
  EXPECT_THAT(irqs.error().message, testing::HasSubstr("has 4 interrupts"));
}

}  // namespace
}  // namespace farside
