#include "devices/scsi/cd.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

class CdTest : public UnitTest {
 protected:
  void SetUp() override { StartCd(); }

  static Data Ten(int opcode, int flags, int byte2, int byte6, int allocation) {
    return Raw({opcode, flags, byte2, 0, 0, 0, byte6, allocation >> 8, allocation & 0xff, 0});
  }
  static Data StartStop(int flags) { return Raw({0x1b, 0, 0, 0, flags, 0}); }
  static constexpr int kEject = 2;
  static constexpr int kLoad = 3;
  Data MediaEvent() { return Good(Raw({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0})); }
  static Data TestUnitReady() { return Raw({0, 0, 0, 0, 0, 0}); }
  static constexpr KeyAndCode kNoMedium{SenseKey::kNotReady, asc::kMediumNotPresentTrayOpen};
};

TEST_P(CdTest, IsARemovableCdDrive) {
  const Data data = Good(Raw({0x12, 0, 0, 0, 36, 0}));
  EXPECT_EQ(At(data, 0), 5);
  EXPECT_EQ(At(data, 1), 0x80);
  EXPECT_EQ(Good(Raw({0x12, 1, 0, 0, 36, 0})), Raw({5, 0, 0, 2, 0, 0x83}));
}

TEST_P(CdTest, ReadsBlocksOf2048Bytes) {
  EXPECT_EQ(Good(Cdb(Opcode::kReadCapacity10, 0, 0)), Raw({0, 0, 1, 0xff, 0, 0, 8, 0}));
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead10, 16, 2)), Blocks(16, 2, 2048)));
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead12, 400, 112)), Blocks(400, 112, 2048)));
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 511, 2)), Illegal(asc::kLbaOutOfRange));
  EXPECT_EQ(Bad(Cdb(Opcode::kRead12, UINT32_MAX, UINT32_MAX)), Illegal(asc::kLbaOutOfRange));
  EXPECT_EQ(Bad(Cdb(Opcode::kWrite10, 0, 1)), Illegal(asc::kInvalidOpcode));
  disk().FailNext(Op::kRead, EIO);
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 7, 1)),
            KeyAndCode(SenseKey::kMediumError, asc::kUnrecoveredReadError));
  EXPECT_EQ(BeAt<uint32_t>(last_sense_, 3), 7u);
}

