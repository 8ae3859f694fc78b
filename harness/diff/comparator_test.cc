#include "harness/diff/comparator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "devices/nvme/registers.h"
#include "harness/diff/nvme_workload.h"

namespace farside::diff {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr uint32_t kBar = nvme::kRegisterBar;

class ComparatorTest : public testing::Test {
 protected:
  static Lawful Rows() {
    const json rows = {{{"register", "CSTS"},
                        {"bits", "0x20"},
                        {"reason", "PP is optional"},
                        {"page", "NVM Express 1.4, page 49"}},
                       {{"register", "Identify Controller MN"},
                        {"bits", "all"},
                        {"kind", "memory"},
                        {"reason", "each maker's own"},
                        {"page", "NVM Express 1.4, page 182"}}};
    return Lawful::Parse(NvmeModel(), "test", {{"device", "nvme"}, {"rows", rows}}).value();
  }
  static std::unique_ptr<GuestMemory> Memory() {
    return std::move(GuestMemory::Create(NvmeModel().memory(), Reach::kFd).value());
  }

  const Lawful lawful_ = Rows();
  Comparator comparator_{NvmeModel(), lawful_};
};

TEST_F(ComparatorTest, EqualAnswersAreEqual) {
  EXPECT_FALSE(comparator_.CompareRead(Read(kBar, 0x14, 4), 0x460001, 0x460001));
}

TEST_F(ComparatorTest, ADifferenceIsDecoded) {
  const auto difference = comparator_.CompareRead(Read(kBar, 0x1c, 4), 9, 1);
  ASSERT_TRUE(difference);
  EXPECT_THAT(difference->what, HasSubstr("BAR0 CSTS (0x1c) read 4"));
  EXPECT_THAT(difference->a, HasSubstr("0x00000009 RDY=0x1"));
  EXPECT_THAT(difference->b, HasSubstr("0x00000001"));
  EXPECT_EQ(difference->detail, "bit 3");
}

TEST_F(ComparatorTest, AReadAcrossRegistersNamesTheOneThatDiffers) {
  // Two bytes of CSTS' upper half, two of NSSR.
  const auto difference = comparator_.CompareRead(Read(kBar, 0x1e, 4), 0x0180'0000, 0);
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->detail, "BAR0 NSSR bits 8..7");
}

TEST_F(ComparatorTest, LawfulBitsMayDifferInReadsOfAnySize) {
  EXPECT_FALSE(comparator_.CompareRead(Read(kBar, 0x1c, 4), 0x20, 0));
  EXPECT_FALSE(comparator_.CompareRead(Read(kBar, 0x1b, 2), 0x2000, 0));
  EXPECT_EQ(comparator_.lawful_bits(), 2u);
  const auto other = comparator_.CompareRead(Read(kBar, 0x1c, 4), 0x21, 0);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->detail, "bit 0");
}

TEST_F(ComparatorTest, CountsBitsOfRegistersOnceAndMaskedOnesNot) {
  EXPECT_EQ(comparator_.compared_bits(), 0u);
  comparator_.Count(Read(kBar, 0x1c, 4));
  comparator_.Count(Read(kBar, 0x1c, 2));
  EXPECT_EQ(comparator_.compared_bits(), 31u);
  comparator_.Count(Read(kBar, 0x18, 4));  // No register.
  EXPECT_EQ(comparator_.compared_bits(), 31u);
  EXPECT_EQ(comparator_.bits_of_reads(), 80u);
}

TEST_F(ComparatorTest, MemoryIsComparedAndNamed) {
  const auto a = Memory();
  const auto b = Memory();
  EXPECT_EQ(comparator_.CompareMemory(*a, *b)->has_value(), false);
  ASSERT_TRUE(b->Store<uint8_t>(nvme_memory::kIdentifyController + 77, 7));
  const auto difference = comparator_.CompareMemory(*a, *b);
  ASSERT_TRUE(difference && *difference);
  EXPECT_EQ((*difference)->detail, "Identify Controller MDTS+0x0");
  EXPECT_THAT((*difference)->b, HasSubstr("07000000"));
}

TEST_F(ComparatorTest, LawfulMemoryIsMadeEqualAndTheRestIsCompared) {
  const auto a = Memory();
  const auto b = Memory();
  ASSERT_TRUE(a->Store<uint8_t>(nvme_memory::kIdentifyController + 24, 'F'));
  ASSERT_TRUE(b->Store<uint8_t>(nvme_memory::kIdentifyController + 24, 'Q'));
  EXPECT_EQ(comparator_.CompareMemory(*a, *b)->has_value(), false);
  EXPECT_EQ(b->Load<uint8_t>(nvme_memory::kIdentifyController + 24).value(), 'F');
  EXPECT_EQ(comparator_.lawful_bytes(), 1u);
  ASSERT_TRUE(b->Store<uint8_t>(nvme_memory::CqBase(2), 1));
  EXPECT_EQ((*comparator_.CompareMemory(*a, *b))->detail, "Completion queue 2+0x0");
}

TEST(BitsTextTest, RunsAreJoined) {
  EXPECT_EQ(BitsText(1), "bit 0");
  EXPECT_EQ(BitsText(0x8000'0000'0000'000f), "bits 63, 3..0");
  EXPECT_EQ(BitsText(~uint64_t{0}), "bits 63..0");
}

}  // namespace
}  // namespace farside::diff
