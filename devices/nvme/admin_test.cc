// Admin commands: what each does, and each way it can fail.
#include <gtest/gtest.h>

#include <set>

#include "devices/nvme/identify.h"
#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

class AdminTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    driver().EnableMsix();
    ASSERT_TRUE(driver().Enable());
    data_ = driver().Allocate(8192);
  }
  Status Admin(const Sqe& sqe) { return driver().RunStatus(0, sqe); }
  std::string Text(uint64_t at, size_t size) {
    const auto bytes = host().At(at, size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // Submits an Asynchronous Event Request, which stays.
  uint16_t RequestEvent() {
    const uint16_t cid = driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
    driver().Ring(0);
    Run();
    return cid;
  }
  void RingBadDoorbell() { driver().Write<uint32_t>(SqTailDoorbell(1000), 1); }

  uint64_t data_ = 0;
};

TEST_P(AdminTest, EveryOtherOpcodeIsInvalid) {
  for (int opcode = 0; opcode < 256; ++opcode) {
    const auto value = static_cast<uint8_t>(opcode);
    if (OpcodeEffects(true, value) != 0) continue;
    EXPECT_EQ(Admin({.opcode = value}), Status::kInvalidOpcode) << opcode;
  }
}

TEST_P(AdminTest, FusedCommandsAndSglsAreInvalid) {
  for (const int flags : {0x01, 0x02, 0x40, 0x80, 0xc0}) {
    Sqe sqe = IdentifyCommand(Cns::kController, 0, data_);
    sqe.flags = static_cast<uint8_t>(flags);
    EXPECT_EQ(Admin(sqe), Status::kInvalidField) << flags;
  }
}

TEST_P(AdminTest, IdentifiesTheController) {
  ASSERT_EQ(Admin(IdentifyCommand(Cns::kController, 0, data_)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint16_t>(data_), kVendorId);
  EXPECT_EQ(Text(data_ + 4, 20), "test-1              ");
  EXPECT_EQ(Text(data_ + 24, 40), "Farside NVMe Controller                 ");
  EXPECT_EQ(Text(data_ + 64, 8), "1.0     ");
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 77), 7) << "MDTS: 512 KiB";
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 80), 0x0001'0400u);
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 92), 0x100u) << "OAES";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 111), 1) << "CNTRLTYPE";
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 256), 0u) << "OACS";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 512), 0x66) << "SQES";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 513), 0x44) << "CQES";
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 516), 1u) << "NN";
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 520), 0x5du) << "ONCS";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 525), 7) << "VWC";
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 536), 0u) << "SGLS";
  EXPECT_EQ(Text(data_ + 768, 32), "nqn.2014-08.org.nvmexpress:uuid:");
}

TEST_P(AdminTest, IdentifiesTheNamespace) {
  ASSERT_EQ(Admin(IdentifyCommand(Cns::kNamespace, 1, data_)), Status::kSuccess);
  for (const uint64_t offset : {0u, 8u, 16u}) {
    EXPECT_EQ(host().Peek<uint64_t>(data_ + offset), kDiskSize / kBlock) << offset;
  }
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 25), 0) << "NLBAF: one format";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 33), 0x09) << "DLFEAT";
  EXPECT_EQ(host().Peek<uint64_t>(data_ + 48), kDiskSize) << "NVMCAP";
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 68), 7u) << "NPDG: 4 KiB, 0's based";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 99), 0) << "NSATTR";
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 128), 9u << 16) << "LBAF0";
  for (const uint32_t nsid : {0u, 2u, kAllNamespaces - 1, kAllNamespaces}) {
    EXPECT_EQ(Admin(IdentifyCommand(Cns::kNamespace, nsid, data_)), Status::kInvalidNamespace)
        << nsid;
  }
}

