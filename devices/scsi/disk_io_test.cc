// The disk's commands that read, write and verify.
#include <gtest/gtest.h>

#include <cerrno>

#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

constexpr uint64_t kBlocks = 2048;  // Of the disk.
constexpr uint8_t kFua = 0x08;
constexpr uint8_t kUnmapBit = 0x08;
constexpr size_t kChunkBlocks = 256;  // 128 KiB.

class DiskIoTest : public UnitTest {
 protected:
  void SetUp() override {
    StartDisk();
    disk().ForgetRequests();
  }
  void CacheOff() {
    Data list = Raw({0, 0, 0, 0, 8, 18});
    list.resize(24);
    Good(Raw({0x15, 0x10, 0, 0, 24, 0}), list);
    disk().ForgetRequests();
  }
  static Data UnmapList(std::initializer_list<BlockRange> ranges) {
    Data list(8 + ranges.size() * 16);
    DataWriter writer(list);
    writer.Put(static_cast<uint16_t>(list.size() - 2)).Put(static_cast<uint16_t>(list.size() - 8));
    writer.PutZeroes(4);
    for (const BlockRange& range : ranges) {
      writer.Put(range.lba).Put(static_cast<uint32_t>(range.count)).PutZeroes(4);
    }
    return list;
  }
  static Data Unmap(size_t size, uint8_t flags = 0) { return Cdb(Opcode::kUnmap, 0, size, flags); }
};

TEST_P(DiskIoTest, ReadsWithEveryCdb) {
  for (const Opcode opcode : {Opcode::kRead6, Opcode::kRead10, Opcode::kRead12, Opcode::kRead16}) {
    EXPECT_TRUE(Same(Good(Cdb(opcode, 5, 3)), Blocks(5, 3)));
    EXPECT_TRUE(Same(Good(Cdb(opcode, kBlocks - 1, 1)), Blocks(kBlocks - 1, 1)));
  }
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead6, 1, 0)), Blocks(1, 256))) << "0 is 256";
  EXPECT_EQ(Good(Cdb(Opcode::kRead10, 1, 0)).size(), 0u);
}

TEST_P(DiskIoTest, WritesWithEveryCdb) {
  uint8_t seed = 50;
  for (const Opcode opcode :
       {Opcode::kWrite6, Opcode::kWrite10, Opcode::kWrite12, Opcode::kWrite16,
        Opcode::kWriteAndVerify10, Opcode::kWriteAndVerify12, Opcode::kWriteAndVerify16}) {
    const Data data = PatternOf(3 * 512, seed++);
    Good(Cdb(opcode, 9, 3), data);
    EXPECT_TRUE(Same(Blocks(9, 3), data));
  }
  const Data many = PatternOf(256 * 512, 99);
  EXPECT_EQ(Run(Cdb(Opcode::kWrite6, 7, 0), many).out, many.size());
  EXPECT_TRUE(Same(Blocks(7, 256), many));
}

TEST_P(DiskIoTest, HasAtMostOneChunkInMemory) {
  const Data data = PatternOf(600 * 512, 31);
  Good(Cdb(Opcode::kWrite10, 10, 600), data);
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead16, 10, 600)), data));
  ASSERT_EQ(disk().requests().size(), 6u);
  for (const auto& request : disk().requests()) EXPECT_LE(request.size, kChunkBlocks * 512);
}

