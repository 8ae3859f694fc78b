// Resets, shutdown and draining with work in flight.
#include <gtest/gtest.h>

#include <cerrno>

#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

using Op = FakeDisk::Op;

class ResetTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    EnableWithQueue();
    data_ = MakeData(8192, 1);
  }
  // A read of one block into data_ that the disk holds.
  void HoldARead() {
    disk().Hold();
    driver().Put(1, IoCommand(IoOpcode::kRead, 0, 1, data_));
    driver().Ring(1);
    Run();
    ASSERT_EQ(disk().waiting(), 1u);
  }
  uint64_t Csts() { return driver().Get(kCsts); }

  uint64_t data_ = 0;
};

TEST_P(ResetTest, StaysReadyUntilOldCommandsHaveLeftTheDriversMemory) {
  HoldARead();
  driver().Set(kCc, 0);
  EXPECT_EQ(Csts(), kCstsRdy) << "the disk may still write into the driver's memory";
  driver().Write<uint32_t>(SqTailDoorbell(0), 1);
  Run();
  EXPECT_EQ(controller().guest_errors(), 1u) << "the queues are gone at once";
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), 0u);
  EXPECT_FALSE(driver().Take(1)) << "nothing completes after the reset";
  EXPECT_EQ(irq().msix(1), 0u);
  ASSERT_TRUE(driver().Enable());
  EXPECT_EQ(driver().RunStatus(0, IdentifyCommand(Cns::kController, 0, data_)), Status::kSuccess);
}

TEST_P(ResetTest, EnablingAgainWaitsForOldCommands) {
  HoldARead();
  driver().Set(kCc, 0);
  const uint64_t cc = kCcEn | kSqeShift << 16 | kCqeShift << 20;
  driver().Set(kCc, cc);
  Run();
  driver().Write<uint32_t>(SqTailDoorbell(0), 1);
  EXPECT_EQ(controller().guest_errors(), 1u) << "not running yet";
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), kCstsRdy);
  EXPECT_EQ(driver().Get(kCc), cc);
  driver().Write<uint32_t>(SqTailDoorbell(0), 1);
  EXPECT_EQ(controller().guest_errors(), 1u) << "running";
}

TEST_P(ResetTest, AFunctionLevelResetForgetsEverythingAtOnce) {
  HoldARead();
  const uint32_t pcie = driver().FindCapability(pci::kCapPcie);
  driver().WriteConfig<uint16_t>(pcie + pci::kPcieDeviceControl, pci::kPcieInitiateFlr);
  EXPECT_EQ(Csts(), 0u);
  EXPECT_EQ(driver().Get(kAsq), 0u);
  EXPECT_EQ(driver().ReadConfig<uint16_t>(pci::kCommand), 0u);
  driver().Probe();
  EXPECT_FALSE(driver().Enable()) << "not ready while the disk holds the old read";
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), kCstsRdy);
  EXPECT_TRUE(GetParam() == DmaMode::kByFd || IsPattern(host().At(data_, 512), 1))
      << "bounce memory is not written back after a reset";
}

TEST_P(ResetTest, NothingIsCopiedToMemoryAfterAReset) {
  Start({}, {.request_alignment = 512, .memory_alignment = 512});
  EnableWithQueue();
  const uint64_t data = MakeData(4096, 1) + 4;  // Not aligned: the disk gets other memory.
  const std::vector<std::byte> before(host().At(data, 512).begin(), host().At(data, 512).end());
  disk().Hold();
  driver().Put(1, IoCommand(IoOpcode::kRead, 0, 1, data));
  driver().Ring(1);
  Run();
  controller().Reset(ResetKind::kFunction);
  disk().ReleaseAll();
  Run();
  EXPECT_TRUE(std::ranges::equal(host().At(data, 512), before));
}

TEST_P(ResetTest, EveryKindOfCommandMayBeCutOff) {
  const IoOpcode opcodes[] = {IoOpcode::kRead,        IoOpcode::kWrite,
                              IoOpcode::kCompare,     IoOpcode::kFlush,
                              IoOpcode::kWriteZeroes, IoOpcode::kDatasetManagement};
  for (const IoOpcode opcode : opcodes) {
    SCOPED_TRACE(OpcodeName(false, static_cast<uint8_t>(opcode)));
    disk().Hold();
    Sqe sqe = IoCommand(opcode, 0, 1, data_);
    if (opcode == IoOpcode::kDatasetManagement) {
      Copy(host().At(data_, sizeof(DsmRange)), AsBytes(DsmRange{.blocks = 1}));
      sqe.cdw10 = 0;
      sqe.cdw11 = 4;
    }
    driver().Put(1, sqe);
    driver().Ring(1);
    driver().Put(0, SetFeatureCommand(FeatureId::kVolatileWriteCache, 0));
    driver().Ring(0);
    Run();
    EXPECT_EQ(disk().waiting(), 2u);
    driver().Set(kCc, 0);
    disk().ReleaseAll();
    Run();
    EXPECT_EQ(Csts(), 0u);
    EXPECT_EQ(disk().in_flight(), 0u);
    ASSERT_TRUE(driver().Enable());
    ASSERT_EQ(driver().CreateQueues(1, 16, 1), Status::kSuccess);
  }
}