TEST_P(AdminTest, ListsActiveNamespacesAboveTheOneGiven) {
  host().Poke<uint64_t>(data_, ~uint64_t{0});
  ASSERT_EQ(Admin(IdentifyCommand(Cns::kActiveNamespaces, 0, data_)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 1u);
  ASSERT_EQ(Admin(IdentifyCommand(Cns::kActiveNamespaces, 1, data_)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 0u);
  for (const uint32_t nsid : {kAllNamespaces - 1, kAllNamespaces}) {
    EXPECT_EQ(Admin(IdentifyCommand(Cns::kActiveNamespaces, nsid, data_)),
              Status::kInvalidNamespace);
  }
}

TEST_P(AdminTest, DescribesTheNamespaceByAUuidOfItsSerial) {
  ASSERT_EQ(Admin(IdentifyCommand(Cns::kNamespaceDescriptors, 1, data_)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint16_t>(data_), 3 | 16 << 8);
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 4 + 6) >> 4, 8) << "version";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 4 + 8) >> 6, 2) << "variant";
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 20), 0) << "no further descriptor";
  EXPECT_NE(IdentifyNamespaceDescriptors("a"), IdentifyNamespaceDescriptors("b"));
  EXPECT_EQ(IdentifyNamespaceDescriptors("a"), IdentifyNamespaceDescriptors("a"));
  EXPECT_EQ(Admin(IdentifyCommand(Cns::kNamespaceDescriptors, 2, data_)),
            Status::kInvalidNamespace);
}

TEST_P(AdminTest, OtherIdentifyStructuresAreInvalid) {
  // 06h and 1Ch are what Linux asks newer controllers for.
  for (const int cns : {0x04, 0x05, 0x06, 0x07, 0x08, 0x10, 0x11, 0x12, 0x13, 0x1c, 0xff}) {
    EXPECT_EQ(Admin(IdentifyCommand(Cns{static_cast<uint8_t>(cns)}, 1, data_)),
              Status::kInvalidField)
        << cns;
  }
}

TEST_P(AdminTest, DataMayCrossAPageAnywhere) {
  Sqe sqe = IdentifyCommand(Cns::kController, 0, data_ + 0x804);
  sqe.prp2 = driver().Allocate(4096);
  ASSERT_EQ(Admin(sqe), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 0x804), kVendorId);
  // Byte 0x7fc, the first of the second page, and what follows are zeroes but for nothing there.
  EXPECT_EQ(host().Peek<uint8_t>(data_ + 0x804 + 77), 7);
  sqe.prp2 += 8;
  EXPECT_EQ(Admin(sqe), Status::kInvalidPrpOffset);
  sqe.prp1 = data_ + 1;
  EXPECT_EQ(Admin(sqe), Status::kInvalidPrpOffset);
  sqe = IdentifyCommand(Cns::kController, 0, kNowhere);
  EXPECT_EQ(Admin(sqe), Status::kDataTransferError);
}

TEST_P(AdminTest, CreateCqChecksItsFields) {
  const uint64_t base = driver().Allocate(8192);
  const auto create = [&](uint16_t id, uint32_t entries, uint16_t vector) {
    return Admin(CreateCqCommand(id, base, entries, vector));
  };
  EXPECT_EQ(create(0, 8, 0), Status::kInvalidQueueId);
  EXPECT_EQ(create(65, 8, 0), Status::kInvalidQueueId) << "beyond max_ioqpairs";
  EXPECT_EQ(create(1, 1, 0), Status::kInvalidQueueSize);
  EXPECT_EQ(create(1, 2049, 0), Status::kInvalidQueueSize) << "beyond CAP.MQES";
  EXPECT_EQ(create(1, 8, 65), Status::kInvalidInterruptVector);
  EXPECT_EQ(Admin(CreateCqCommand(1, base + 512, 8, 0)), Status::kInvalidPrpOffset);
  Sqe scattered = CreateCqCommand(1, base, 8, 0);
  scattered.cdw11 &= ~1u;
  EXPECT_EQ(Admin(scattered), Status::kInvalidField) << "CAP.CQR";
  EXPECT_EQ(create(1, 2, 64), Status::kSuccess);
  EXPECT_EQ(create(1, 8, 0), Status::kInvalidQueueId) << "it is there already";
  EXPECT_EQ(create(64, 2048, 0), Status::kSuccess);
}

