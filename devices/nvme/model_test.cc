#include "devices/nvme/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "devices/testing/fake_disk.h"
#include "devices/testing/fake_host.h"

namespace farside::nvme {
namespace {

using ::testing::HasSubstr;

class ModelTest : public ::testing::Test, public Backends {
 protected:
  Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view) override {
    if (name != "d0") return Fail("there is no node {}", name);
    return &disk_;
  }
  Result<scsi::Bus*> FindScsiBus(std::string_view name) override {
    return Fail("there is no bus {}", name);
  }
  void OfferScsiBus(std::string_view, scsi::Bus&) override {}

  // The error, or nothing.
  std::string Create(const char* properties) {
    const auto json = nlohmann::json::parse(properties);
    OptionReader options("device 'nvme0'", json);
    const auto made = kModel.create(
        {.id = "nvme0", .loop = loop_, .clock = clock_, .dma = host_, .irq = irq_}, options, *this);
    return made ? "" : made.error().message;
  }

  ManualClock clock_;
  Loop loop_{clock_};
  FakeHost host_{loop_, DmaMode::kByFd};
  IrqRecorder irq_;
  FakeDisk disk_{loop_, 1 << 20};
};

TEST_F(ModelTest, TakesItsProperties) {
  EXPECT_EQ(Create(R"({"drive":"d0","serial":"S1"})"), "");
  EXPECT_EQ(Create(R"({"drive":"d0","serial":"S1","max_ioqpairs":4,"msix_qsize":"5","mdts":7,
                       "logical_block_size":4096,"fetch_batch":1,"ordered_completions":"off"})"),
            "");
}

TEST_F(ModelTest, SaysWhichDeviceCannotBe) {
  EXPECT_THAT(Create(R"({"drive":"d0"})"), HasSubstr("device 'nvme0': option 'serial'"));
  EXPECT_THAT(Create(R"({"drive":"d1","serial":"S1"})"), HasSubstr("there is no node d1"));
  EXPECT_EQ(Create(R"({"drive":"d0","serial":"S1","mdts":11})"),
            "device 'nvme0': mdts=11 is out of range: use 1 to 10");
}

}  // namespace
}  // namespace farside::nvme
