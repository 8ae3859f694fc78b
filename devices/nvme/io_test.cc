// I/O commands: what each does to the disk and to memory, and each way it can fail.
#include <gtest/gtest.h>

#include <cerrno>

#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

using Op = FakeDisk::Op;
using Requests = std::vector<FakeDisk::Request>;

class IoTest : public ControllerTest {
 protected:
  void SetUp() override {
    ControllerTest::SetUp();
    EnableWithQueue();
  }
  Status Io(const Sqe& sqe) { return driver().RunStatus(1, sqe); }
  Status Io(IoOpcode opcode, uint64_t block, uint32_t blocks, uint64_t prp1 = 0,
            uint64_t prp2 = 0) {
    return Io(IoCommand(opcode, block, blocks, prp1, prp2));
  }
  Bytes Disk(uint64_t block, uint32_t blocks) {
    return disk().data().subspan(block * kBlock, uint64_t{blocks} * kBlock);
  }
  // Submits reads of blocks 0 to count - 1 to a disk that holds them; their command identifiers.
  std::vector<uint16_t> SubmitHeldReads(uint64_t count) {
    disk().Hold();
    const uint64_t data = driver().Allocate(count * 4096);
    std::vector<uint16_t> cids;
    for (uint64_t i = 0; i < count; ++i) {
      cids.push_back(driver().Put(1, IoCommand(IoOpcode::kRead, i, 1, data + i * 4096)));
    }
    driver().Ring(1);
    Run();
    return cids;
  }
  uint64_t MakeRanges(std::initializer_list<DsmRange> ranges) {
    uint64_t at = driver().Allocate(4096);
    const uint64_t first = at;
    for (const DsmRange& range : ranges) {
      Copy(host().At(at, sizeof range), AsBytes(range));
      at += sizeof range;
    }
    return first;
  }
  Sqe DeallocateCommand(uint64_t ranges, uint32_t count) {
    Sqe sqe = IoCommand(IoOpcode::kDatasetManagement, 0, 1, ranges);
    sqe.cdw10 = count - 1;
    sqe.cdw11 = 1 << 2;
    sqe.cdw12 = 0;
    return sqe;
  }
};

TEST_P(IoTest, ReadsAndWritesBlocks) {
  const uint64_t data = MakeData(4096, 1);
  EXPECT_EQ(Io(IoOpcode::kWrite, 5, 8, data), Status::kSuccess);
  EXPECT_TRUE(IsPattern(Disk(5, 8), 1));
  EXPECT_TRUE(IsFilledWith(Disk(0, 5), 0));
  EXPECT_TRUE(IsFilledWith(Disk(13, 5), 0));
  const uint64_t back = driver().Allocate(4096);
  EXPECT_EQ(Io(IoOpcode::kRead, 5, 8, back), Status::kSuccess);
  EXPECT_TRUE(IsPattern(host().At(back, 4096), 1));
  EXPECT_EQ(disk().requests(),
            (Requests{{Op::kWrite, 5 * kBlock, 4096}, {Op::kRead, 5 * kBlock, 4096}}));
}

TEST_P(IoTest, TransfersUpToMdts) {
  const uint32_t size = 512 << 10;
  const uint64_t data = MakeData(size, 3);
  const uint64_t list = driver().Allocate(4096);
  for (uint64_t page = 1; page < size / 4096; ++page) {
    host().Poke(list + (page - 1) * 8, data + page * 4096);
  }
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, size / kBlock, data, list), Status::kSuccess);
  EXPECT_TRUE(IsPattern(Disk(0, size / kBlock), 3));
  disk().ForgetRequests();
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, size / kBlock + 1, data, list), Status::kInvalidField);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 0x10000, data, list), Status::kInvalidField);
  EXPECT_TRUE(disk().requests().empty());
}