TEST_P(AdminTest, CreateSqChecksItsFields) {
  const uint64_t base = driver().Allocate(8192);
  ASSERT_EQ(Admin(CreateCqCommand(1, base, 8, 0)), Status::kSuccess);
  const auto create = [&](uint16_t id, uint32_t entries, uint16_t cqid) {
    return Admin(CreateSqCommand(id, base, entries, cqid));
  };
  EXPECT_EQ(create(0, 8, 1), Status::kInvalidQueueId);
  EXPECT_EQ(create(65, 8, 1), Status::kInvalidQueueId);
  EXPECT_EQ(create(1, 8, 0), Status::kInvalidQueueId) << "the admin completion queue";
  EXPECT_EQ(create(1, 8, 65), Status::kInvalidQueueId) << "beyond max_ioqpairs";
  EXPECT_EQ(create(1, 8, 2), Status::kCompletionQueueInvalid) << "not created";
  EXPECT_EQ(create(1, 1, 1), Status::kInvalidQueueSize);
  EXPECT_EQ(create(1, 2049, 1), Status::kInvalidQueueSize);
  EXPECT_EQ(Admin(CreateSqCommand(1, base + 64, 8, 1)), Status::kInvalidPrpOffset);
  Sqe scattered = CreateSqCommand(1, base, 8, 1);
  scattered.cdw11 &= ~1u;
  EXPECT_EQ(Admin(scattered), Status::kInvalidField);
  EXPECT_EQ(create(1, 8, 1), Status::kSuccess);
  EXPECT_EQ(create(1, 8, 1), Status::kInvalidQueueId);
}

TEST_P(AdminTest, QueuesNeedEntrySizesInCc) {
  const uint64_t base = driver().Allocate(8192);
  const uint64_t cc = driver().Get(kCc);
  driver().Set(kCc, cc & ~uint64_t{kCcIocqes});
  EXPECT_EQ(Admin(CreateCqCommand(1, base, 8, 0)), Status::kInvalidQueueSize);
  driver().Set(kCc, cc & ~uint64_t{kCcIosqes});
  EXPECT_EQ(Admin(CreateCqCommand(1, base, 8, 0)), Status::kSuccess);
  EXPECT_EQ(Admin(CreateSqCommand(1, base + 4096, 8, 1)), Status::kInvalidQueueSize);
  driver().Set(kCc, cc);
  EXPECT_EQ(Admin(CreateSqCommand(1, base + 4096, 8, 1)), Status::kSuccess);
}

TEST_P(AdminTest, VectorsDependOnTheInterruptMode) {
  const uint32_t cap = driver().FindCapability(pci::kCapMsix);
  driver().WriteConfig<uint16_t>(cap + pci::kMsixControl, 0);
  const uint64_t base = driver().Allocate(4096);
  EXPECT_EQ(Admin(CreateCqCommand(1, base, 8, 1)), Status::kInvalidInterruptVector) << "pin";
  driver().EnableMsi(5);
  EXPECT_EQ(Admin(CreateCqCommand(1, base, 8, 32)), Status::kInvalidInterruptVector) << "MSI";
  EXPECT_EQ(Admin(CreateCqCommand(1, base, 8, 31)), Status::kSuccess);
}

TEST_P(AdminTest, DeleteChecksItsFieldsAndTheOrder) {
  ASSERT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess);
  for (const int number : {0, 2, 65, 0xffff}) {
    const auto id = static_cast<uint16_t>(number);
    EXPECT_EQ(Admin(DeleteCommand(AdminOpcode::kDeleteSq, id)), Status::kInvalidQueueId) << id;
    EXPECT_EQ(Admin(DeleteCommand(AdminOpcode::kDeleteCq, id)), Status::kInvalidQueueId) << id;
  }
  EXPECT_EQ(Admin(DeleteCommand(AdminOpcode::kDeleteCq, 1)), Status::kInvalidQueueDeletion)
      << "its submission queue is still there";
  EXPECT_EQ(driver().DeleteQueues(1), Status::kSuccess);
  driver().Write<uint32_t>(SqTailDoorbell(1), 1);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  EXPECT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess) << "the identifier is free again";
}

