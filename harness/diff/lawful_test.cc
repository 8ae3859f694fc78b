#include "harness/diff/lawful.h"

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

json Row(json changes = json::object()) {
  json row = {{"register", "CSTS"},
              {"bits", "0x20"},
              {"reason", "PP is optional"},
              {"page", "NVM Express 1.4, page 49"}};
  row.update(changes);
  return row;
}

Result<Lawful> ParseRows(const std::vector<json>& rows) {
  return Lawful::Parse(NvmeModel(), "nvme.json", {{"device", "nvme"}, {"rows", rows}});
}

std::string ErrorOf(const std::vector<json>& rows) {
  const auto parsed = ParseRows(rows);
  return parsed ? "no error" : parsed.error().message;
}

TEST(LawfulTest, ARowMasksTheBitsItNamesAndNoOthers) {
  const auto lawful = ParseRows({Row()});
  ASSERT_TRUE(lawful) << lawful.error().message;
  EXPECT_EQ(lawful->ReadMask(kBar, 0x1c), 0x20);
  EXPECT_EQ(lawful->ReadMask(kBar, 0x1d), 0);
  EXPECT_EQ(lawful->ReadMask(kConfigRegion, 0x1c), 0);
  EXPECT_EQ(lawful->masked_bits(), 1u);
}

TEST(LawfulTest, ARowMayNameConfigurationSpaceAndFieldsInMemory) {
  const auto lawful = ParseRows(
      {Row({{"register", "Revision ID"}, {"bits", "all"}}),
       Row({{"register", "Identify Controller MN"}, {"bits", "all"}, {"kind", "memory"}})});
  ASSERT_TRUE(lawful) << lawful.error().message;
  EXPECT_EQ(lawful->ReadMask(kConfigRegion, 8), 0xff);
  EXPECT_EQ(lawful->MemoryMask(nvme_memory::kIdentifyController + 24), 0xff);
  EXPECT_EQ(lawful->MemoryMask(nvme_memory::kIdentifyController + 63), 0xff);
  EXPECT_EQ(lawful->MemoryMask(nvme_memory::kIdentifyController + 64), 0);
}

TEST(LawfulTest, AnInterruptIsLawfulWhileTheNamedBitIsThere) {
  const auto lawful = ParseRows({Row({{"bits", "0x2"}, {"kind", "interrupt"}})});
  ASSERT_TRUE(lawful) << lawful.error().message;
  EXPECT_TRUE(lawful->AllowsInterrupt(std::vector<uint64_t>{0, 2}));
  EXPECT_FALSE(lawful->AllowsInterrupt(std::vector<uint64_t>{2, 1}));
}

TEST(LawfulTest, ARegisterThatIsNotThereIsRefused) {
  EXPECT_EQ(ErrorOf({Row(), Row({{"register", "CSTZ"}})}),
            "nvme.json: rows[1]: nvme has no register \"CSTZ\"");
}

TEST(LawfulTest, ARowWithoutAPageIsRefused) {
  json row = Row();
  row.erase("page");
  EXPECT_THAT(ErrorOf({row}), HasSubstr("page"));
  EXPECT_THAT(ErrorOf({Row({{"page", "the specification"}})}), HasSubstr("give the 'page'"));
}

TEST(LawfulTest, ASectionWillDo) {
  json row = Row({{"section", "NVM Express 1.4, section 3.1.6"}});
  row.erase("page");
  EXPECT_TRUE(ParseRows({row}));
}

TEST(LawfulTest, BitsOfAWriteRowAreTakenOutOfWrites) {
  const auto lawful = ParseRows({Row({{"register", "CC"}, {"bits", "0xff0f"}, {"kind", "write"}})});
  ASSERT_TRUE(lawful) << lawful.error().message;
  EXPECT_EQ(lawful->masked_bits(), 0u);
  Event partly = Write(kBar, 0x14, 1, 0x5a);
  EXPECT_TRUE(lawful->Adapt(&partly));
  EXPECT_EQ(partly.value, 0x50u);
  Event wholly = Write(kBar, 0x14, 4, 0x46'0001);
  EXPECT_FALSE(lawful->Adapt(&wholly));
  Event elsewhere = Write(kBar, 0x16, 2, 0x46);
  EXPECT_TRUE(lawful->Adapt(&elsewhere));
  EXPECT_EQ(elsewhere.value, 0x46u);
}

TEST(LawfulTest, ReservedPlacesAreMaskedAndNotCounted) {
  const auto lawful = ParseRows({Row({{"register", "reserved"}, {"bits", "all"}})});
  ASSERT_TRUE(lawful) << lawful.error().message;
  EXPECT_EQ(lawful->ReadMask(kBar, 0xf00), 0xff);
  EXPECT_EQ(lawful->ReadMask(kBar, 0x14), 0);
  EXPECT_EQ(lawful->masked_bits(), 0u);
}

TEST(LawfulTest, ARowWithoutAReasonIsRefused) {
  EXPECT_THAT(ErrorOf({Row({{"reason", ""}})}), HasSubstr("'reason' is missing"));
}

TEST(LawfulTest, BitsThatTheRegisterHasNotAreRefused) {
  EXPECT_THAT(ErrorOf({Row({{"bits", "0x100000000"}})}), HasSubstr("bits that are there"));
  EXPECT_THAT(ErrorOf({Row({{"bits", 0}})}), HasSubstr("bits that are there"));
}

TEST(LawfulTest, MoreThanFivePercentOfTheBitsAreRefused) {
  // CAP, ASQ: 128 of 1416 bits.
  EXPECT_EQ(ErrorOf({Row({{"register", "CAP"}, {"bits", "all"}}),
                     Row({{"register", "ASQ"}, {"bits", "all"}})}),
            "nvme.json: the rows mask 128 of 1416 bits of registers, 9.0 %: more than 5 % is no "
            "comparison");
  EXPECT_TRUE(ParseRows({Row({{"register", "CAP"}, {"bits", "all"}})}));
}

TEST(LawfulTest, MaskingAllOfTheMemoryIsRefused) {
  EXPECT_THAT(ErrorOf({Row({{"register", "Data of reads"}, {"bits", "all"}, {"kind", "memory"}})}),
              HasSubstr("bits of fields in memory"));
}

TEST(LawfulTest, RowsOfAnotherModelAreRefused) {
  const auto parsed =
      Lawful::Parse(NvmeModel(), "l.json", {{"device", "lsi53c895a"}, {"rows", json::array()}});
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message, HasSubstr("the rows are of another model"));
}

TEST(LawfulTest, TheReviewedFilesAreLawful) {
  const auto nvme = Lawful::Load(NvmeModel(), FARSIDE_LAWFUL_DIR "/nvme.json");
  EXPECT_TRUE(nvme) << nvme.error().message;
  const auto lsi = Lawful::Load(LsiModel(), FARSIDE_LAWFUL_DIR "/lsi53c895a.json");
  EXPECT_TRUE(lsi) << lsi.error().message;
}

}  // namespace
}  // namespace farside::diff