TEST_P(CdTest, HasATableOfContents) {
  EXPECT_EQ(Good(Ten(0x43, 0, 0, 0, 255)), Raw({0, 18,   1,    1,                 //
                                                0, 0x14, 1,    0, 0, 0, 0, 0,     //
                                                0, 0x14, 0xaa, 0, 0, 0, 2, 0}));  // 512 blocks.
  EXPECT_EQ(Good(Ten(0x43, 2, 0, 0xaa, 255)), Raw({0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 8, 62}))
      << "512 + 150 blocks, as MSF";
  EXPECT_EQ(Good(Ten(0x43, 0, 1, 0, 255)), Raw({0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0}));
  EXPECT_EQ(Good(Ten(0x43, 0, 0, 0, 4)), Raw({0, 18, 1, 1})) << "as Linux asks first";
  EXPECT_EQ(Bad(Ten(0x43, 0, 0, 2, 255)), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Ten(0x43, 0, 2, 0, 255)), Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(CdTest, TellsItsCapabilities) {
  const Data data = Good(Raw({0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128, 0}));
  EXPECT_EQ(BeAt<uint16_t>(data, 0), data.size() - 2);
  EXPECT_EQ(BeAt<uint16_t>(data, 6), 0) << "no block descriptor";
  EXPECT_EQ(At(data, 8), 0x2a);
  EXPECT_EQ(At(data, 8 + 3), 0) << "it writes nothing";
  EXPECT_EQ(At(data, 8 + 6), 0x29);
  const Data all = Good(Raw({0x1a, 0, 0x3f, 0, 255, 0}));
  EXPECT_EQ(all.size(), 4u + 12 + 24);
  // A block size, where a unit has no descriptor: CVE-2023-42467.
  const Data list = Raw({0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0});
  EXPECT_EQ(Bad(Raw({0x15, 0x10, 0, 0, 12, 0}), list), Illegal(asc::kInvalidFieldInParameterList));
}

TEST_P(CdTest, TellsItsConfiguration) {
  const Data all = Good(Ten(0x46, 0, 0, 0, 255));
  EXPECT_EQ(BeAt<uint32_t>(all, 0), all.size() - 4);
  EXPECT_EQ(BeAt<uint16_t>(all, 6), 0x0008) << "a CD-ROM";
  std::vector<int> features;
  for (size_t at = 8; at < all.size(); at += 4u + At(all, at + 3)) {
    features.push_back(BeAt<uint16_t>(all, at));
  }
  EXPECT_EQ(features, (std::vector<int>{0, 1, 3, 0x10, 0x1e, 0x1f}));
  EXPECT_EQ(Good(Raw({0x46, 2, 0, 0x1e, 0, 0, 0, 0, 255, 0})).size(), 8u + 8) << "one of them";
  EXPECT_EQ(Good(Raw({0x46, 2, 0x40, 0, 0, 0, 0, 0, 255, 0})).size(), 8u) << "none";
  const Data current = Good(Raw({0x46, 1, 0, 0x10, 0, 0, 0, 0, 255, 0}));
  EXPECT_EQ(current.size(), 8u + 12 + 8);
  EXPECT_EQ(Bad(Ten(0x46, 3, 0, 0, 255)), Illegal(asc::kInvalidFieldInCdb));
}

// A drive of any size that nobody reads.
class HugeDrive final : public block::BlockDevice {
 public:
  explicit HugeDrive(uint64_t size) : size_(size) {}
  uint64_t size() const override { return size_; }
  bool read_only() const override { return true; }
  block::BlockLimits limits() const override { return {}; }
  Task<block::IoStatus> Read(uint64_t, std::span<const iovec>) override { co_return Unused(); }
  Task<block::IoStatus> Write(uint64_t, std::span<const iovec>, bool) override {
    co_return Unused();
  }
  Task<block::IoStatus> Flush() override { co_return Unused(); }
  Task<block::IoStatus> WriteZeroes(uint64_t, uint64_t, bool) override { co_return Unused(); }
  Task<block::IoStatus> Discard(uint64_t, uint64_t) override { co_return Unused(); }
  uint32_t in_flight() const override { return 0; }

 private:
  static block::IoStatus Unused() { return {EIO}; }
  const uint64_t size_;
};

TEST_P(CdTest, ADiscTooLargeForACdIsADvd) {
  HugeDrive drive(uint64_t{2048} * 400'000);
  auto made = Cd::Create({.drive = &drive});
  ASSERT_TRUE(made);
  ASSERT_TRUE(bus().Attach(1, 0, std::move(*made)));
  const auto outcome = initiator_->Run({.target = 1}, Ten(0x46, 0, 0, 0, 255));
  EXPECT_EQ(BeAt<uint16_t>(outcome.in, 6), 0x0010);
}

// What READ CAPACITY(10), INFORMATION and MSF addresses have no room for.
TEST_P(CdTest, SaysTheMostOfADriveThatIsLarger) {
  HugeDrive drive(uint64_t{512} << 33);
  auto disk = Disk::Create({.drive = &drive});
  ASSERT_TRUE(disk);
  ASSERT_TRUE(bus().Attach(1, 0, std::move(*disk)));
  auto cd = Cd::Create({.drive = &drive});
  ASSERT_TRUE(cd);
  ASSERT_TRUE(bus().Attach(1, 1, std::move(*cd)));
  const Nexus on_disk{.target = 1};
  const Nexus on_cd{.target = 1, .lun = 1};
  for (const Nexus& nexus : {on_disk, on_cd}) {  // The unit attentions.
    EXPECT_EQ(initiator_->Run(nexus, TestUnitReady()).status, Status::kCheckCondition);
  }
  const auto capacity = initiator_->Run(on_disk, Cdb(Opcode::kReadCapacity10, 0, 0));
  EXPECT_EQ(BeAt<uint32_t>(capacity.in, 0), UINT32_MAX);
  const auto modes = initiator_->Run(on_disk, Raw({0x1a, 0, 8, 0, 255, 0}));
  EXPECT_EQ(BeAt<uint32_t>(modes.in, 4), UINT32_MAX);
  constexpr uint64_t kLba = (uint64_t{1} << 33) - 2;
  const Data read = Cdb(Opcode::kRead16, kLba, 1);
  EXPECT_EQ(initiator_->Run(on_disk, read).status, Status::kCheckCondition);
  EXPECT_EQ(At(initiator_->Run(on_disk, Raw({3, 0, 0, 0, 252, 0})).in, 0), 0x70) << "not valid";
  EXPECT_EQ(initiator_->Run(on_disk, read).status, Status::kCheckCondition);
  const auto sense = initiator_->Run(on_disk, Raw({3, 1, 0, 0, 252, 0}));
  EXPECT_EQ(At(sense.in, 1), 3);
  EXPECT_EQ(BeAt<uint64_t>(sense.in, 12), kLba);
  const auto toc = initiator_->Run(on_cd, Ten(0x43, 2, 0, 0xaa, 255));
  EXPECT_EQ(BeAt<uint32_t>(toc.in, 8), 0x00ff'3b4au);
}

TEST_P(CdTest, TellsOfItsDisc) {
  const Data data = Good(Ten(0x51, 0, 0, 0, 255));
  EXPECT_EQ(data.size(), 34u);
  EXPECT_EQ(BeAt<uint16_t>(data, 0), 32);
  EXPECT_EQ(At(data, 2), 0x0e);
  EXPECT_EQ(Good(Ten(0x51, 0, 0, 0, 2)).size(), 2u);
  EXPECT_EQ(Bad(Ten(0x51, 1, 0, 0, 255)), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Good(Cdb(Opcode::kMechanismStatus, 0, 8u << 8)).size(), 8u);
}

TEST_P(CdTest, EjectsAndLoads) {
  EXPECT_EQ(MediaEvent(), Raw({0, 6, 4, 0x10, 0, 2, 0, 0}));
  Good(StartStop(kEject));
  EXPECT_EQ(Bad(TestUnitReady()), kNoMedium);
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 0, 1)), kNoMedium);
  EXPECT_EQ(Bad(Cdb(Opcode::kReadCapacity10, 0, 0)), kNoMedium);
  EXPECT_EQ(Bad(StartStop(1)), kNoMedium);
  EXPECT_EQ(MediaEvent(), Raw({0, 6, 4, 0x10, 3, 1, 0, 0}));
  EXPECT_EQ(MediaEvent(), Raw({0, 6, 4, 0x10, 0, 1, 0, 0})) << "an event is told once";
  EXPECT_EQ(BeAt<uint16_t>(Good(Ten(0x46, 0, 0, 0, 255)), 6), 0) << "no current profile";
  EXPECT_EQ(At(Good(Cdb(Opcode::kMechanismStatus, 0, 8u << 8)), 1), 0x10) << "door open";
  Good(StartStop(kEject));
  Good(StartStop(kLoad));
  EXPECT_EQ(MediaEvent(), Raw({0, 6, 4, 0x10, 2, 2, 0, 0})) << "no unit attention stops this";
  EXPECT_EQ(Bad(TestUnitReady()), KeyAndCode(SenseKey::kUnitAttention, asc::kMediumMayHaveChanged));
  Good(TestUnitReady());
}