TEST_P(DiskIoTest, RefusesWhatIsNotOnTheMedium) {
  const KeyAndCode out_of_range = Illegal(asc::kLbaOutOfRange);
  for (const Opcode opcode :
       {Opcode::kRead6, Opcode::kRead10, Opcode::kRead12, Opcode::kRead16, Opcode::kWrite6,
        Opcode::kWrite10, Opcode::kWrite12, Opcode::kWrite16, Opcode::kVerify10, Opcode::kVerify12,
        Opcode::kVerify16, Opcode::kWriteSame10, Opcode::kWriteSame16, Opcode::kSynchronizeCache10,
        Opcode::kSynchronizeCache16}) {
    EXPECT_EQ(Bad(Cdb(opcode, kBlocks - 1, 2)), out_of_range);
    EXPECT_EQ(Bad(Cdb(opcode, 0x1f'ffff, 1)), out_of_range);
    const size_t size = CdbSize(static_cast<uint8_t>(opcode));
    if (size >= 10) {
      EXPECT_EQ(Bad(Cdb(opcode, UINT32_MAX, 0xffff)), out_of_range);
    }
    if (size < 16) continue;
    // Sums and products that do not fit 64 bits.
    EXPECT_EQ(Bad(Cdb(opcode, UINT64_MAX, UINT32_MAX)), out_of_range);
    EXPECT_EQ(Bad(Cdb(opcode, UINT64_MAX, 2)), out_of_range);
    EXPECT_EQ(Bad(Cdb(opcode, uint64_t{1} << 55, 1)), out_of_range);
  }
  EXPECT_EQ(Bad(Cdb(Opcode::kSeek10, kBlocks, 0)), out_of_range);
  Good(Cdb(Opcode::kSeek10, kBlocks - 1, 0));
  EXPECT_TRUE(disk().requests().empty());
}

TEST_P(DiskIoTest, RefusesProtectionInformation) {
  for (const Opcode opcode : {Opcode::kRead10, Opcode::kRead16, Opcode::kWrite10, Opcode::kWrite16,
                              Opcode::kVerify10, Opcode::kWriteSame16}) {
    EXPECT_EQ(Bad(Cdb(opcode, 0, 1, 0x20)), Illegal(asc::kInvalidFieldInCdb));
  }
}

TEST_P(DiskIoTest, WritesThroughWithFuaOrWithoutTheCache) {
  const auto flag_of = [&](const Data& cdb) {
    disk().ForgetRequests();
    Good(cdb);
    return disk().requests().at(0).flag;
  };
  EXPECT_FALSE(flag_of(Cdb(Opcode::kWrite10, 0, 1)));
  EXPECT_TRUE(flag_of(Cdb(Opcode::kWrite10, 0, 1, kFua)));
  EXPECT_TRUE(flag_of(Cdb(Opcode::kWrite16, 0, 1, kFua)));
  EXPECT_FALSE(flag_of(Cdb(Opcode::kWrite6, 0x0f'ffff & 1, 1)));
  CacheOff();
  EXPECT_TRUE(flag_of(Cdb(Opcode::kWrite6, 0, 1)));
  EXPECT_TRUE(flag_of(Cdb(Opcode::kWrite12, 0, 1)));
}

TEST_P(DiskIoTest, SwitchingTheCacheOffEmptiesIt) {
  Data list = Raw({0, 0, 0, 0, 8, 18});
  list.resize(24);
  Good(Raw({0x15, 0x10, 0, 0, 24, 0}), list);
  EXPECT_EQ(disk().requests(), (Requests{{.op = Op::kFlush}}));
}

TEST_P(DiskIoTest, SynchronizesTheCache) {
  Good(Cdb(Opcode::kSynchronizeCache10, 0, 0));
  Good(Cdb(Opcode::kSynchronizeCache16, 3, 5, 0x02));
  EXPECT_EQ(disk().requests(), (Requests{{.op = Op::kFlush}, {.op = Op::kFlush}}));
  disk().FailNext(Op::kFlush, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kSynchronizeCache10, 0, 0)),
            KeyAndCode(SenseKey::kMediumError, asc::kWriteError));
}

TEST_P(DiskIoTest, ReportsMediumErrors) {
  disk().FailNext(Op::kRead, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 77, 2)),
            KeyAndCode(SenseKey::kMediumError, asc::kUnrecoveredReadError));
  EXPECT_EQ(At(last_sense_, 0), 0xf0);
  EXPECT_EQ(BeAt<uint32_t>(last_sense_, 3), 77u);
  disk().FailNext(Op::kWrite, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kWrite10, 78, 2)),
            KeyAndCode(SenseKey::kMediumError, asc::kWriteError));
  EXPECT_EQ(BeAt<uint32_t>(last_sense_, 3), 78u);
  disk().FailNext(Op::kWrite, ENOSPC);
  EXPECT_EQ(Bad(Cdb(Opcode::kWrite10, 0, 2)),
            KeyAndCode(SenseKey::kDataProtect, asc::kSpaceAllocationFailed));
  disk().FailNext(Op::kWrite, ECANCELED);
  EXPECT_EQ(Bad(Cdb(Opcode::kWrite10, 0, 2)), KeyAndCode(SenseKey::kAbortedCommand, asc::kNone));
  disk().FailNext(Op::kRead, EINVAL);
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 0, 2)),
            KeyAndCode(SenseKey::kHardwareError, asc::kInternalTargetFailure));
  disk().FailNext(Op::kDiscard, EIO);
  const Data list = UnmapList({{0, 8}});
  EXPECT_EQ(Bad(Unmap(list.size()), list).first, SenseKey::kMediumError);
  disk().FailNext(Op::kWriteZeroes, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kWriteSame10, 0, 8)).first, SenseKey::kMediumError);
}