TEST_P(AdminTest, DeletingASubmissionQueueWaitsForItsCommands) {
  ASSERT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess);
  disk().Hold();
  driver().Put(1, IoCommand(IoOpcode::kRead, 0, 1, data_));
  driver().Ring(1);
  Run();
  const uint16_t deletion = driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Ring(0);
  Run();
  auto cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(StatusOf(*cqe), Status::kInvalidQueueId) << "the second one: it is being deleted";
  EXPECT_FALSE(driver().Take(0));
  // Not fetched any more, and its identifier not free yet.
  driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  driver().RingCompletion(0);
  EXPECT_EQ(Admin(CreateSqCommand(1, data_, 8, 1)), Status::kInvalidQueueId);
  EXPECT_EQ(disk().requests().size(), 1u);

  disk().ReleaseAll();
  Run();
  ASSERT_TRUE(driver().Take(1)) << "the read completed";
  cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(cqe->cid, deletion);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
  EXPECT_EQ(disk().requests().size(), 1u) << "the flush went with its queue";
}

TEST_P(AdminTest, NumberOfQueuesIsSettledBeforeTheFirst) {
  Cqe cqe = driver().Run(0, GetFeatureCommand(FeatureId::kNumberOfQueues));
  EXPECT_EQ(cqe.dw0, 63u | 63u << 16) << "all of them, until somebody asks for fewer";
  cqe = driver().Run(0, SetFeatureCommand(FeatureId::kNumberOfQueues, 1 | 2 << 16));
  EXPECT_EQ(StatusOf(cqe), Status::kSuccess);
  EXPECT_EQ(cqe.dw0, 1u | 2u << 16);
  const uint64_t base = driver().Allocate(8192);
  EXPECT_EQ(Admin(CreateCqCommand(4, base, 8, 0)), Status::kInvalidQueueId);
  EXPECT_EQ(Admin(CreateCqCommand(3, base, 8, 0)), Status::kSuccess);
  EXPECT_EQ(Admin(CreateSqCommand(3, base, 8, 3)), Status::kInvalidQueueId);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kNumberOfQueues, 0)), Status::kCommandSequenceError);
  EXPECT_EQ(Admin(DeleteCommand(AdminOpcode::kDeleteCq, 3)), Status::kSuccess);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kNumberOfQueues, 0)), Status::kCommandSequenceError)
      << "there was one";
  ASSERT_TRUE(driver().Disable());
  ASSERT_TRUE(driver().Enable());
  cqe = driver().Run(0, SetFeatureCommand(FeatureId::kNumberOfQueues, 0xfffe'fffe));
  EXPECT_EQ(cqe.dw0, 63u | 63u << 16) << "no more than there are";
  for (const uint32_t value : {0xffffu, 0xffff'0000u}) {
    EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kNumberOfQueues, value)), Status::kInvalidField);
  }
}

TEST_P(AdminTest, FeaturesKeepWhatIsSetUntilAReset) {
  struct Row {
    FeatureId id;
    uint32_t nsid;
    uint32_t initial;
    uint32_t value;
    uint32_t kept;
  };
  const Row rows[] = {
      {FeatureId::kArbitration, 0, 0x07, 0x0102'03ff, 0x0102'0307},
      {FeatureId::kPowerManagement, 0, 0, 0x20, 0x20},
      {FeatureId::kErrorRecovery, 1, 0, 0x1234, 0x1234},
      {FeatureId::kVolatileWriteCache, 0, 1, 0, 0},
      {FeatureId::kInterruptCoalescing, 0, 0, 0x0504, 0x0504},
      {FeatureId::kWriteAtomicity, 0, 0, 1, 1},
      {FeatureId::kAsyncEventConfiguration, 0, 0, 0x11f, 0x11f},
      {FeatureId::kTemperatureThreshold, 0, 343, 350, 350},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(static_cast<int>(row.id));
    const auto get = [&](uint32_t select) {
      Sqe sqe = GetFeatureCommand(row.id, select);
      sqe.nsid = row.nsid;
      const Cqe cqe = driver().Run(0, sqe);
      EXPECT_EQ(StatusOf(cqe), Status::kSuccess);
      return cqe.dw0;
    };
    EXPECT_EQ(get(0), row.initial);
    Sqe set = SetFeatureCommand(row.id, row.value);
    set.nsid = row.nsid;
    EXPECT_EQ(Admin(set), Status::kSuccess);
    EXPECT_EQ(get(0), row.kept) << "current";
    EXPECT_EQ(get(1), row.initial) << "default";
    EXPECT_EQ(get(2), row.initial) << "saved: there is none";
    EXPECT_EQ(get(3), row.nsid != 0 ? 6u : 4u) << "capabilities";
    set.cdw10 |= 1u << 31;
    EXPECT_EQ(Admin(set), Status::kFeatureNotSaveable);
  }
  ASSERT_TRUE(driver().Disable());
  ASSERT_TRUE(driver().Enable());
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kArbitration)).dw0, 0x07u);
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kVolatileWriteCache)).dw0, 1u);
}