TEST_P(IoTest, DataMayLieScattered) {
  // From the middle of a page, backwards through memory.
  const uint64_t memory = driver().Allocate(8 * 4096);
  const uint64_t list = driver().Allocate(4096) + 4096 - 16;
  host().Poke(list, memory + 6 * 4096);
  host().Poke(list + 8, memory + 2 * 4096);
  FillPattern(Disk(16, 16), 9);
  EXPECT_EQ(Io(IoOpcode::kRead, 16, 16, memory + 0x804, list), Status::kSuccess);
  std::vector<std::byte> got;
  const auto add = [&](uint64_t iova, uint64_t size) {
    const auto bytes = host().At(iova, size);
    got.insert(got.end(), bytes.begin(), bytes.end());
  };
  add(memory + 0x804, 0x7fc);
  add(memory + 6 * 4096, 0x1000);
  add(memory + 2 * 4096, 0x804);
  EXPECT_TRUE(IsPattern(got, 9));
}

TEST_P(IoTest, BlocksOutsideTheNamespaceAreRefused) {
  const uint64_t last = kDiskSize / kBlock - 1;
  const uint64_t data = driver().Allocate(4096);
  for (const IoOpcode opcode :
       {IoOpcode::kRead, IoOpcode::kWrite, IoOpcode::kCompare, IoOpcode::kWriteZeroes}) {
    EXPECT_EQ(Io(opcode, last, 1, data), Status::kSuccess);
    EXPECT_EQ(Io(opcode, last, 2, data), Status::kLbaOutOfRange);
    EXPECT_EQ(Io(opcode, last + 1, 1, data), Status::kLbaOutOfRange);
    EXPECT_EQ(Io(opcode, ~uint64_t{0}, 8, data), Status::kLbaOutOfRange);
    EXPECT_EQ(Io(opcode, uint64_t{1} << 55, 1, data), Status::kLbaOutOfRange) << "as bytes: 0";
  }
}

TEST_P(IoTest, NamespacesThatAreNotThereAreRefused) {
  for (const uint32_t nsid : {0u, 2u, kAllNamespaces - 1, kAllNamespaces}) {
    for (const IoOpcode opcode : {IoOpcode::kRead, IoOpcode::kWrite, IoOpcode::kCompare,
                                  IoOpcode::kWriteZeroes, IoOpcode::kDatasetManagement}) {
      Sqe sqe = IoCommand(opcode, 0, 1);
      sqe.nsid = nsid;
      EXPECT_EQ(Io(sqe), Status::kInvalidNamespace) << nsid;
    }
  }
}

TEST_P(IoTest, EveryOtherOpcodeIsInvalid) {
  for (int opcode = 0; opcode < 256; ++opcode) {
    const auto value = static_cast<uint8_t>(opcode);
    if (OpcodeEffects(false, value) != 0) continue;
    EXPECT_EQ(Io({.opcode = value, .nsid = 1}), Status::kInvalidOpcode) << opcode;
  }
}

TEST_P(IoTest, FusedCommandsSglsAndDirectivesAreInvalid) {
  Sqe sqe = IoCommand(IoOpcode::kWrite, 0, 1, MakeData(512, 1));
  sqe.cdw12 |= 1 << 20;  // DTYPE: streams.
  EXPECT_EQ(Io(sqe), Status::kInvalidField);
  sqe = IoCommand(IoOpcode::kCompare, 0, 1, MakeData(512, 1));
  sqe.flags = 1;
  EXPECT_EQ(Io(sqe), Status::kInvalidField);
  sqe.flags = 0x40;
  EXPECT_EQ(Io(sqe), Status::kInvalidField);
}

TEST_P(IoTest, FlushTakesOneOrAllNamespaces) {
  Sqe sqe = IoCommand(IoOpcode::kFlush, 0, 1);
  EXPECT_EQ(Io(sqe), Status::kSuccess);
  sqe.nsid = kAllNamespaces;
  EXPECT_EQ(Io(sqe), Status::kSuccess);
  EXPECT_EQ(disk().requests(), (Requests{{Op::kFlush}, {Op::kFlush}}));
  sqe.nsid = 2;
  EXPECT_EQ(Io(sqe), Status::kInvalidNamespace);
}