TEST_P(DiskIoTest, ProtectsAReadOnlyMedium) {
  disk().set_read_only(true);
  const KeyAndCode write_protected(SenseKey::kDataProtect, asc::kWriteProtected);
  for (const Opcode opcode :
       {Opcode::kWrite6, Opcode::kWrite10, Opcode::kWrite12, Opcode::kWrite16,
        Opcode::kWriteAndVerify10, Opcode::kWriteAndVerify12, Opcode::kWriteAndVerify16,
        Opcode::kWriteSame10, Opcode::kWriteSame16}) {
    EXPECT_EQ(Bad(Cdb(opcode, 0, 1)), write_protected);
  }
  EXPECT_EQ(Bad(Unmap(8)), write_protected);
  EXPECT_EQ(Good(Cdb(Opcode::kRead10, 0, 1)).size(), 512u);
  EXPECT_EQ(At(Good(Raw({0x1a, 8, 8, 0, 255, 0})), 2), 0x90) << "WP, DPOFUA";
}

TEST_P(DiskIoTest, Verifies) {
  Good(Cdb(Opcode::kVerify10, 0, 600));
  ASSERT_EQ(disk().requests().size(), 3u);
  EXPECT_EQ(disk().requests()[1].op, Op::kRead);
  disk().FailNext(Op::kRead, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kVerify16, 5, 1)),
            KeyAndCode(SenseKey::kMediumError, asc::kUnrecoveredReadError));
  Data data(Blocks(5, 300).begin(), Blocks(5, 300).end());
  for (const Opcode opcode : {Opcode::kVerify10, Opcode::kVerify12, Opcode::kVerify16}) {
    EXPECT_EQ(Run(Cdb(opcode, 5, 300, 0x02), data).out, data.size());
    data[290 * 512 + 7] ^= std::byte{1};
    EXPECT_EQ(Bad(Cdb(opcode, 5, 300, 0x02), data),
              KeyAndCode(SenseKey::kMiscompare, asc::kMiscompareDuringVerify));
    EXPECT_EQ(BeAt<uint32_t>(last_sense_, 3), 295u);
    data[290 * 512 + 7] ^= std::byte{1};
    EXPECT_EQ(Bad(Cdb(opcode, 5, 1, 0x06), data), Illegal(asc::kInvalidFieldInCdb));
    EXPECT_EQ(Run(Cdb(opcode, 5, 0, 0x02)).status, Status::kGood);
  }
}

TEST_P(DiskIoTest, WritesAndVerifies) {
  const Data data = PatternOf(300 * 512, 8);
  Good(Cdb(Opcode::kWriteAndVerify10, 5, 300, 0x02), data);
  EXPECT_TRUE(Same(Blocks(5, 300), data));
  ASSERT_EQ(disk().requests().size(), 4u);
  EXPECT_TRUE(disk().requests()[0].flag) << "what is verified is on the medium";
  EXPECT_EQ(disk().requests()[1].op, Op::kRead);
}