TEST_P(CdTest, PreventsRemoval) {
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  EXPECT_EQ(Bad(StartStop(kEject)), Illegal(asc::kMediumRemovalPrevented));
  Good(TestUnitReady());
  EXPECT_EQ(At(Good(Raw({0x1a, 0, 0x2a, 0, 255, 0})), 4 + 6), 0x2b) << "locked";
  Good(Raw({0x1e, 0, 0, 0, 0, 0}));
  Good(StartStop(kEject));
  Good(StartStop(kLoad));
  SenseNow();
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  bus().ResetTarget(0);
  SenseNow();
  Good(StartStop(kEject));
}

TEST_P(CdTest, OnlyMediaEventsArePolled) {
  EXPECT_EQ(Good(Raw({0x4a, 1, 0, 0, 0x40, 0, 0, 0, 8, 0})), Raw({0, 2, 0x80, 0x10}));
  EXPECT_EQ(Bad(Raw({0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8, 0})), Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(CdTest, KeepsItsTrayAndLockOverAMigration) {
  Good(StartStop(kEject));
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  const auto state = initiator_->Save();
  Replace();
  ASSERT_TRUE(initiator_->Load(state));
  EXPECT_EQ(Bad(TestUnitReady()), kNoMedium);
  EXPECT_EQ(MediaEvent(), Raw({0, 6, 4, 0x10, 3, 1, 0, 0}));
  EXPECT_EQ(At(Good(Raw({0x1a, 0, 0x2a, 0, 255, 0})), 4 + 6), 0x2b);
  Good(StartStop(kLoad));
  SenseNow();
  EXPECT_EQ(Bad(StartStop(kEject)), Illegal(asc::kMediumRemovalPrevented));
}

INSTANTIATE_PIECES(CdTest);

}  // namespace
}  // namespace farside::scsi
