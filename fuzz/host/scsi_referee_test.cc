// The referee of SCSI units lets pass what a unit may answer, and sees what it may not.
#include "fuzz/host/scsi_referee.h"

#include <gtest/gtest.h>

#include <initializer_list>

#include "base/clock.h"
#include "base/loop.h"

namespace farside::fuzz {
namespace {

constexpr uint8_t kGood = 0x00;
constexpr uint8_t kCheckCondition = 0x02;

std::vector<std::byte> Pack(std::initializer_list<uint8_t> bytes) {
  std::vector<std::byte> packed;
  for (const uint8_t byte : bytes) packed.push_back(std::byte{byte});
  return packed;
}

// A disk, and an initiator that sees what goes to it and comes back.
class ScsiRefereeTest : public testing::Test {
 protected:
  ScsiRefereeTest() { referee_.Begin(/*ready=*/true); }

  void Fail(std::vector<std::byte> cdb, std::vector<std::byte> out = {}) {
    referee_.Judge({.alone = true, .cdb = std::move(cdb), .in = {}, .out = std::move(out)},
                   kCheckCondition);
  }
  // Fixed format.
  void Sense(uint8_t key, uint16_t code) {
    std::vector<std::byte> sense(18);
    sense[0] = std::byte{0x70};
    sense[2] = std::byte{key};
    sense[7] = std::byte{10};
    sense[12] = static_cast<std::byte>(code >> 8);
    sense[13] = static_cast<std::byte>(code);
    const auto cdb = Pack({0x03, 0, 0, 0, 18, 0});
    referee_.Judge({.alone = true, .cdb = cdb, .in = std::move(sense), .out = {}}, kGood);
  }

  ManualClock clock_;
  Loop loop_{clock_};
  Disk disk_{loop_, "d0", false};
  ScsiReferee referee_{{ScsiUnit{.disk = &disk_, .block_size = 512}}};
};

static_assert(Disk::kSize / 512 == 0x1000);
const auto kRead = Pack({0x28, 0, 0, 0, 0x0f, 0xff, 0, 0, 1, 0});
const auto kReadBehind = Pack({0x28, 0, 0, 0, 0x10, 0x00, 0, 0, 1, 0});
const auto kModeSelect = Pack({0x15, 0x10, 0, 0, 6, 0});

TEST_F(ScsiRefereeTest, ALawfulReadFailsForOtherReasonsThanItself) {
  Fail(kRead);
  Sense(0x3, 0x1100);  // The medium's.
  Fail(kRead);
  EXPECT_DEATH(Sense(0x5, 0x2000), "READ\\(10\\) fails with 0x2000");
}

TEST_F(ScsiRefereeTest, AReadBehindTheEndIsToldOfThat) {
  Fail(kReadBehind);
  Sense(0x5, 0x2100);
  Fail(kReadBehind);
  EXPECT_DEATH(Sense(0x5, 0x2400), "READ\\(10\\) fails with 0x2400");
}

TEST_F(ScsiRefereeTest, AListThatIsCutIsToldOfThat) {
  for (const auto& list :
       {Pack({0, 0, 0, 0, 0x08, 0x12}), Pack({0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2})}) {
    Fail(kModeSelect, list);
    Sense(0x5, 0x1a00);
    Fail(kModeSelect, list);
    EXPECT_DEATH(Sense(0x5, 0x2600), "MODE SELECT\\(6\\) fails with 0x2600");
  }
  // Here more may be wrong.
  Fail(kModeSelect, Pack({0, 0, 0, 0, 0x08, 0x12, 0xff}));
  Sense(0x5, 0x2600);
}

TEST_F(ScsiRefereeTest, AResetIsTheFirstThatACommandHearsOf) {
  referee_.Reset();
  Fail(kRead);
  Sense(0x6, 0x2900);
  referee_.Reset();
  Fail(kReadBehind);
  EXPECT_DEATH(Sense(0x5, 0x2100), "after a reset is told 0x2100");
}

TEST_F(ScsiRefereeTest, SenseDataAreOfTheCommandRightBefore) {
  Fail(kRead);
  Fail(Pack({0xff, 0, 0, 0, 0, 0}));
  Sense(0x5, 0x2000);
  Fail(kRead);
  referee_.Lose();
  Sense(0x5, 0x2000);
}

}  // namespace
}  // namespace farside::fuzz