TEST_P(DiskIoTest, Unmaps) {
  const Data list = UnmapList({{8, 8}, {100, 0}, {64, 16}});
  Good(Unmap(list.size()), list);
  EXPECT_EQ(disk().requests(), (Requests{{.op = Op::kDiscard, .offset = 8 * 512, .size = 8 * 512},
                                         {.op = Op::kDiscard, .offset = 64 * 512, .size = 8192}}));
  disk().ForgetRequests();
  Good(Unmap(0));
  Good(Unmap(8), UnmapList({}));
  EXPECT_EQ(Bad(Unmap(7), list), Illegal(asc::kParameterListLength));
  EXPECT_EQ(Bad(Unmap(8, 1)), Illegal(asc::kInvalidFieldInCdb)) << "ANCHOR";
  const Data beyond = UnmapList({{8, 8}, {kBlocks - 1, 2}});
  EXPECT_EQ(Bad(Unmap(beyond.size()), beyond), Illegal(asc::kLbaOutOfRange));
  const Data wraps = UnmapList({{UINT64_MAX, 2}});
  EXPECT_EQ(Bad(Unmap(wraps.size()), wraps), Illegal(asc::kLbaOutOfRange));
  EXPECT_TRUE(disk().requests().empty());
  // A length that promises more descriptors than came.
  Data cut = UnmapList({{8, 8}, {64, 8}});
  cut.resize(8 + 16 + 5);
  Good(Unmap(cut.size()), cut);
  EXPECT_EQ(disk().requests().size(), 1u);
}

TEST_P(DiskIoTest, UnmapsNoMoreThanItSays) {
  Data list(8 + 256 * 16);
  StoreBe(Bytes(list).subspan(2), static_cast<uint16_t>(256 * 16));
  EXPECT_EQ(Bad(Unmap(list.size()), list), Illegal(asc::kInvalidFieldInParameterList));
  StoreBe(Bytes(list).subspan(2), static_cast<uint16_t>(255 * 16));
  Good(Unmap(list.size()), list);
  StartDisk({}, {.request_alignment = 512});
  EXPECT_EQ(Bad(Unmap(8)), Illegal(asc::kInvalidOpcode)) << "not provisioned";
}

TEST_P(DiskIoTest, WritesTheSame) {
  const Data block = PatternOf(512, 17);
  EXPECT_EQ(Run(Cdb(Opcode::kWriteSame10, 3, 600), block).out, 512u);
  for (uint64_t i = 3; i < 603; ++i) ASSERT_TRUE(Same(Blocks(i, 1), block)) << i;
  EXPECT_TRUE(Same(Blocks(603, 1), ConstBytes(PatternOf(1 << 20, 1)).subspan(603 * 512, 512)));
  disk().ForgetRequests();
  Good(Cdb(Opcode::kWriteSame16, 3, 600, kUnmapBit));
  EXPECT_EQ(
      disk().requests(),
      (Requests{{.op = Op::kWriteZeroes, .offset = 3 * 512, .size = 600 * 512, .flag = true}}));
  disk().ForgetRequests();
  EXPECT_EQ(Run(Cdb(Opcode::kWriteSame16, 0, 1, 0x01)).out, 0u) << "NDOB";
  EXPECT_EQ(disk().requests(), (Requests{{.op = Op::kWriteZeroes, .size = 512}}));
  EXPECT_EQ(Bad(Cdb(Opcode::kWriteSame16, 0, 0)), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Cdb(Opcode::kWriteSame16, 0, 1, 0x10)), Illegal(asc::kInvalidFieldInCdb));
  CacheOff();
  Good(Cdb(Opcode::kWriteSame10, 3, 1));
  EXPECT_EQ(disk().requests().back().op, Op::kFlush);
}

TEST_P(DiskIoTest, HasBlocksOf4096Bytes) {
  StartDisk({.logical_block_size = 4096, .physical_block_size = 4096});
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead10, 3, 40)), Blocks(3, 40, 4096)));
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 255, 2)), Illegal(asc::kLbaOutOfRange));
}