TEST_P(AdminTest, FeaturesCheckTheirFields) {
  for (const int id : {0x00, 0x03, 0x0c, 0x0d, 0x0f, 0x10, 0x11, 0x78, 0x80, 0x81, 0xff}) {
    const auto feature = FeatureId{static_cast<uint8_t>(id)};
    EXPECT_EQ(Admin(SetFeatureCommand(feature, 0)), Status::kInvalidField) << id;
    EXPECT_EQ(Admin(GetFeatureCommand(feature)), Status::kInvalidField) << id;
  }
  for (const uint32_t select : {4u, 7u}) {
    EXPECT_EQ(Admin(GetFeatureCommand(FeatureId::kArbitration, select)), Status::kInvalidField);
  }
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kPowerManagement, 1)), Status::kInvalidField);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kAsyncEventConfiguration, 1 << 9)),
            Status::kInvalidField)
      << "firmware activation notices are not offered";
  Sqe sqe = SetFeatureCommand(FeatureId::kErrorRecovery, 1 << 16);
  sqe.nsid = 1;
  EXPECT_EQ(Admin(sqe), Status::kInvalidField) << "DULBE";
  sqe = SetFeatureCommand(FeatureId::kErrorRecovery, 0);
  EXPECT_EQ(Admin(sqe), Status::kInvalidNamespace) << "it is a namespace's";
  sqe = GetFeatureCommand(FeatureId::kErrorRecovery);
  EXPECT_EQ(Admin(sqe), Status::kInvalidNamespace);
  sqe = SetFeatureCommand(FeatureId::kArbitration, 0);
  sqe.nsid = 1;
  EXPECT_EQ(Admin(sqe), Status::kFeatureNotNamespaceSpecific);
  sqe.nsid = 2;
  EXPECT_EQ(Admin(sqe), Status::kInvalidNamespace);
  sqe.nsid = kAllNamespaces;
  EXPECT_EQ(Admin(sqe), Status::kSuccess);
}

TEST_P(AdminTest, VectorConfigurationIsByVector) {
  const auto get = [&](uint32_t vector) {
    return driver().Run(0, GetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 0, vector));
  };
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 64 | 1 << 16)),
            Status::kSuccess);
  EXPECT_EQ(get(64).dw0, 64u | 1 << 16);
  EXPECT_EQ(get(1).dw0, 1u);
  EXPECT_EQ(StatusOf(get(65)), Status::kInvalidField);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 65)),
            Status::kInvalidField);
}

TEST_P(AdminTest, TimestampGoesOnFromWhatIsSet) {
  Sqe get = GetFeatureCommand(FeatureId::kTimestamp);
  get.prp1 = data_;
  machine().clock.AdvanceTo(5'000'000);
  ASSERT_EQ(Admin(get), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 5u) << "milliseconds since the reset";

  Sqe set = SetFeatureCommand(FeatureId::kTimestamp, 0);
  set.prp1 = data_ + 64;
  host().Poke<uint64_t>(data_ + 64, 0xffff'1234'5678'9abc);  // The upper 16 bits are attributes.
  ASSERT_EQ(Admin(set), Status::kSuccess);
  machine().clock.AdvanceTo(7'000'000);
  ASSERT_EQ(Admin(get), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 0x0002'1234'5678'9abeu) << "origin: set by the host";
  get.cdw10 |= 1 << 8;
  ASSERT_EQ(Admin(get), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 0u) << "the default";
  set.prp1 = kNowhere;
  EXPECT_EQ(Admin(set), Status::kDataTransferError);
}

TEST_P(AdminTest, SwitchingTheWriteCacheOffFlushes) {
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kVolatileWriteCache, 0)), Status::kSuccess);
  ASSERT_EQ(disk().requests().size(), 1u);
  EXPECT_EQ(disk().requests()[0].op, FakeDisk::Op::kFlush);
  disk().FailNext(FakeDisk::Op::kFlush, EIO);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kVolatileWriteCache, 0)), Status::kWriteFault);
}

