// Registers, enabling, queues, doorbells and interrupts, as a driver meets them.
#include "devices/nvme/controller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

using ::testing::HasSubstr;

class RegisterTest : public ControllerTest {};

TEST_P(RegisterTest, TellsWhatItIs) {
  EXPECT_EQ(driver().ReadConfig<uint32_t>(pci::kVendorId), kVendorId | kDeviceId << 16);
  EXPECT_EQ(driver().ReadConfig<uint32_t>(pci::kRevision) >> 8, 0x010802u);
  EXPECT_EQ(driver().ReadConfig<uint8_t>(pci::kInterruptPin), 1);
  for (const uint8_t cap : {pci::kCapPowerManagement, pci::kCapMsi, pci::kCapPcie, pci::kCapMsix}) {
    EXPECT_NE(driver().FindCapability(cap), 0u) << int{cap};
  }
  EXPECT_EQ(controller().info().region(Region::kBar0).size, kRegisterBarSize);
  EXPECT_EQ(controller().info().region(Region::kBar4).size, 8192u);
  EXPECT_EQ(controller().info().msix_count, 65u);
  EXPECT_EQ(controller().info().msi_count, 32u);
}

TEST_P(RegisterTest, CapabilitiesAreHonest) {
  const uint64_t cap = driver().Get(kCap);
  EXPECT_EQ(cap & 0xffff, 2047u) << "MQES";
  EXPECT_EQ(cap >> 16 & 1, 1u) << "CQR";
  EXPECT_EQ(cap >> 17 & 3, 0u) << "AMS: round robin only";
  EXPECT_EQ(cap >> 32 & 0xf, 0u) << "DSTRD";
  EXPECT_EQ(cap >> 36 & 1, 0u) << "NSSRS";
  EXPECT_EQ(cap >> 37 & 0xff, 1u) << "CSS: the NVM command set";
  EXPECT_EQ(cap >> 48 & 0xf, 0u) << "MPSMIN: 4 KiB";
  EXPECT_EQ(cap >> 52 & 0xf, 4u) << "MPSMAX: 64 KiB";
  EXPECT_EQ(cap >> 56, 0u) << "no persistent or controller memory";
  EXPECT_EQ(driver().Get(kVs), 0x0001'0400u);
}

TEST_P(RegisterTest, WhatIsNotThereReadsZeroAndIgnoresWrites) {
  for (const Reg row : {kNssr, kCmbloc, kCmbsz, kCmbmsc, kPmrcap, kPmrctl, kPmrsts}) {
    driver().Set(row, ~uint64_t{0});
    EXPECT_EQ(driver().Get(row), 0u) << kRegisters[row].name;
  }
  for (const uint64_t offset : {0x18u, 0x5cu, 0xe1cu, 0xffcu, 0x1000u, 0x3ffcu}) {
    driver().Write<uint32_t>(offset, ~0u);
    EXPECT_EQ(driver().Read<uint32_t>(offset), 0u) << std::hex << offset;
  }
}

TEST_P(RegisterTest, ReadOnlyRegistersStayAsTheyAre) {
  for (const Reg row : {kCap, kVs, kCsts}) {
    const uint64_t before = driver().Get(row);
    driver().Set(row, ~uint64_t{0});
    EXPECT_EQ(driver().Get(row), before) << kRegisters[row].name;
  }
}

TEST_P(RegisterTest, AccessesOfAnySizeSeeTheSameBytes) {
  driver().Set(kAsq, 0x1122'3344'5566'7000);
  EXPECT_EQ(driver().Read<uint32_t>(0x28), 0x5566'7000u);
  EXPECT_EQ(driver().Read<uint32_t>(0x2c), 0x1122'3344u);
  EXPECT_EQ(driver().Read<uint8_t>(0x2f), 0x11);
  EXPECT_EQ(driver().Read<uint16_t>(0x2b), 0x4455) << "misaligned";
  driver().Write<uint32_t>(0x2c, 0xaabb'ccdd);
  EXPECT_EQ(driver().Get(kAsq), 0xaabb'ccdd'5566'7000u);
  driver().Write<uint8_t>(0x29, 0x91);
  EXPECT_EQ(driver().Get(kAsq), 0xaabb'ccdd'5566'9000u) << "bits below a page are read-only";
  // AQA and the lower half of ASQ in one.
  driver().Write<uint64_t>(0x24, 0x0001'2000'001f'001f);
  EXPECT_EQ(driver().Get(kAqa), 0x001f'001fu);
  EXPECT_EQ(driver().Get(kAsq), 0xaabb'ccdd'0001'2000u);
}

TEST_P(RegisterTest, AccessesAcrossTheEndsOfRegionsAreHarmless) {
  ASSERT_TRUE(driver().Enable());
  for (const uint64_t end : {uint64_t{0x1000}, kRegisterBarSize}) {
    for (uint64_t size = 1; size <= 16; ++size) {
      for (uint64_t offset = end - 16; offset < end + 16; ++offset) {
        std::vector<std::byte> bytes(size, std::byte{0xff});
        controller().WriteRegion(Region::kBar0, offset, bytes);
        controller().ReadRegion(Region::kBar0, offset, bytes);
        const bool inside = offset + size <= kRegisterBarSize;
        EXPECT_TRUE(IsFilledWith(bytes, inside ? 0 : 0xff)) << offset << "+" << size;
      }
    }
  }
  std::vector<std::byte> all(kRegisterBarSize);
  controller().ReadRegion(Region::kBar0, 0, all);
  EXPECT_EQ(LoadLe<uint64_t>(all), kCapReset);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
}

INSTANTIATE_DMA_MODES(RegisterTest);

class EnableTest : public ControllerTest {};

TEST_P(EnableTest, IsReadyAsSoonAsItIsEnabled) {
  EXPECT_EQ(driver().Get(kCsts), 0u);
  ASSERT_TRUE(driver().Enable());
  ASSERT_TRUE(driver().Disable());
  EXPECT_EQ(driver().Get(kCsts), 0u);
  ASSERT_TRUE(driver().Enable()) << "a second time";
}

TEST_P(EnableTest, AdminQueueRegistersAreFixedWhileEnabledAndSurviveTheReset) {
  ASSERT_TRUE(driver().Enable());
  const uint64_t aqa = driver().Get(kAqa);
  const uint64_t asq = driver().Get(kAsq);
  const uint64_t acq = driver().Get(kAcq);
  driver().Set(kAqa, 0x0003'0003);
  driver().Set(kAsq, 0x1234'5000);
  driver().Set(kAcq, 0x1234'5000);
  EXPECT_EQ(driver().Get(kAqa), aqa);
  EXPECT_EQ(driver().Get(kAsq), asq);
  EXPECT_EQ(driver().Get(kAcq), acq);
  EXPECT_EQ(controller().guest_errors(), 3u);
  ASSERT_TRUE(driver().Disable());
  EXPECT_EQ(driver().Get(kAqa), aqa);
  EXPECT_EQ(driver().Get(kAsq), asq);
  driver().Set(kAsq, 0x1234'5000);
  EXPECT_EQ(driver().Get(kAsq), 0x1234'5000u);
}

TEST_P(EnableTest, PageSizeAndCommandSetAreFixedWhileEnabled) {
  ASSERT_TRUE(driver().Enable());
  const uint64_t cc = driver().Get(kCc);
  driver().Set(kCc, cc | kCcMps | kCcCss | kCcAms);
  EXPECT_EQ(driver().Get(kCc), cc);
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
}

struct BadSetting {
  const char* name;
  Reg row;
  uint64_t value;
};

// FreeBSD D35453: never ready and fatal together.
TEST_P(EnableTest, BadSettingsAreFatalAndNeverReady) {
  const BadSetting bad[] = {
      {"a command set that is not there", kCc, kCcEn | 6 << 4},
      {"an arbitration that is not there", kCc, kCcEn | 1 << 11},
      {"a page size beyond MPSMAX", kCc, kCcEn | 5 << 7},
      {"a submission queue of one entry", kAqa, 0x001f'0000},
      {"a completion queue of one entry", kAqa, 0x0000'001f},
      {"an ASQ off the page size", kAsq, 0x11000},
      {"an ACQ off the page size", kAcq, 0x11000},
  };
  for (const BadSetting& setting : bad) {
    SCOPED_TRACE(setting.name);
    const uint32_t large_pages = kCcEn | 4 << 7;  // 64 KiB.
    driver().Set(kAqa, 0x001f'001f);
    driver().Set(kAsq, 0x10000);
    driver().Set(kAcq, 0x20000);
    driver().Set(setting.row, setting.value);
    if (setting.row != kCc) driver().Set(kCc, large_pages);
    Run();
    EXPECT_EQ(driver().Get(kCsts), kCstsCfs);
    driver().Write<uint32_t>(SqTailDoorbell(0), 1);
    Run();
    EXPECT_TRUE(host().accesses().empty()) << "nothing is fetched";
    driver().Set(kCc, 0);
    EXPECT_EQ(driver().Get(kCsts), 0u) << "and clearing CC.EN recovers";
  }
  ASSERT_TRUE(driver().Enable());
}

TEST_P(EnableTest, WorksWithEveryPageSize) {
  for (uint32_t shift = kMinPageShift; shift <= kMaxPageShift; ++shift) {
    ASSERT_TRUE(driver().Enable(4, shift));
    const uint64_t data = driver().Allocate(4096);
    EXPECT_EQ(driver().RunStatus(0, IdentifyCommand(Cns::kController, 0, data)), Status::kSuccess);
    EXPECT_EQ(host().Peek<uint16_t>(data), kVendorId);
    ASSERT_TRUE(driver().Disable());
  }
}

TEST_P(EnableTest, OptionsOutOfRangeAreRefusedWithASentence) {
  ManualClock clock;
  Loop loop(clock);
  FakeHost memory(loop, GetParam());
  IrqRecorder recorder;
  FakeDisk drive(loop, kDiskSize, {.request_alignment = 4096});
  FakeDisk tiny(loop, 100);
  const auto error = [&](Options options) -> std::string {
    auto made = Controller::Create(
        {.id = "nvme0", .loop = loop, .clock = clock, .dma = memory, .irq = recorder}, options);
    return made ? "" : made.error().message;
  };
  const Options good{.serial = "s", .drive = &drive, .logical_block_size = 4096};
  EXPECT_EQ(error(good), "");
  Options options = good;
  options.serial = "";
  EXPECT_THAT(error(options), HasSubstr("serial=''"));
  options.serial = "123456789012345678901";
  EXPECT_THAT(error(options), HasSubstr("1 to 20 printable ASCII"));
  options.serial = "a\nb";
  EXPECT_THAT(error(options), HasSubstr("printable ASCII"));
  options = good;
  options.drive = nullptr;
  EXPECT_THAT(error(options), HasSubstr("drive="));
  options = good;
  options.max_ioqpairs = 0;
  EXPECT_THAT(error(options), HasSubstr("max_ioqpairs=0 is out of range: use 1 to 1535"));
  options = good;
  options.msix_qsize = 2049;
  EXPECT_THAT(error(options), HasSubstr("msix_qsize=2049"));
  options = good;
  options.mdts = 11;
  EXPECT_THAT(error(options), HasSubstr("mdts=11"));
  options = good;
  options.logical_block_size = 512;
  EXPECT_THAT(error(options), HasSubstr("the 4096 bytes that the disk's requests are aligned to"));
  options.logical_block_size = 1000;
  EXPECT_THAT(error(options), HasSubstr("logical_block_size=1000"));
  options = good;
  options.logical_block_size = 512;
  options.drive = &tiny;
  EXPECT_THAT(error(options), HasSubstr("100 bytes, less than one logical block"));
}

INSTANTIATE_DMA_MODES(EnableTest);

class QueueTest : public ControllerTest {};

TEST_P(QueueTest, CompletesAnUnknownOpcodeWithInvalidOpcode) {
  EnableWithQueue();
  const uint16_t cid = driver().Put(1, {.opcode = 0x7e, .nsid = 1});
  driver().Ring(1);
  EXPECT_EQ(irq().msix(1), 0u) << "a doorbell write must not do the work itself";
  EXPECT_TRUE(disk().requests().empty());
  Run();

  const auto cqe = driver().Take(1);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(cqe->sq_head, 1);
  EXPECT_EQ(cqe->sqid, 1);
  EXPECT_EQ(cqe->cid, cid);
  EXPECT_EQ(StatusOf(*cqe), Status::kInvalidOpcode);
  EXPECT_EQ(irq().msix(1), 1u);
  EXPECT_EQ(irq().msix(0), 0u);
}

TEST_P(QueueTest, QueuesWrapManyTimesWithTheirPhaseTag) {
  EnableWithQueue(4);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess) << i;
    EXPECT_EQ(driver().queue(1).sq_head, static_cast<uint32_t>((i + 1) % 4));
  }
  EXPECT_FALSE(driver().Take(1));
}

TEST_P(QueueTest, AFullSubmissionQueueIsWorkedOffInOrder) {
  EnableWithQueue(8);
  std::vector<uint16_t> cids;
  for (int i = 0; i < 7; ++i) cids.push_back(driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1)));
  driver().Ring(1);
  Run();
  for (int i = 0; i < 7; ++i) {
    const auto cqe = driver().Take(1);
    ASSERT_TRUE(cqe) << i;
    EXPECT_EQ(cqe->cid, cids[static_cast<size_t>(i)]);
    EXPECT_EQ(cqe->sq_head, i + 1);
  }
}

TEST_P(QueueTest, NothingIsFetchedWithoutAPlaceForItsCompletion) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  // A submission queue of 16 entries on a completion queue of 4.
  auto& queue = driver().queue(1);
  queue = {.sq = driver().Allocate(4096),
           .cq = driver().Allocate(4096),
           .sq_size = 16,
           .cq_size = 4,
           .cq_id = 1};
  ASSERT_EQ(driver().RunStatus(0, CreateCqCommand(1, queue.cq, 4, 1)), Status::kSuccess);
  ASSERT_EQ(driver().RunStatus(0, CreateSqCommand(1, queue.sq, 16, 1)), Status::kSuccess);
  for (int i = 0; i < 10; ++i) driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  size_t done = 0;
  while (done < 10) {
    Run();
    EXPECT_EQ(disk().requests().size(), std::min<size_t>(done + 3, 10)) << "three places, no more";
    size_t taken = 0;
    while (driver().Take(1)) ++taken;
    ASSERT_GT(taken, 0u);
    done += taken;
    driver().RingCompletion(1);
  }
  EXPECT_EQ(done, 10u);
}

TEST_P(QueueTest, SeveralSubmissionQueuesShareACompletionQueue) {
  EnableWithQueue(8);
  const uint64_t sq = driver().Allocate(4096);
  ASSERT_EQ(driver().RunStatus(0, CreateSqCommand(2, sq, 8, 1)), Status::kSuccess);
  driver().queue(2) = {.sq = sq, .sq_size = 8, .cq_id = 1};
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Put(2, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(2);
  driver().Ring(1);
  Run();
  uint32_t seen = 0;
  while (const auto cqe = driver().Take(1)) seen |= 1u << cqe->sqid;
  EXPECT_EQ(seen, 1u << 1 | 1u << 2);
}

TEST_P(QueueTest, CommandsInFlightAreBoundedOverAllQueues) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  constexpr uint16_t kQueues = 4;
  constexpr uint32_t kEach = 60;
  for (uint16_t id = 1; id <= kQueues; ++id) {
    ASSERT_EQ(driver().CreateQueues(id, 64, id), Status::kSuccess);
  }
  disk().Hold();
  for (uint16_t id = 1; id <= kQueues; ++id) {
    for (uint32_t i = 0; i < kEach; ++i) driver().Put(id, IoCommand(IoOpcode::kFlush, 0, 1));
    driver().Ring(id);
  }
  Run();
  EXPECT_EQ(disk().in_flight(), kMaxIoCommands);
  EXPECT_EQ(driver().RunStatus(0, GetFeatureCommand(FeatureId::kArbitration)), Status::kSuccess)
      << "admin commands have places of their own";
  for (uint32_t i = 0; i < kQueues * kEach; ++i) {
    ASSERT_TRUE(disk().ReleaseOne()) << i;
    Run();
    EXPECT_LE(disk().in_flight(), kMaxIoCommands);
  }
  for (uint16_t id = 1; id <= kQueues; ++id) {
    uint32_t completed = 0;
    while (driver().Take(id)) ++completed;
    EXPECT_EQ(completed, kEach) << "queue " << id;
  }
}

// A place becomes free for a queue that is deleted before it can use it.
TEST_P(QueueTest, APlaceThatOneQueueCannotUseGoesToTheNext) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 128, 1), Status::kSuccess);
  ASSERT_EQ(driver().CreateQueues(2, 8, 2), Status::kSuccess);
  ASSERT_EQ(driver().CreateQueues(3, 8, 3), Status::kSuccess);
  disk().Hold();
  for (uint32_t i = 0; i < kMaxIoCommands; ++i) driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  for (const uint16_t id : {uint16_t{2}, uint16_t{3}}) {
    driver().Put(id, IoCommand(IoOpcode::kFlush, 0, 1));
    driver().Ring(id);
    Run();
  }
  EXPECT_EQ(disk().in_flight(), kMaxIoCommands);
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 2));
  disk().ReleaseOne();
  driver().Ring(0);
  Run();
  EXPECT_EQ(disk().in_flight(), kMaxIoCommands) << "queue 3 has the place";
  const auto cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
}

TEST_P(QueueTest, AdminCommandsBeyondTheirPlacesWait) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
  disk().Hold();
  constexpr uint32_t kCommands = kMaxAdminCommands + 4;
  for (uint32_t i = 0; i < kCommands; ++i) {
    driver().Put(0, SetFeatureCommand(FeatureId::kVolatileWriteCache, 0));
  }
  driver().Ring(0);
  Run();
  EXPECT_EQ(disk().in_flight(), kMaxAdminCommands);
  driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
  Run();
  EXPECT_FALSE(driver().Take(0)) << "an event needs a place too";
  disk().ReleaseAll();
  Run();
  uint32_t events = 0;
  uint32_t commands = 0;
  while (const auto cqe = driver().Take(0)) ++(cqe->dw0 == 0x01'0000 ? events : commands);
  EXPECT_EQ(events, 1u);
  EXPECT_EQ(commands, kCommands);
}

TEST_P(QueueTest, TheLoopGetsATurnBetweenCommands) {
  EnableWithQueue(64);
  for (int i = 0; i < 32; ++i) driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  size_t before = 0;
  while (machine().loop.RunReady(1)) {
    EXPECT_LE(disk().requests().size() - before, kCommandsPerTurn);
    before = disk().requests().size();
  }
  EXPECT_EQ(before, 32u);
}

TEST_P(QueueTest, AQueueInMemoryThatIsNotThereIsFatal) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().RunStatus(0, CreateCqCommand(1, driver().Allocate(4096), 8, 1)),
            Status::kSuccess);
  ASSERT_EQ(driver().RunStatus(0, CreateSqCommand(1, kNowhere, 8, 1)), Status::kSuccess);
  irq().Forget();
  driver().Write<uint32_t>(SqTailDoorbell(1), 1);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
  EXPECT_EQ(irq().msix(1), 0u);
  driver().Put(0, GetFeatureCommand(FeatureId::kArbitration));
  driver().Ring(0);
  Run();
  EXPECT_FALSE(driver().Take(0)) << "a dead controller does nothing";
  ASSERT_TRUE(driver().Disable());
  ASSERT_TRUE(driver().Enable());
  EXPECT_EQ(driver().RunStatus(0, GetFeatureCommand(FeatureId::kArbitration)), Status::kSuccess);
}

TEST_P(QueueTest, ACompletionQueueInMemoryThatIsNotThereIsFatal) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().RunStatus(0, CreateCqCommand(1, kNowhere, 8, 1)), Status::kSuccess);
  const uint64_t sq = driver().Allocate(4096);
  ASSERT_EQ(driver().RunStatus(0, CreateSqCommand(1, sq, 8, 1)), Status::kSuccess);
  driver().queue(1) = {.sq = sq, .sq_size = 8};
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
}

TEST_P(QueueTest, WaitsForBusMastering) {
  EnableWithQueue();
  driver().WriteConfig<uint16_t>(pci::kCommand, pci::kCommandMemory);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy) << "no DMA was tried";
  driver().WriteConfig<uint16_t>(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster);
  Run();
  const auto cqe = driver().Take(1);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
}

INSTANTIATE_DMA_MODES(QueueTest);

// What happens while an access waits for its answer.
class WaitingQueueTest : public ControllerTest {};

TEST_P(WaitingQueueTest, AFetchThatAnUnmapCancelledIsTriedAgain) {
  EnableWithQueue();
  host().Hold();
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  host().CancelWaits();  // QEMU takes RAM away and gives it back when its memory map changes.
  controller().OnDmaChanged();
  host().Release();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  const auto cqe = driver().Take(1);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
}

TEST_P(WaitingQueueTest, ACompletionThatAnUnmapCancelledIsTriedAgain) {
  EnableWithQueue();
  disk().Hold();
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  host().Hold();
  disk().ReleaseAll();
  Run();
  host().CancelWaits();
  controller().OnDmaChanged();
  host().Release();
  Run();
  ASSERT_TRUE(driver().Take(1));
  EXPECT_EQ(irq().msix(1), 1u);
}

TEST_P(WaitingQueueTest, CancelledAccessesWithoutANewMapAreDropped) {
  EnableWithQueue();
  host().Hold();
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  host().CancelWaits();  // Disconnect: the reset follows.
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  EXPECT_FALSE(driver().Take(1));
  host().Release();
}

TEST_P(WaitingQueueTest, TheInterruptFollowsItsCompletionEntry) {
  ASSERT_TRUE(driver().Enable());
  disk().Hold();
  ASSERT_EQ(driver().CreateQueues(1, 8, 0), Status::kSuccess);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  host().Hold();
  disk().ReleaseAll();
  Run();
  EXPECT_FALSE(irq().intx()) << "the entry is on its way";
  driver().Set(kIntms, 1);
  driver().Set(kIntmc, 1);
  EXPECT_FALSE(irq().intx());
  host().Release();
  Run();
  EXPECT_TRUE(irq().intx());
}

TEST_P(WaitingQueueTest, PlacesPromisedToADeletedQueueGoToItsNeighbours) {
  Start({.serial = "test-1", .fetch_batch = 1});
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  // Two submission queues on a completion queue with three places.
  const uint64_t cq = driver().Allocate(4096);
  ASSERT_EQ(driver().RunStatus(0, CreateCqCommand(1, cq, 4, 1)), Status::kSuccess);
  for (const uint16_t id : {uint16_t{1}, uint16_t{2}}) {
    const uint64_t sq = driver().Allocate(4096);
    ASSERT_EQ(driver().RunStatus(0, CreateSqCommand(id, sq, 8, 1)), Status::kSuccess);
    driver().queue(id) = {.sq = sq, .cq = cq, .sq_size = 8, .cq_size = 4, .cq_id = 1};
    for (int i = 0; i < 3; ++i) driver().Put(id, IoCommand(IoOpcode::kFlush, 0, 1));
  }
  // Queue 1 has all places and is fetching when its deletion begins; queue 2 found none.
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Ring(1);
  driver().Ring(0);
  driver().Ring(2);
  Run();
  ASSERT_TRUE(driver().Take(0));
  for (int i = 0; i < 3; ++i) {
    const auto cqe = driver().Take(2);
    ASSERT_TRUE(cqe) << i;
    EXPECT_EQ(cqe->sqid, 2);
  }
}

TEST_P(WaitingQueueTest, AResetEndsADeletionThatWaitsForAFetch) {
  EnableWithQueue();
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  host().set_during_wait([&] {  // The deletion's entry is here: it starts next.
    driver().Ring(1);
    host().Hold();
  });
  driver().Ring(0);
  Run();
  host().set_during_wait(nullptr);
  driver().Set(kCc, 0);
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  host().Release();
  Run();
  EXPECT_EQ(driver().Get(kCsts), 0u);
}

INSTANTIATE_BY_MESSAGE(WaitingQueueTest);

class DoorbellTest : public ControllerTest {
 protected:
  // The asynchronous event that the next request reports, or 0xffffffff.
  uint32_t NextEvent() {
    driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
    driver().Ring(0);
    Run();
    const auto cqe = driver().Take(0);
    if (!cqe) return 0xffff'ffff;
    driver().RingCompletion(0);
    return cqe->dw0;
  }
};

TEST_P(DoorbellTest, BeforeEnablingTheyAreIgnored) {
  driver().Write<uint32_t>(SqTailDoorbell(0), 1);
  driver().Write<uint32_t>(CqHeadDoorbell(0), 1);
  Run();
  EXPECT_EQ(controller().guest_errors(), 2u);
  EXPECT_TRUE(host().accesses().empty());
  ASSERT_TRUE(driver().Enable());
  EXPECT_EQ(driver().RunStatus(0, GetFeatureCommand(FeatureId::kArbitration)), Status::kSuccess);
}

TEST_P(DoorbellTest, OfQueuesThatAreNotThereRaiseAnEvent) {
  ASSERT_TRUE(driver().Enable());
  for (const uint32_t queue : {1u, 64u, 65u, 1535u}) {
    driver().Write<uint32_t>(SqTailDoorbell(queue), 1);
    driver().Write<uint32_t>(CqHeadDoorbell(queue), 1);
  }
  EXPECT_EQ(controller().guest_errors(), 8u);
  EXPECT_EQ(NextEvent(), 0x01'0000u) << "error, Write to Invalid Doorbell Register, log 1";
}

TEST_P(DoorbellTest, WithValuesOutOfRangeRaiseAnEventAndChangeNothing) {
  EnableWithQueue(8);
  for (const uint32_t value : {8u, 9u, 0xffffu}) {
    driver().Write<uint32_t>(SqTailDoorbell(1), value);
    driver().Write<uint32_t>(CqHeadDoorbell(1), value);
  }
  driver().Write<uint32_t>(CqHeadDoorbell(1), 1);  // Nothing was completed yet.
  Run();
  EXPECT_EQ(controller().guest_errors(), 7u);
  EXPECT_EQ(NextEvent(), 0x01'0100u) << "error, Invalid Doorbell Write Value, log 1";
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
}

TEST_P(DoorbellTest, TheUpperHalfIsReserved) {
  EnableWithQueue(8);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Write<uint32_t>(SqTailDoorbell(1), 0xabcd'0001);
  Run();
  EXPECT_TRUE(driver().Take(1));
}

TEST_P(DoorbellTest, OfOtherSizesOrAlignmentsAreIgnored) {
  EnableWithQueue(8);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Write<uint8_t>(SqTailDoorbell(1), 1);
  driver().Write<uint16_t>(SqTailDoorbell(1), 1);
  driver().Write<uint64_t>(SqTailDoorbell(1), 1);
  driver().Write<uint32_t>(SqTailDoorbell(1) + 1, 1);
  driver().Write<uint32_t>(SqTailDoorbell(1) - 2, 0x1'0000);
  Run();
  EXPECT_FALSE(driver().Take(1));
  EXPECT_EQ(controller().guest_errors(), 5u);
}

INSTANTIATE_DMA_MODES(DoorbellTest);

class InterruptTest : public ControllerTest {};

TEST_P(InterruptTest, PinIsALevelThatFollowsTheCompletionQueues) {
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 8, 0), Status::kSuccess);
  EXPECT_FALSE(irq().intx());
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  EXPECT_TRUE(irq().intx());
  EXPECT_NE(driver().ReadConfig<uint16_t>(pci::kStatus) & pci::kStatusInterrupt, 0);
  ASSERT_TRUE(driver().Take(1));
  driver().RingCompletion(1);
  EXPECT_TRUE(irq().intx()) << "one of two was taken";
  ASSERT_TRUE(driver().Take(1));
  driver().RingCompletion(1);
  EXPECT_FALSE(irq().intx());
  EXPECT_EQ(driver().ReadConfig<uint16_t>(pci::kStatus) & pci::kStatusInterrupt, 0);
}

TEST_P(InterruptTest, MaskRegistersAreOneMask) {
  driver().Set(kIntms, 0x5);
  EXPECT_EQ(driver().Get(kIntmc), 0x5u);
  driver().Set(kIntms, 0x2);
  EXPECT_EQ(driver().Get(kIntms), 0x7u);
  driver().Set(kIntmc, 0x4);
  EXPECT_EQ(driver().Get(kIntms), 0x3u);
  EXPECT_EQ(driver().Get(kIntmc), 0x3u);
  driver().Write<uint64_t>(0x0c, 0x0000'0001'8000'0000);  // Both in one access.
  EXPECT_EQ(driver().Get(kIntms), 0x8000'0002u);
}

TEST_P(InterruptTest, PinFollowsItsMask) {
  ASSERT_TRUE(driver().Enable());
  driver().Set(kIntms, 1);
  driver().Put(0, GetFeatureCommand(FeatureId::kArbitration));
  driver().Ring(0);
  Run();
  EXPECT_FALSE(irq().intx());
  driver().Set(kIntmc, 1);
  EXPECT_TRUE(irq().intx()) << "at the unmasking, not later";
  driver().Set(kIntms, 1);
  EXPECT_FALSE(irq().intx());
  driver().Set(kIntmc, 1);
  ASSERT_TRUE(driver().Disable());
  EXPECT_FALSE(irq().intx()) << "a reset takes the queues away";
}

TEST_P(InterruptTest, QueuesWithoutInterruptsAreSilent) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 8, 3, /*interrupts=*/false), Status::kSuccess);
  irq().Forget();
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(irq().msix(3), 0u);
}

TEST_P(InterruptTest, EachQueueHasItsVector) {
  driver().EnableMsix();
  ASSERT_TRUE(driver().Enable());
  for (uint16_t id = 1; id <= 4; ++id) {
    ASSERT_EQ(driver().CreateQueues(id, 8, static_cast<uint16_t>(60 + id)), Status::kSuccess);
  }
  irq().Forget();
  for (uint16_t id = 1; id <= 4; ++id) {
    EXPECT_EQ(driver().RunStatus(id, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
    EXPECT_EQ(irq().msix(60u + id), 1u);
  }
  EXPECT_EQ(irq().msix(0), 0u);
  EXPECT_FALSE(irq().intx());
}

TEST_P(InterruptTest, AMaskedMsixVectorIsPendingAndComesAtItsUnmasking) {
  EnableWithQueue();
  const uint64_t control = 1 * pci::kMsixEntrySize + pci::kMsixEntryControl;
  const uint32_t masked = pci::kMsixEntryMasked;
  const uint32_t unmasked = 0;
  const uint64_t pba = 4096;
  uint64_t pending;
  controller().WriteRegion(Region::kBar4, control, AsBytes(masked));
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(irq().msix(1), 0u);
  controller().ReadRegion(Region::kBar4, pba, AsWritableBytes(pending));
  EXPECT_EQ(pending, 2u);
  controller().WriteRegion(Region::kBar4, control, AsBytes(unmasked));
  EXPECT_EQ(irq().msix(1), 1u);
  controller().ReadRegion(Region::kBar4, pba, AsWritableBytes(pending));
  EXPECT_EQ(pending, 0u);
}

TEST_P(InterruptTest, MsiSharesVectorsAndFollowsBothMasks) {
  driver().EnableMsi(1);  // Two vectors.
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess);
  ASSERT_EQ(driver().CreateQueues(2, 8, 2), Status::kSuccess);
  irq().Forget();
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(irq().msi(1), 1u);
  EXPECT_EQ(driver().RunStatus(2, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(irq().msi(0), 1u) << "vector 2 of 2";

  driver().Set(kIntms, 1 << 1);
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  EXPECT_EQ(irq().msi(1), 1u);
  driver().Set(kIntmc, 1 << 1);
  EXPECT_EQ(irq().msi(1), 2u) << "the queue still has an entry to be read";
  ASSERT_TRUE(driver().Take(1));
  driver().RingCompletion(1);
  driver().Set(kIntms, 1 << 1);
  driver().Set(kIntmc, 1 << 1);
  EXPECT_EQ(irq().msi(1), 2u) << "nothing to say any more";
  EXPECT_FALSE(irq().intx());
}

TEST_P(InterruptTest, InMsiModeWithManyVectorsPinStaysSilent) {
  driver().EnableMsi(5);
  ASSERT_TRUE(driver().Enable());
  ASSERT_EQ(driver().CreateQueues(1, 8, 31), Status::kSuccess);
  EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(irq().msi(31), 1u);
  EXPECT_EQ(irq().intx_edges(), 0u);
}

// Over vfio-user the client emulates the table: what the device sees of it means nothing.
TEST_P(InterruptTest, WhereTheSinkOwnsTheMsixTableItsMasksAreNotLookedAt) {
  Machine machine(GetParam(), {}, Machine::DefaultLimits(), /*sink_owns_msix_table=*/true);
  Driver& guest = *machine.driver;
  const uint32_t cap = guest.FindCapability(pci::kCapMsix);
  guest.WriteConfig<uint16_t>(cap + pci::kMsixControl, pci::kMsixEnable);
  ASSERT_TRUE(guest.Enable());
  ASSERT_EQ(guest.CreateQueues(1, 8, 7), Status::kSuccess);
  EXPECT_EQ(guest.RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  EXPECT_EQ(machine.irq.msix(7), 1u);
}

INSTANTIATE_DMA_MODES(InterruptTest);

}  // namespace
}  // namespace farside::nvme