TEST_P(ResetTest, ADeletionThatWaitsIsCutOff) {
  HoldARead();
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Ring(0);
  Run();
  driver().Set(kCc, 0);
  Run();
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), 0u);
}

TEST_P(ResetTest, ClearsInterruptsAndEvents) {
  driver().Set(kIntms, 7);
  driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
  driver().Ring(0);
  Run();
  ASSERT_TRUE(driver().Disable());
  EXPECT_EQ(driver().Get(kIntms), 0u);
  ASSERT_TRUE(driver().Enable());
  driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
  Run();
  EXPECT_FALSE(driver().Take(0)) << "the request went with the reset";
}

TEST_P(ResetTest, ShutdownFlushesTheDisk) {
  for (const uint32_t kind : {kCcShnNormal, kCcShnAbrupt}) {
    disk().ForgetRequests();
    disk().Hold();
    driver().Set(kCc, driver().Get(kCc) | kind);
    EXPECT_EQ(Csts(), kCstsRdy | kCstsShstOccurring);
    EXPECT_TRUE(disk().requests().empty()) << "not in the register write";
    Run();
    ASSERT_EQ(disk().requests().size(), 1u);
    EXPECT_EQ(disk().requests()[0].op, Op::kFlush);
    EXPECT_EQ(Csts(), kCstsRdy | kCstsShstOccurring);
    disk().ReleaseAll();
    Run();
    EXPECT_EQ(Csts(), kCstsRdy | kCstsShstComplete);
    driver().Set(kCc, 0);
    EXPECT_EQ(Csts(), 0u);
    ASSERT_TRUE(driver().Enable());
  }
}

TEST_P(ResetTest, ShutdownLetsFetchedCommandsEndAndFetchesNoMore) {
  disk().Hold();
  driver().Put(1, IoCommand(IoOpcode::kWrite, 0, 1, data_));
  driver().Ring(1);
  Run();
  driver().Set(kCc, driver().Get(kCc) | kCcShnNormal);
  driver().Put(1, IoCommand(IoOpcode::kWrite, 1, 1, data_));
  driver().Ring(1);
  Run();
  EXPECT_EQ(disk().requests().size(), 1u) << "no flush before the write has ended";
  EXPECT_TRUE(disk().ReleaseOne());
  Run();
  EXPECT_TRUE(driver().Take(1));
  ASSERT_EQ(disk().requests().size(), 2u);
  EXPECT_EQ(disk().requests()[1].op, Op::kFlush);
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), kCstsRdy | kCstsShstComplete);
  EXPECT_FALSE(driver().Take(1));
}

TEST_P(ResetTest, AFailedFlushStillEndsTheShutdown) {
  disk().FailNext(Op::kFlush, EIO);
  driver().Set(kCc, driver().Get(kCc) | kCcShnNormal);
  Run();
  EXPECT_EQ(Csts(), kCstsRdy | kCstsShstComplete);
}

TEST_P(ResetTest, ShutdownWorksWhileDisabled) {
  ASSERT_TRUE(driver().Disable());
  driver().Set(kCc, kCcShnNormal);
  Run();
  EXPECT_EQ(Csts(), kCstsShstComplete);
  ASSERT_TRUE(driver().Enable()) << "and a start ends it";
}

TEST_P(ResetTest, AResetCutsAShutdownOff) {
  disk().Hold();
  driver().Set(kCc, driver().Get(kCc) | kCcShnNormal);
  Run();
  driver().Set(kCc, 0);
  EXPECT_EQ(Csts(), kCstsRdy) << "the flush is in flight";
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(Csts(), 0u) << "not complete: it is over";
}

