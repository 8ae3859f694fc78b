#include "devices/scsi/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

using ::testing::HasSubstr;

class ModelTest : public ::testing::Test, public Backends {
 protected:
  Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view) override {
    if (name != "d0") return Fail("there is no node {}", name);
    return &disk_;
  }
  Result<Bus*> FindScsiBus(std::string_view name) override {
    if (!name.empty() && name != "lsi0.0") return Fail("there is no bus {}", name);
    return &initiator_.bus();
  }
  void OfferScsiBus(std::string_view, Bus&) override {}

  // The error, or nothing.
  std::string Attach(const Model& model, const char* properties) {
    const auto json = nlohmann::json::parse(properties);
    OptionReader options("sd0", json);
    const auto result = model.attach(loop_, options, *this);
    return result ? "" : result.error().message;
  }
  Data Inquiry(uint8_t target, uint8_t lun = 0) {
    return initiator_.Run({.target = target, .lun = lun}, Raw({0x12, 0, 0, 0, 36, 0})).in;
  }

  ManualClock clock_;
  Loop loop_{clock_};
  FakeDisk disk_{loop_, 1 << 20};
  TestInitiator initiator_{loop_};
};

TEST_F(ModelTest, TakesTheLowestTargetThatIsFree) {
  EXPECT_EQ(Attach(kDiskModel, R"({"drive":"d0","scsi-id":1})"), "");
  for (int i = 0; i < 14; ++i) EXPECT_EQ(Attach(kDiskModel, R"({"drive":"d0"})"), "") << i;
  for (uint8_t target = 0; target < kMaxTargets; ++target) {
    EXPECT_EQ(initiator_.bus().HasTarget(target), target != kAdapterId) << int{target};
  }
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0"})"), "");
}

TEST_F(ModelTest, TakesQemusProperties) {
  EXPECT_EQ(Attach(kCdModel, R"({"drive":"d0","bus":"lsi0.0","channel":"0","scsi-id":"3",
                                 "lun":"2","serial":"c1","ver":"9","product":"TURNTABLE"})"),
            "");
  const Data data = Inquiry(3, 2);
  EXPECT_EQ(At(data, 0), 5);
  EXPECT_EQ(At(data, 16), 'T');
  EXPECT_EQ(At(data, 32), '9');
  EXPECT_EQ(Attach(kDiskModel, R"({"drive":"d0","scsi-id":3,"lun":0,"wwn":"0x5000c50012345678",
                                   "vendor":"ACME","logical_block_size":4096})"),
            "");
  EXPECT_EQ(At(Inquiry(3), 8), 'A');
}

TEST_F(ModelTest, RefusesWhatCannotBe) {
  EXPECT_NE(Attach(kDiskModel, "{}"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d1"})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","bus":"lsi1.0"})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","scsi-id":7})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","scsi-id":16})"), "");
  EXPECT_THAT(Attach(kDiskModel, R"({"drive":"d0","lun":8})"),
              HasSubstr("option 'lun' is 8: it must be a whole number from 0 to 7"));
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","channel":1})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","logical_block_size":100})"), "");
  EXPECT_NE(Attach(kCdModel, R"({"drive":"d0","logical_block_size":2048})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","vendor":"TOO LONG FOR IT"})"), "");
  EXPECT_EQ(Attach(kDiskModel, R"({"drive":"d0","scsi-id":2})"), "");
  EXPECT_NE(Attach(kDiskModel, R"({"drive":"d0","scsi-id":2})"), "") << "taken";
}

}  // namespace
}  // namespace farside::scsi