TEST_P(AdminTest, ErrorLogHasTheLatestFirst) {
  const Sqe bad = IdentifyCommand(Cns::kNamespace, 7, data_);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Admin(bad), Status::kInvalidNamespace);
  RingBadDoorbell();
  ASSERT_EQ(Admin(GetLogCommand(LogId::kErrors, data_, 1024)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data_), 21u);
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 8), 1000u) << "SQID";
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 10), 0xffffu) << "no command";
  EXPECT_EQ(host().Peek<uint64_t>(data_ + 64), 20u);
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 64 + 8), 0u);
  EXPECT_EQ(host().Peek<uint16_t>(data_ + 64 + 12),
            static_cast<uint16_t>(static_cast<int>(Status::kInvalidNamespace) << 1));
  EXPECT_EQ(host().Peek<uint32_t>(data_ + 64 + 24), 7u) << "NSID";
  EXPECT_EQ(host().Peek<uint64_t>(data_ + 15 * 64), 6u) << "the oldest of 16";
}

TEST_P(AdminTest, SmartLogCountsWhatWasDone) {
  ASSERT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess);
  const uint64_t buffer = driver().Allocate(64 << 10);
  Sqe io = IoCommand(IoOpcode::kRead, 0, 8, buffer);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(driver().RunStatus(1, io), Status::kSuccess);
  io.opcode = static_cast<uint8_t>(IoOpcode::kWrite);
  ASSERT_EQ(driver().RunStatus(1, io), Status::kSuccess);
  disk().FailNext(FakeDisk::Op::kWrite, EIO);
  ASSERT_EQ(driver().RunStatus(1, io), Status::kWriteFault);
  for (const uint32_t nsid : {0u, 1u, kAllNamespaces}) {
    Sqe get = GetLogCommand(LogId::kSmart, data_, 512);
    get.nsid = nsid;
    ASSERT_EQ(Admin(get), Status::kSuccess);
    EXPECT_EQ(host().Peek<uint8_t>(data_), 0) << "critical warning";
    EXPECT_EQ(host().Peek<uint16_t>(data_ + 1), kCompositeTemperature);
    EXPECT_EQ(host().Peek<uint8_t>(data_ + 3), 100);
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 32), 1u) << "24 units of 512 bytes, in thousands";
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 48), 1u);
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 64), 3u) << "read commands";
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 80), 1u) << "write commands";
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 160), 1u) << "media errors";
    EXPECT_EQ(host().Peek<uint64_t>(data_ + 176), 1u) << "error log entries";
  }
  Sqe get = GetLogCommand(LogId::kSmart, data_, 512);
  get.nsid = 2;
  EXPECT_EQ(Admin(get), Status::kInvalidNamespace);
}