TEST_P(DiskIoTest, AbortsDuringBlockIoAndData) {
  for (const Opcode opcode : {Opcode::kRead10, Opcode::kWrite10, Opcode::kVerify10,
                              Opcode::kWriteAndVerify10, Opcode::kWriteSame10}) {
    const uint8_t flags = opcode == Opcode::kVerify10 ? 0x02 : 0;
    disk().Hold();
    for (int step = 0; step < 6; ++step) {
      const auto request = bus().Start(kNexus, Cdb(opcode, 0, 600, flags));
      for (int i = 0; i < step; ++i) {
        loop_.RunUntilIdle();
        if (request->phase() == Phase::kDataIn) {
          request->TakeIn(request->data_in().size());
        } else if (request->phase() == Phase::kDataOut) {
          request->PutOut(request->data_out().size());
        } else {
          disk().ReleaseOne();
        }
      }
      bus().AbortTaskSet(0, 0);
      disk().ReleaseAll();
      EXPECT_TRUE(initiator_->Drain());
      EXPECT_TRUE(request->aborted());
      EXPECT_EQ(bus().running(), 0u);
      disk().Hold();
    }
    disk().ReleaseAll();
  }
  EXPECT_EQ(Good(Cdb(Opcode::kRead10, 0, 1)).size(), 512u);
}

// Migrates at each place where a command waits for data, with the cut inside of a chunk, too.
TEST_P(DiskIoTest, GoesOnAfterAMigration) {
  const Data data = PatternOf(600 * 512, 77);
  for (const size_t cut : {0u, 1u, 512u, 131'072u, 131'073u, 200'000u, 262'144u, 307'199u}) {
    for (const Opcode opcode :
         {Opcode::kRead10, Opcode::kWrite10, Opcode::kWriteAndVerify10, Opcode::kVerify10}) {
      if (opcode == Opcode::kVerify10 || opcode == Opcode::kRead10) {
        Copy(disk().data().subspan(512, data.size()), data);
      } else {
        Fill(disk().data(), 0);
      }
      const auto request =
          bus().Start(kNexus, Cdb(opcode, 1, 600, opcode == Opcode::kRead10 ? 0 : 2));
      Data in;
      for (size_t moved = 0; moved < cut;) {
        loop_.RunUntilIdle();
        if (request->phase() == Phase::kDataIn) {
          const size_t size = std::min(request->data_in().size(), cut - moved);
          in.insert(in.end(), request->data_in().begin(),
                    request->data_in().begin() + static_cast<ptrdiff_t>(size));
          request->TakeIn(size);
          moved += size;
        } else {
          ASSERT_EQ(request->phase(), Phase::kDataOut);
          const size_t size = std::min(request->data_out().size(), cut - moved);
          Copy(request->data_out().first(size), ConstBytes(data).subspan(moved, size));
          request->PutOut(size);
          moved += size;
        }
      }
      ASSERT_TRUE(initiator_->Drain());
      const auto state = initiator_->Save();
      Replace();
      ASSERT_TRUE(initiator_->Load(state));
      disk().ForgetRequests();
      const auto outcome = initiator_->Finish(*bus().Find(kNexus), ConstBytes(data).subspan(cut));
      EXPECT_EQ(outcome.status, Status::kGood) << static_cast<int>(opcode) << " at " << cut;
      in.insert(in.end(), outcome.in.begin(), outcome.in.end());
      EXPECT_TRUE(opcode == Opcode::kRead10 ? Same(in, data) : outcome.out == data.size() - cut);
      EXPECT_TRUE(Same(Blocks(1, 600), data)) << static_cast<int>(opcode) << " at " << cut;
      // Chunks that were done are not done again.
      for (const auto& io : disk().requests()) {
        EXPECT_GE(io.offset, 512 + cut / 131'072 * 131'072);
      }
    }
  }
}

INSTANTIATE_PIECES(DiskIoTest);

}  // namespace
}  // namespace farside::scsi
