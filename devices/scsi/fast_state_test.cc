// Going back by a copy of the state, as a fuzzer does between two inputs.
#include <gtest/gtest.h>

#include <cerrno>

#include "devices/core/fast_state.h"
#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

class FastStateTest : public UnitTest {
 protected:
  void Mark() {
    ASSERT_TRUE(initiator_->Drain());
    state_ = initiator_->Save();
    fast_ = initiator_->SaveFast();
  }
  void GoBack() {
    initiator_->Clear();
    initiator_->LoadFast(fast_);
    EXPECT_EQ(initiator_->Save(), state_);
  }
  static Data TestUnitReady() { return Raw({0, 0, 0, 0, 0, 0}); }
  static Data StartStop(int flags) { return Raw({0x1b, 0, 0, 0, flags, 0}); }
  static Nexus Tagged(uint8_t tag, TaskAttribute attribute = TaskAttribute::kSimple) {
    return {.target = 0, .tag = tag, .attribute = attribute};
  }
  // Byte 2 of the caching page.
  void SetCaching(int wce) {
    const Data list =
        Raw({0, 0, 0, 0, 8, 18, wce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    Good(Raw({0x15, 0x10, 0, 0, 24, 0}), list);
  }
  uint8_t Caching() { return At(Good(Raw({0x1a, 8, 0x08, 0, 255, 0})), 6); }

  FastState fast_;
  std::vector<std::byte> state_;
};
INSTANTIATE_PIECES(FastStateTest);

TEST_P(FastStateTest, BackAtAFreshDisk) {
  StartDisk();
  Mark();
  for (int input = 0; input < 3; ++input) {
    SetCaching(0);
    Good(StartStop(0));
    EXPECT_EQ(Run(TestUnitReady()).status, Status::kCheckCondition);
    (void)bus().Start(Tagged(1), Cdb(Opcode::kRead10, 0, 3));
    GoBack();
  }
  EXPECT_EQ(Caching(), kCachingWce);
  EXPECT_TRUE(Same(Good(Cdb(Opcode::kRead10, 4, 2)), Blocks(4, 2)));
}

TEST_P(FastStateTest, BackAtADiskThatOwesSense) {
  StartDisk();
  SetCaching(0);
  disk().FailNext(Op::kRead, EIO);
  EXPECT_EQ(Run(Cdb(Opcode::kRead10, 7, 1)).status, Status::kCheckCondition);
  Mark();
  for (int input = 0; input < 2; ++input) {
    EXPECT_EQ(SenseNow(), KeyAndCode(SenseKey::kMediumError, asc::kUnrecoveredReadError));
    EXPECT_EQ(BeAt<uint32_t>(last_sense_, 3), 7u);
    EXPECT_EQ(Caching(), 0);
    SetCaching(kCachingWce);
    GoBack();
  }
  EXPECT_EQ(SenseNow(), KeyAndCode(SenseKey::kMediumError, asc::kUnrecoveredReadError));
}

TEST_P(FastStateTest, BackAtADiskThatIsStopped) {
  StartDisk();
  Good(StartStop(0));
  Mark();
  Good(StartStop(1));
  GoBack();
  EXPECT_EQ(Bad(TestUnitReady()).second, asc::kInitializingCommandRequired);
}

TEST_P(FastStateTest, BackInTheMiddleOfTransfers) {
  StartDisk();
  const Data data = PatternOf(3 * 512, 77);
  for (const size_t cut : {0u, 1u, 511u, 512u, 700u, 1535u}) {
    const auto reading = bus().Start(Tagged(1), Cdb(Opcode::kRead10, 0, 3));
    const auto writing = bus().Start(Tagged(2), Cdb(Opcode::kWrite10, 8, 3));
    const auto queued = bus().Start(Tagged(3, TaskAttribute::kOrdered), Cdb(Opcode::kRead10, 8, 1));
    const auto failed =
        bus().Start(Tagged(4, TaskAttribute::kHeadOfQueue), Raw({0xff, 0, 0, 0, 0, 0}));
    loop_.RunUntilIdle();
    Data in;
    for (size_t i = 0; i < cut; ++i) {
      in.push_back(reading->data_in()[0]);
      reading->TakeIn(1);
      writing->data_out()[0] = data[i];
      writing->PutOut(1);
      loop_.RunUntilIdle();
    }
    Mark();
    for (int input = 0; input < 2; ++input) {
      GoBack();
      loop_.RunUntilIdle();
      const auto rest = bus().Find(Tagged(1));
      ASSERT_NE(rest, nullptr);
      EXPECT_EQ(rest->moved(), cut);
      Data all = in;
      const auto read = initiator_->Finish(*rest);
      all.insert(all.end(), read.in.begin(), read.in.end());
      EXPECT_EQ(read.status, Status::kGood);
      EXPECT_TRUE(Same(all, Blocks(0, 3))) << cut;
      const auto written =
          initiator_->Finish(*bus().Find(Tagged(2)), ConstBytes(data).subspan(cut));
      EXPECT_EQ(written.status, Status::kGood);
      EXPECT_TRUE(Same(Blocks(8, 3), data)) << cut;
      EXPECT_EQ(initiator_->Finish(*bus().Find(Tagged(3))).status, Status::kGood);
      EXPECT_EQ(initiator_->Finish(*bus().Find(Tagged(4))).status, Status::kCheckCondition);
      EXPECT_NE(SenseNow().second, 0);
      Fill(disk().data().subspan(8 * 512, 3 * 512), 0);
    }
  }
}

TEST_P(FastStateTest, BackAtACdDrive) {
  StartCd();
  Mark();
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  GoBack();
  Good(StartStop(2));  // The tray goes out: nothing prevents it.
  EXPECT_EQ(Bad(TestUnitReady()).second, asc::kMediumNotPresentTrayOpen);
  Mark();
  Good(StartStop(3));
  EXPECT_EQ(Bad(TestUnitReady()).second, asc::kMediumMayHaveChanged);
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  GoBack();
  EXPECT_EQ(Bad(TestUnitReady()).second, asc::kMediumNotPresentTrayOpen);
  EXPECT_EQ(At(Good(Raw({0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0})), 4) & 0xf, 3) << "media removal";
  Good(StartStop(3));
  EXPECT_EQ(Bad(TestUnitReady()).second, asc::kMediumMayHaveChanged);
  Good(StartStop(2));
}

}  // namespace
}  // namespace farside::scsi