TEST_P(AdminTest, OtherLogsSayWhatThereIs) {
  ASSERT_EQ(Admin(GetLogCommand(LogId::kFirmwareSlots, data_, 512)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint8_t>(data_), 1);
  EXPECT_EQ(Text(data_ + 8, 8), "1.0     ");
  Fill(host().At(data_, 4096), 0xff);
  ASSERT_EQ(Admin(GetLogCommand(LogId::kChangedNamespaces, data_, 4096)), Status::kSuccess);
  EXPECT_TRUE(IsFilledWith(host().At(data_, 4096), 0));
  ASSERT_EQ(Admin(GetLogCommand(LogId::kCommandEffects, data_, 4096)), Status::kSuccess);
  for (uint32_t opcode = 0; opcode < 256; ++opcode) {
    const auto value = static_cast<uint8_t>(opcode);
    EXPECT_EQ(host().Peek<uint32_t>(data_ + 4 * opcode), OpcodeEffects(true, value));
    EXPECT_EQ(host().Peek<uint32_t>(data_ + 1024 + 4 * opcode), OpcodeEffects(false, value));
  }
  for (const int log : {0x00, 0x06, 0x07, 0x0d, 0x80, 0x81, 0xff}) {
    EXPECT_EQ(Admin(GetLogCommand(LogId{static_cast<uint8_t>(log)}, data_, 512)),
              Status::kInvalidLogPage)
        << log;
  }
}

// CVE-2021-3947 and CVE-2023-4135.
TEST_P(AdminTest, LogOffsetsAndSizesStayInsideTheLog) {
  const LogId logs[] = {LogId::kErrors, LogId::kSmart, LogId::kFirmwareSlots,
                        LogId::kChangedNamespaces, LogId::kCommandEffects};
  const uint64_t sizes[] = {1024, 512, 512, 4096, 4096};
  for (size_t i = 0; i < std::size(logs); ++i) {
    SCOPED_TRACE(static_cast<int>(logs[i]));
    const auto get = [&](uint64_t size, uint64_t offset) {
      Sqe sqe = GetLogCommand(logs[i], data_, size, offset);
      sqe.prp2 = data_ + 4096;
      return Admin(sqe);
    };
    EXPECT_EQ(get(4, sizes[i] + 4), Status::kInvalidField);
    EXPECT_EQ(get(4, 0xffff'ffff'ffff'fffc), Status::kInvalidField);
    EXPECT_EQ(get(4, 0x1'0000'0000), Status::kInvalidField);
    EXPECT_EQ(get(4, 2), Status::kInvalidField) << "not a double word";
    Fill(host().At(data_, 8192), 0xee);
    EXPECT_EQ(get(8192, sizes[i] - 4), Status::kSuccess);
    EXPECT_TRUE(IsFilledWith(host().At(data_ + 4, 8188), 0)) << "zeroes behind the end";
    EXPECT_EQ(get(4, sizes[i]), Status::kSuccess);
    EXPECT_EQ(host().Peek<uint32_t>(data_), 0u);
    EXPECT_EQ(get((512 << 10) + 4, 0), Status::kInvalidField) << "beyond MDTS";
    EXPECT_EQ(get(uint64_t{4} << 30, 0), Status::kInvalidField);
  }
}

TEST_P(AdminTest, LogsCanBeReadInParts) {
  ASSERT_EQ(Admin(GetLogCommand(LogId::kCommandEffects, data_, 4096)), Status::kSuccess);
  const auto whole = host().At(data_, 4096);
  const uint64_t part = driver().Allocate(4096);
  for (uint64_t offset = 0; offset < 4096; offset += 256) {
    ASSERT_EQ(Admin(GetLogCommand(LogId::kCommandEffects, part, 256, offset)), Status::kSuccess);
    EXPECT_TRUE(std::ranges::equal(host().At(part, 256), whole.subspan(offset, 256))) << offset;
  }
}

TEST_P(AdminTest, EventRequestsWaitAndAreLimited) {
  std::set<uint16_t> waiting;
  for (uint32_t i = 0; i < kMaxEventRequests; ++i) waiting.insert(RequestEvent());
  EXPECT_FALSE(driver().Take(0));
  const uint16_t fifth = RequestEvent();
  const auto cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(cqe->cid, fifth);
  EXPECT_EQ(StatusOf(*cqe), Status::kEventRequestLimitExceeded);
  driver().RingCompletion(0);
  EXPECT_EQ(Admin(GetFeatureCommand(FeatureId::kArbitration)), Status::kSuccess)
      << "the queue goes on";

  RingBadDoorbell();
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event);
  EXPECT_TRUE(waiting.contains(event->cid));
  EXPECT_EQ(event->dw0, 0x01'0000u);
}

TEST_P(AdminTest, AnEventIsReportedAgainOnlyAfterItsLogWasRead) {
  RequestEvent();
  RequestEvent();
  RingBadDoorbell();
  RingBadDoorbell();
  Run();
  ASSERT_TRUE(driver().Take(0));
  driver().RingCompletion(0);
  EXPECT_FALSE(driver().Take(0)) << "masked";
  Sqe retain = GetLogCommand(LogId::kErrors, data_, 64);
  retain.cdw10 |= 1 << 15;
  EXPECT_EQ(Admin(retain), Status::kSuccess);
  EXPECT_EQ(Admin(GetLogCommand(LogId::kSmart, data_, 64)), Status::kSuccess);
  Run();
  EXPECT_FALSE(driver().Take(0)) << "retained, and another type's log";
  // The second error waited; reading the log reports it, before the read itself completes.
  driver().Put(0, GetLogCommand(LogId::kErrors, data_, 64));
  driver().Ring(0);
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->dw0, 0x01'0000u);
  ASSERT_TRUE(driver().Take(0));
  EXPECT_FALSE(driver().Take(0));
}

TEST_P(AdminTest, AnEventThatComesFirstWaitsForARequest) {
  RingBadDoorbell();
  Run();
  EXPECT_FALSE(driver().Take(0));
  EXPECT_EQ(driver().Run(0, AdminCommand(AdminOpcode::kAsyncEventRequest)).dw0, 0x01'0000u);
}

TEST_P(AdminTest, EventRequestsTakeNoPlaceInASmallQueue) {
  ASSERT_TRUE(driver().Disable());
  ASSERT_TRUE(driver().Enable(2));
  RequestEvent();
  EXPECT_EQ(Admin(GetFeatureCommand(FeatureId::kArbitration)), Status::kSuccess);
  // The event finds the completion queue full and waits.
  driver().Put(0, GetFeatureCommand(FeatureId::kArbitration));
  driver().Ring(0);
  Run();
  RingBadDoorbell();
  Run();
  ASSERT_TRUE(driver().Take(0));
  EXPECT_FALSE(driver().Take(0));
  driver().RingCompletion(0);
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->dw0, 0x01'0000u);
}

TEST_P(AdminTest, TemperatureThresholdsWarn) {
  const auto threshold = [&](uint32_t kind, uint16_t kelvin) {
    return Admin(SetFeatureCommand(FeatureId::kTemperatureThreshold, kind << 20 | kelvin));
  };
  const auto warning = [&] {
    EXPECT_EQ(Admin(GetLogCommand(LogId::kSmart, data_, 512)), Status::kSuccess);
    return host().Peek<uint8_t>(data_);
  };
  RequestEvent();
  EXPECT_EQ(threshold(0, 300), Status::kSuccess);
  EXPECT_EQ(warning(), 2);
  EXPECT_FALSE(driver().Take(0)) << "not asked for";
  EXPECT_EQ(threshold(0, 400), Status::kSuccess);
  EXPECT_EQ(warning(), 0);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kAsyncEventConfiguration, 2)), Status::kSuccess);
  driver().Put(0, SetFeatureCommand(FeatureId::kTemperatureThreshold, 1 << 20 | 320));
  driver().Ring(0);
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->dw0, 0x02'0101u) << "SMART, Temperature Threshold, log 2";
  ASSERT_TRUE(driver().Take(0));
  driver().RingCompletion(0);
  EXPECT_EQ(warning(), 2) << "below the lower threshold";
  EXPECT_EQ(threshold(2, 0), Status::kInvalidField);
  EXPECT_EQ(Admin(SetFeatureCommand(FeatureId::kTemperatureThreshold, 1 << 16)),
            Status::kInvalidField)
      << "a sensor that is not there";
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kTemperatureThreshold, 0, 1 << 20)).dw0,
            320u);
}

