// Going back by a copy of the state, as a fuzzer does between two inputs.
#include <gtest/gtest.h>

#include "devices/core/fast_state.h"
#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

class FastStateTest : public ControllerTest {
 protected:
  void Rest() { ASSERT_TRUE(machine().DrainOf(controller())); }
  std::vector<std::byte> Save() { return machine().Save(controller()); }
  // What a harness keeps besides the device: memory and the driver's own idea of its queues.
  void Mark() {
    Rest();
    state_ = Save();
    controller().SaveFast(fast_);
    const Bytes ram = host().At(0, kRamSize);
    ram_.assign(ram.begin(), ram.end());
    marked_driver_ = std::make_unique<Driver>(driver());
    guest_errors_ = controller().guest_errors();
    controller().Resume();
  }
  void GoBack() {
    controller().Reset(ResetKind::kShutdown);
    disk().ReleaseAll();
    host().Release();
    Rest();
    controller().LoadFast(fast_);
    EXPECT_EQ(Save(), state_);
    EXPECT_EQ(controller().guest_errors(), guest_errors_);
    Copy(host().At(0, kRamSize), ram_);
    machine().driver = std::make_unique<Driver>(*marked_driver_);
    irq().Forget();
    controller().Resume();
    Run();
  }
  // Touches every part of the state, and leaves commands in flight.
  void Traffic() {
    EnableWithQueue(8);
    ASSERT_EQ(driver().CreateQueues(3, 16, 2), Status::kSuccess);
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kTemperatureThreshold, 350));
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 2 | 1 << 16));
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kVolatileWriteCache, 0));
    for (int i = 0; i < 5; ++i) driver().RunStatus(1, {.opcode = 0x7e});
    for (int i = 0; i < 2; ++i) driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
    driver().Ring(0);
    Run();
    driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
    driver().Set(kIntms, 0x8);
    disk().Hold();
    const uint64_t data = driver().Allocate(4096);
    driver().Put(1, IoCommand(IoOpcode::kRead, 3, 1, data));
    driver().Ring(1);
    driver().Put(3, IoCommand(IoOpcode::kFlush, 0, 1));
    driver().Ring(3);
    Run();
    ASSERT_EQ(controller().guest_errors(), guest_errors_ + 1);
  }
  // I/O of a driver that knows its queues.
  void ReadsWhatItWrites(uint16_t queue, uint8_t seed) {
    const uint64_t from = MakeData(4096, seed);
    const uint64_t to = driver().Allocate(4096);
    const uint32_t blocks = 4096 / kBlock;
    EXPECT_EQ(driver().RunStatus(queue, IoCommand(IoOpcode::kWrite, seed, blocks, from)),
              Status::kSuccess);
    EXPECT_EQ(driver().RunStatus(queue, IoCommand(IoOpcode::kRead, seed, blocks, to)),
              Status::kSuccess);
    EXPECT_TRUE(IsPattern(host().At(to, 4096), seed));
  }
  void MaskVector(uint16_t vector, uint32_t masked) {
    controller().WriteRegion(Region::kBar4, 16u * vector + 12, AsBytes(masked));
  }

  FastState fast_;
  std::vector<std::byte> state_;
  std::vector<std::byte> ram_;
  std::unique_ptr<Driver> marked_driver_;
  uint64_t guest_errors_ = 0;
};
INSTANTIATE_DMA_MODES(FastStateTest);

TEST_P(FastStateTest, BackAtAFreshDevice) {
  Mark();
  for (int input = 0; input < 3; ++input) {
    Traffic();
    EXPECT_NE(Save(), state_);
    GoBack();
    EXPECT_EQ(driver().Get(kCsts), 0u);
  }
  EnableWithQueue();
  ReadsWhatItWrites(1, 5);
}

TEST_P(FastStateTest, BackInTheMiddle) {
  EnableWithQueue(8);
  ASSERT_EQ(driver().CreateQueues(3, 16, 2), Status::kSuccess);
  driver().RunStatus(0, SetFeatureCommand(FeatureId::kTemperatureThreshold, 351));
  driver().RunStatus(0, SetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 3 | 1 << 16));
  for (int i = 0; i < 5; ++i) driver().RunStatus(1, {.opcode = 0x7e});
  driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
  driver().Ring(0);
  MaskVector(2, 1);
  EXPECT_EQ(driver().RunStatus(3, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  Mark();
  for (int input = 0; input < 3; ++input) {
    ReadsWhatItWrites(3, 9);
    ASSERT_EQ(driver().DeleteQueues(3), Status::kSuccess);
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kTemperatureThreshold, 10));
    ASSERT_TRUE(driver().Disable());
    Traffic();
    GoBack();
    EXPECT_EQ(irq().msix(2), 0u) << "masked";
  }
  MaskVector(2, 0);
  EXPECT_EQ(irq().msix(2), 1u) << "it was pending";
  ReadsWhatItWrites(1, 17);
  ReadsWhatItWrites(3, 33);
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kTemperatureThreshold)).dw0, 351u);
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 0, 3)).dw0,
            3u | 1 << 16);
  const uint64_t log = driver().Allocate(4096);
  driver().RunStatus(0, GetLogCommand(LogId::kErrors, log, 64));
  EXPECT_EQ(host().Peek<uint64_t>(log), 5u);
  driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event) << "the event request waits again";
  EXPECT_EQ(event->dw0, 0x01'0000u);
}

TEST_P(FastStateTest, IntxIsWhereItWas) {
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 8, 0), Status::kSuccess);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  ASSERT_TRUE(irq().intx());
  Mark();
  ASSERT_TRUE(driver().Take(1));
  driver().RingCompletion(1);
  EXPECT_FALSE(irq().intx());
  GoBack();
  EXPECT_TRUE(irq().intx());
  ASSERT_TRUE(driver().Take(1));
  driver().RingCompletion(1);
  EXPECT_FALSE(irq().intx());
}

TEST_P(FastStateTest, DeadAndAlive) {
  EnableWithQueue();
  Mark();
  const auto die = [&] {
    host().RemoveMemory(0);
    controller().OnDmaChanged();
    driver().Write<uint32_t>(SqTailDoorbell(1), 1);
    Run();
    EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
    host().AddMemory(0, kRamSize);
    controller().OnDmaChanged();
  };
  die();
  GoBack();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  ReadsWhatItWrites(1, 3);
  die();
  Mark();
  ASSERT_TRUE(driver().Disable());
  EnableWithQueue();
  GoBack();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
  ASSERT_TRUE(driver().Disable());
  EnableWithQueue();
  ReadsWhatItWrites(1, 7);
}

}  // namespace
}  // namespace farside::nvme