TEST_P(IoTest, FuaIsTheDisksBusinessAndTheCacheOffMeansAlways) {
  Sqe write = IoCommand(IoOpcode::kWrite, 0, 1, MakeData(512, 1));
  Sqe zeroes = IoCommand(IoOpcode::kWriteZeroes, 0, 1);
  EXPECT_EQ(Io(write), Status::kSuccess);
  EXPECT_EQ(Io(zeroes), Status::kSuccess);
  EXPECT_EQ(disk().requests(), (Requests{{Op::kWrite, 0, 512, false}, {Op::kWriteZeroes, 0, 512}}));
  disk().ForgetRequests();
  write.cdw12 |= 1 << 30;
  zeroes.cdw12 |= 1 << 30;
  const Requests stable{{Op::kWrite, 0, 512, true}, {Op::kWriteZeroes, 0, 512}, {Op::kFlush}};
  EXPECT_EQ(Io(write), Status::kSuccess);
  EXPECT_EQ(Io(zeroes), Status::kSuccess);
  EXPECT_EQ(disk().requests(), stable);

  EXPECT_EQ(driver().RunStatus(0, SetFeatureCommand(FeatureId::kVolatileWriteCache, 0)),
            Status::kSuccess);
  disk().ForgetRequests();
  write.cdw12 = zeroes.cdw12 = 0;
  EXPECT_EQ(Io(write), Status::kSuccess);
  EXPECT_EQ(Io(zeroes), Status::kSuccess);
  EXPECT_EQ(disk().requests(), stable);
}

TEST_P(IoTest, WritesZeroesWithoutATransfer) {
  FillPattern(disk().data(), 5);
  Sqe sqe = IoCommand(IoOpcode::kWriteZeroes, 2, 0x700);  // 0x700 blocks: more than MDTS.
  host().ForgetAccesses();
  EXPECT_EQ(Io(sqe), Status::kSuccess);
  EXPECT_EQ(host().accesses().size(), 2u) << "the entry and its completion";
  EXPECT_TRUE(IsFilledWith(Disk(2, 0x700), 0));
  EXPECT_FALSE(IsFilledWith(Disk(0, 2), 0));
  EXPECT_FALSE(IsFilledWith(Disk(0x702, 2), 0));
  sqe.cdw12 |= 1 << 25;  // DEAC.
  EXPECT_EQ(Io(sqe), Status::kSuccess);
  EXPECT_EQ(disk().requests(), (Requests{{Op::kWriteZeroes, 2 * kBlock, 0x700 * kBlock, false},
                                         {Op::kWriteZeroes, 2 * kBlock, 0x700 * kBlock, true}}));
}

TEST_P(IoTest, DeallocatesRanges) {
  FillPattern(disk().data(), 5);
  const uint64_t ranges = MakeRanges({{0, 8, 16}, {0, 0, 3}, {0, 1, 100}});
  EXPECT_EQ(Io(DeallocateCommand(ranges, 3)), Status::kSuccess);
  EXPECT_EQ(disk().requests(), (Requests{{Op::kDiscard, 16 * kBlock, 8 * kBlock},
                                         {Op::kDiscard, 100 * kBlock, kBlock}}))
      << "a range of no blocks is nothing";
  Sqe hint = DeallocateCommand(ranges, 3);
  hint.cdw11 = 3;
  disk().ForgetRequests();
  EXPECT_EQ(Io(hint), Status::kSuccess);
  EXPECT_TRUE(disk().requests().empty()) << "hints without deallocation are not used";
}