TEST_P(AdminTest, AbortStopsEventRequestsAndNothingElse) {
  ASSERT_EQ(driver().CreateQueues(1, 8, 1), Status::kSuccess);
  disk().Hold();
  const uint16_t held = driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
  driver().Ring(1);
  Run();
  const auto abort = [&](uint16_t queue, uint16_t cid) {
    Sqe sqe = AdminCommand(AdminOpcode::kAbort);
    sqe.cdw10 = queue | uint32_t{cid} << 16;
    return sqe;
  };
  for (const uint16_t queue : {uint16_t{1}, uint16_t{0}, uint16_t{2}, uint16_t{0xffff}}) {
    const Cqe cqe = driver().Run(0, abort(queue, held));
    EXPECT_EQ(StatusOf(cqe), Status::kSuccess);
    EXPECT_EQ(cqe.dw0, 1u) << "not aborted";
  }
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(StatusOf(*driver().Take(1)), Status::kSuccess);

  const uint16_t request = RequestEvent();
  driver().Put(0, abort(0, request));
  driver().Ring(0);
  Run();
  auto cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(cqe->cid, request) << "the aborted command completes first";
  EXPECT_EQ(StatusOf(*cqe), Status::kAbortRequested);
  cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
  EXPECT_EQ(cqe->dw0, 0u);
}

INSTANTIATE_DMA_MODES(AdminTest);

}  // namespace
}  // namespace farside::nvme