TEST_P(ResetTest, DrainWaitsForWhatWasFetchedAndResumeGoesOn) {
  HoldARead();
  machine().BeginDrain();
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  driver().Put(0, GetFeatureCommand(FeatureId::kArbitration));
  driver().Ring(0);
  Run();
  EXPECT_FALSE(machine().drained());
  EXPECT_EQ(disk().requests().size(), 1u) << "nothing is fetched";
  disk().ReleaseAll();
  Run();
  EXPECT_TRUE(machine().drained());
  EXPECT_TRUE(driver().Take(1)) << "the read completed";
  EXPECT_FALSE(driver().Take(1));
  EXPECT_FALSE(driver().Take(0));
  controller().Resume();
  Run();
  EXPECT_TRUE(driver().Take(1));
  EXPECT_TRUE(driver().Take(0));
}

TEST_P(ResetTest, EventsWaitForTheEndOfADrain) {
  driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
  driver().Ring(0);
  Run();
  machine().BeginDrain();
  EXPECT_TRUE(machine().drained()) << "a waiting request is not in flight";
  driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
  Run();
  EXPECT_FALSE(driver().Take(0));
  controller().Resume();
  Run();
  EXPECT_TRUE(driver().Take(0));
}

TEST_P(ResetTest, ADeviceMayBeDestroyedWithRequestsHeldByTheDisk) {
  HoldARead();
  driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Ring(0);
  Run();
  controller().Reset(ResetKind::kShutdown);
  machine().BeginDrain();
  EXPECT_FALSE(machine().drained());
  disk().ReleaseAll();
  Run();
  EXPECT_TRUE(machine().drained());
  machine().controller.reset();
}

TEST_P(ResetTest, PowerStatesOtherThanD0HideTheRegisters) {
  const uint32_t pm = driver().FindCapability(pci::kCapPowerManagement);
  driver().WriteConfig<uint16_t>(pm + pci::kPmcsr, 3);
  EXPECT_EQ(driver().Read<uint32_t>(0x1c), ~0u);
  driver().WriteConfig<uint16_t>(pm + pci::kPmcsr, 0);
  EXPECT_EQ(Csts(), kCstsRdy) << "no soft reset";
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
}

INSTANTIATE_DMA_MODES(ResetTest);

class CutOffTest : public ControllerTest {
 protected:
  // Makes commands of several kinds wait for all there is to wait for, and resets the controller at
  // the `resets_at`-th wait. False where there are not so many.
  bool ResetAt(int resets_at, uint32_t fetch_batch) {
    Start({.serial = "test-1", .fetch_batch = fetch_batch});
    EXPECT_TRUE(driver().Enable());
    EXPECT_EQ(driver().CreateQueues(1, 16, 0), Status::kSuccess);
    disk().set_deferred(true);
    data_ = MakeData(3 * 4096, 1);
    const uint64_t list = driver().Allocate(4096);
    host().Poke(list, data_ + 4096);
    host().Poke(list + 8, data_ + 8192);
    int waits = 0;
    host().set_during_wait([&] {
      if (waits++ == resets_at) driver().Set(kCc, 0);
    });
    for (const IoOpcode opcode : {IoOpcode::kWrite, IoOpcode::kRead, IoOpcode::kCompare}) {
      driver().Put(1, IoCommand(opcode, 0, 24, data_, list));
    }
    driver().Ring(1);
    driver().Put(0, IdentifyCommand(Cns::kController, 0, data_));
    driver().Ring(0);
    Run();
    host().set_during_wait(nullptr);
    return waits > resets_at;
  }

  uint64_t data_ = 0;
};

// Whatever a command waits for, a reset at that moment ends it and the next driver is served.
TEST_P(CutOffTest, AResetAtEachWaitOfATransfer) {
  for (const uint32_t fetch_batch : {1u, kFetchRound}) {
    int resets_at = 0;
    for (; ResetAt(resets_at, fetch_batch); ++resets_at) {
      SCOPED_TRACE(testing::Message() << "wait " << resets_at << ", fetching " << fetch_batch);
      EXPECT_EQ(driver().Get(kCsts), 0u);
      EXPECT_FALSE(irq().intx());
      ASSERT_TRUE(driver().Enable());
      driver().Put(0, IdentifyCommand(Cns::kController, 0, data_));
      driver().Ring(0);
      Run();
      EXPECT_TRUE(irq().intx());
      const auto cqe = driver().Take(0);
      ASSERT_TRUE(cqe);
      EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
    }
    EXPECT_GT(resets_at, 10);
  }
}

INSTANTIATE_BY_MESSAGE(CutOffTest);

}  // namespace
}  // namespace farside::nvme