TEST_P(IoTest, DeallocationChecksAllRangesFirst) {
  const uint64_t blocks = kDiskSize / kBlock;
  const DsmRange bad[] = {
      {0, 1, blocks}, {0, 2, blocks - 1}, {0, 0xffff'ffff, 0}, {0, 1, ~uint64_t{0}}};
  for (const DsmRange& range : bad) {
    EXPECT_EQ(Io(DeallocateCommand(MakeRanges({{0, 1, 0}, range}), 2)), Status::kLbaOutOfRange);
  }
  EXPECT_EQ(Io(DeallocateCommand(kNowhere, 1)), Status::kDataTransferError);
  EXPECT_EQ(Io(DeallocateCommand(0x1001, 1)), Status::kInvalidPrpOffset);
  EXPECT_TRUE(disk().requests().empty());
  EXPECT_EQ(Io(DeallocateCommand(MakeRanges({}), 256)), Status::kSuccess) << "as many as fit";
}

TEST_P(IoTest, ComparesWithTheMedium) {
  FillPattern(Disk(7, 4), 2);
  const uint64_t data = MakeData(2048, 2);
  EXPECT_EQ(Io(IoOpcode::kCompare, 7, 4, data), Status::kSuccess);
  host().At(data + 2047, 1)[0] ^= std::byte{1};
  EXPECT_EQ(Io(IoOpcode::kCompare, 7, 4, data), Status::kCompareFailure);
  EXPECT_EQ(Io(IoOpcode::kCompare, 7, 4, kNowhere), Status::kDataTransferError);
}

TEST_P(IoTest, MemoryThatIsNotThereIsATransferErrorAndNothingIsWritten) {
  FillPattern(disk().data(), 5);
  const std::vector<std::byte> before(disk().data().begin(), disk().data().end());
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, 1, kNowhere), Status::kDataTransferError);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 1, kNowhere), Status::kDataTransferError);
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, 16, kRamSize - 4096, kRamSize), Status::kDataTransferError)
      << "the second page";
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, 8, ~uint64_t{0} - 4095, 0), Status::kDataTransferError);
  EXPECT_TRUE(std::ranges::equal(disk().data(), before));
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
}

TEST_P(IoTest, ReadOnlyMemoryCannotBeReadInto) {
  host().AddMemory(kNowhere, 4096, /*writable=*/false);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 1, kNowhere), Status::kDataTransferError);
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, 1, kNowhere), Status::kSuccess);
}

// CVE-2021-3929: a transfer into the controller's own registers must not reset it.
TEST_P(IoTest, TransfersToItsOwnBarsAreTransferErrors) {
  FillPattern(disk().data(), 0x40);
  for (const uint64_t bar : {Driver::kBar0, Driver::kBar4}) {
    for (const uint64_t offset : {0x0u, 0x14u, 0x1000u}) {
      EXPECT_EQ(Io(IoOpcode::kRead, 0, 1, bar + offset), Status::kDataTransferError);
      EXPECT_EQ(Io(IoOpcode::kWrite, 0, 1, bar + offset), Status::kDataTransferError);
    }
  }
  const uint64_t list = driver().Allocate(4096);
  host().Poke(list, Driver::kBar0);
  host().Poke(list + 8, list);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 24, list, list), Status::kDataTransferError) << "in a list";
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 24, list, Driver::kBar0), Status::kDataTransferError)
      << "as the list";
  EXPECT_EQ(driver().RunStatus(0, IdentifyCommand(Cns::kController, 0, Driver::kBar0)),
            Status::kDataTransferError);
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy) << "no reset, and not dead";
  EXPECT_EQ(driver().Get(kIntms), 0u);
}

// FreeBSD D35328: PRP1 = 0 is memory like any other.
TEST_P(IoTest, Prp1MayBeZero) {
  FillPattern(Disk(0, 1), 4);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 1, 0), Status::kSuccess);
  EXPECT_TRUE(IsPattern(host().At(0, 512), 4));
}

TEST_P(IoTest, DiskErrorsHaveTheirStatus) {
  const uint64_t data = MakeData(4096, 1);
  const struct {
    Op op;
    IoOpcode opcode;
    int error;
    Status status;
  } rows[] = {
      {Op::kRead, IoOpcode::kRead, EIO, Status::kUnrecoveredReadError},
      {Op::kRead, IoOpcode::kRead, EFAULT, Status::kDataTransferError},
      {Op::kRead, IoOpcode::kRead, ECANCELED, Status::kAbortRequested},
      {Op::kRead, IoOpcode::kRead, EINVAL, Status::kInternalError},
      {Op::kRead, IoOpcode::kRead, ESTALE, Status::kUnrecoveredReadError},
      {Op::kRead, IoOpcode::kCompare, EIO, Status::kUnrecoveredReadError},
      {Op::kWrite, IoOpcode::kWrite, EIO, Status::kWriteFault},
      {Op::kWrite, IoOpcode::kWrite, ENOSPC, Status::kCapacityExceeded},
      {Op::kWrite, IoOpcode::kWrite, EFAULT, Status::kDataTransferError},
      {Op::kWrite, IoOpcode::kWrite, EPERM, Status::kWriteProtected},
      {Op::kWriteZeroes, IoOpcode::kWriteZeroes, EIO, Status::kWriteFault},
      {Op::kFlush, IoOpcode::kFlush, EIO, Status::kWriteFault},
  };
  for (const auto& row : rows) {
    disk().FailNext(row.op, row.error);
    EXPECT_EQ(Io(row.opcode, 0, 1, data), row.status) << row.error;
  }
  disk().FailNext(Op::kDiscard, EIO);
  EXPECT_EQ(Io(DeallocateCommand(MakeRanges({{0, 1, 0}}), 1)), Status::kWriteFault);
  Sqe zeroes = IoCommand(IoOpcode::kWriteZeroes, 0, 1);
  zeroes.cdw12 |= 1 << 30;
  disk().FailNext(Op::kFlush, EIO);
  EXPECT_EQ(Io(zeroes), Status::kWriteFault) << "the flush that FUA asks for";
}

TEST_P(IoTest, AReadOnlyDiskIsAWriteProtectedNamespace) {
  Start();
  disk().set_read_only(true);
  // What a disk can do is asked once, at the start.
  machine().Replace();
  driver().Probe();
  EnableWithQueue();
  const uint64_t data = MakeData(4096, 1);
  EXPECT_EQ(Io(IoOpcode::kWrite, 0, 1, data), Status::kWriteProtected);
  EXPECT_EQ(Io(IoOpcode::kWriteZeroes, 0, 1), Status::kWriteProtected);
  EXPECT_EQ(Io(DeallocateCommand(MakeRanges({{0, 1, 0}}), 1)), Status::kWriteProtected);
  EXPECT_EQ(Io(IoOpcode::kRead, 0, 1, data), Status::kSuccess);
  EXPECT_EQ(Io(IoOpcode::kFlush, 0, 1), Status::kSuccess);
  EXPECT_EQ(driver().RunStatus(0, IdentifyCommand(Cns::kNamespace, 1, data)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint8_t>(data + 99), 1) << "NSATTR";
}

TEST_P(IoTest, MemoryThatADiskCannotTakeIsCopied) {
  for (const uint32_t alignment : {512u, 4096u}) {
    Start({}, {.request_alignment = 512, .memory_alignment = alignment});
    EnableWithQueue();
    const uint64_t data = driver().Allocate(3 * 4096) + 4;
    FillPattern(host().At(data, 4096), 6);
    EXPECT_EQ(Io(IoOpcode::kWrite, 3, 8, data, data + 4092), Status::kSuccess);
    EXPECT_TRUE(IsPattern(Disk(3, 8), 6));
    EXPECT_EQ(Io(IoOpcode::kCompare, 3, 8, data, data + 4092), Status::kSuccess);
    const uint64_t back = driver().Allocate(3 * 4096) + 8;
    EXPECT_EQ(Io(IoOpcode::kRead, 3, 8, back, back + 4088), Status::kSuccess);
    EXPECT_TRUE(IsPattern(host().At(back, 4096), 6));
  }
}

TEST_P(IoTest, LargerLogicalBlocks) {
  Start({.serial = "test-1", .logical_block_size = 4096}, {.request_alignment = 4096});
  EnableWithQueue();
  const uint64_t data = MakeData(8192, 1);
  EXPECT_EQ(Io(IoOpcode::kWrite, 3, 2, data, data + 4096), Status::kSuccess);
  EXPECT_TRUE(IsPattern(disk().data().subspan(3 * 4096, 8192), 1));
  EXPECT_EQ(Io(IoOpcode::kRead, kDiskSize / 4096, 1, data), Status::kLbaOutOfRange);
  ASSERT_EQ(driver().RunStatus(0, IdentifyCommand(Cns::kNamespace, 1, data)), Status::kSuccess);
  EXPECT_EQ(host().Peek<uint64_t>(data), kDiskSize / 4096);
  EXPECT_EQ(host().Peek<uint32_t>(data + 128), 12u << 16);
}

TEST_P(IoTest, CompletionsComeInTheOrderOfSubmission) {
  const std::vector<uint16_t> cids = SubmitHeldReads(3);
  disk().Release(2);
  Run();
  EXPECT_FALSE(driver().Take(1)) << "the two before it are on their way";
  disk().ReleaseAll();
  Run();
  for (uint16_t i = 0; i < 3; ++i) {
    const auto cqe = driver().Take(1);
    ASSERT_TRUE(cqe) << i;
    EXPECT_EQ(cqe->cid, cids[i]);
    EXPECT_EQ(cqe->sq_head, i + 1);
  }
}

TEST_P(IoTest, ACommandThatWaitsForItsTurnIsCancelledByAReset) {
  SubmitHeldReads(2);
  disk().Release(1);
  Run();
  driver().Set(kCc, 0);
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(driver().Get(kCsts), 0u);
  EXPECT_FALSE(driver().Take(1));
  ASSERT_TRUE(driver().Enable());
}

TEST_P(IoTest, UnorderedCompletionsComeInTheOrderOfTheDisk) {
  Start({.serial = "test-1", .ordered_completions = false});
  EnableWithQueue();
  const std::vector<uint16_t> cids = SubmitHeldReads(3);
  // The disk ends command 2 first, then 0, then 1.
  for (const size_t pick : {2u, 0u, 1u}) {
    EXPECT_FALSE(driver().Take(1));
    disk().Release(pick == 2 ? 2 : 0);
    Run();
    const auto cqe = driver().Take(1);
    ASSERT_TRUE(cqe);
    EXPECT_EQ(cqe->cid, cids[pick]);
    EXPECT_EQ(cqe->sq_head, 3) << "the head never goes back";
  }
}

TEST_P(IoTest, MemoryTakenAwayUnderATransferFailsTheCommandOnly) {
  host().AddMemory(kNowhere, 8192);
  disk().Hold();
  driver().Put(1, IoCommand(IoOpcode::kRead, 0, 1, kNowhere));
  driver().Put(1, IoCommand(IoOpcode::kWrite, 0, 1, kNowhere));
  driver().Ring(1);
  Run();
  host().RemoveMemory(kNowhere);
  controller().OnDmaChanged();
  disk().ReleaseAll();
  Run();
  const auto read = driver().Take(1);
  const auto write = driver().Take(1);
  ASSERT_TRUE(read && write);
  // By message the write's data was here already when its window went.
  const bool by_fd = GetParam() == DmaMode::kByFd;
  const auto status_of = [&](IoOpcode opcode) {
    return StatusOf((read->cid < write->cid) == (opcode == IoOpcode::kRead) ? *read : *write);
  };
  EXPECT_EQ(status_of(IoOpcode::kRead), Status::kDataTransferError);
  EXPECT_EQ(status_of(IoOpcode::kWrite), by_fd ? Status::kDataTransferError : Status::kSuccess);
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
}

INSTANTIATE_DMA_MODES(IoTest);

}  // namespace
}  // namespace farside::nvme
