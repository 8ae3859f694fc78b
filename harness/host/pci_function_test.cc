#include "harness/host/pci_function.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using testing::HasSubstr;
using vfio_user::FakeServer;
using vfio_user::VfioUserClient;

// A function whose configuration space has the write masks that a device has.
class FakeFunction {
 public:
  FakeFunction() {
    Set<uint32_t>(0x00, 0x0010'1b36);
    Set<uint16_t>(0x06, 0x0010);
    Set<uint32_t>(0x08, 0x0108'0202);
    Set<uint32_t>(0x2c, 0x1100'1af4);
    Set<uint8_t>(0x34, 0x40);
    Set<uint8_t>(0x3d, 1);
    Set<uint16_t>(0x40, 0x5005);  // MSI: 4 vectors.
    Set<uint16_t>(0x42, 0x0084);
    Set<uint16_t>(0x50, 0x0011);  // MSI-X: 17 vectors.
    Set<uint16_t>(0x52, 16);
    Set<uint32_t>(0x100, 0x1480'0001);
    Set<uint32_t>(0x148, 0x0001'0003);
    Mask<uint16_t>(0x04, 0x0407);
    Mask<uint16_t>(0x42, 0x0071);
    Mask<uint16_t>(0x52, 0xc000);
    Bar(0, 0x4, 0xffff'c000);  // 64-bit, 16 KiB.
    Bar(1, 0x0, 0xffff'ffff);
    Bar(2, 0x1, 0x0000'ffe0);  // I/O with 16 bits, 32 bytes.
    Bar(4, 0x8, 0xffff'f000);  // 32-bit, prefetchable, 4 KiB.
  }

  template <typename T>
  void Set(size_t offset, T value) {
    StoreLe(Bytes(config_).subspan(offset), value);
  }
  template <typename T>
  void Mask(size_t offset, T value) {
    StoreLe(Bytes(mask_).subspan(offset), value);
  }
  template <typename T>
  T Get(size_t offset) const {
    return LoadLe<T>(ConstBytes(config_).subspan(offset));
  }
  void Bar(size_t index, uint32_t flags, uint32_t mask) {
    Set<uint32_t>(0x10 + 4 * index, flags);
    Mask<uint32_t>(0x10 + 4 * index, mask);
  }

  FakeServer::Hook hook() {
    return [this](FakeServer& self, vfio_user::Frame& frame) {
      if (frame.command() != vfio_user::Command::kRegionWrite) {
        Copy(self.region(7), config_);
        return false;
      }
      vfio_user::RegionAccess access;
      Copy(AsWritableBytes(access), frame.payload.first(sizeof access));
      for (size_t i = 0; i < access.count; ++i) {
        const size_t at = access.offset + i;
        const auto mask = uint8_t(mask_[at]);
        if (at == 0x10 && (uint8_t(config_[4]) & 3) != 0) sized_while_decoding_ = true;
        config_[at] = std::byte((uint8_t(config_[at]) & ~mask) |
                                (uint8_t(frame.payload[sizeof access + i]) & mask));
      }
      self.Reply(frame, access);
      return true;
    };
  }
  bool sized_while_decoding() const { return sized_while_decoding_; }

 private:
  ByteVector config_ = ByteVector(4096);
  ByteVector mask_ = ByteVector(4096);
  bool sized_while_decoding_ = false;
};

class PciFunctionTest : public testing::Test {
 protected:
  Result<PciFunction> Probe() {
    server_ = std::make_unique<FakeServer>(device_.hook());
    client_ = VfioUserClient::Attach(server_->TakeSocket(), {}, nullptr).value();
    return PciFunction::Probe(*client_);
  }
  void End() {
    client_.reset();
    server_->Join();
  }

  FakeFunction device_;
  std::unique_ptr<FakeServer> server_;
  std::unique_ptr<VfioUserClient> client_;
};

TEST_F(PciFunctionTest, ReadsIdsBarsAndCapabilities) {
  device_.Set<uint16_t>(0x04, 0x0002);
  const auto function = Probe().value();
  EXPECT_EQ(function.vendor(), 0x1b36);
  EXPECT_EQ(function.device(), 0x0010);
  EXPECT_EQ(function.subsystem_vendor(), 0x1af4);
  EXPECT_EQ(function.subsystem(), 0x1100);
  EXPECT_EQ(function.class_code(), 0x010802u);
  EXPECT_EQ(function.revision(), 2);
  EXPECT_EQ(function.interrupt_pin(), 1);
  EXPECT_EQ(function.bars()[0].kind, PciBar::Kind::kMemory64);
  EXPECT_EQ(function.bars()[0].size, 0x4000u);
  EXPECT_EQ(function.bars()[1].kind, PciBar::Kind::kNone);
  EXPECT_EQ(function.bars()[2].kind, PciBar::Kind::kIo);
  EXPECT_EQ(function.bars()[2].size, 32u);
  EXPECT_EQ(function.bars()[3].kind, PciBar::Kind::kNone);
  EXPECT_EQ(function.bars()[4].kind, PciBar::Kind::kMemory32);
  EXPECT_EQ(function.bars()[4].size, 0x1000u);
  EXPECT_TRUE(function.bars()[4].prefetchable);
  EXPECT_EQ(function.FindCapability(PciFunction::kCapMsi), 0x40);
  EXPECT_EQ(function.FindCapability(PciFunction::kCapMsix), 0x50);
  EXPECT_EQ(function.FindExtendedCapability(3), 0x148);
  EXPECT_EQ(function.FindCapability(9), std::nullopt);
  EXPECT_EQ(function.msi_count(), 4u);
  EXPECT_EQ(function.msix_count(), 17u);
  End();
  EXPECT_FALSE(device_.sized_while_decoding());
  EXPECT_EQ(device_.Get<uint16_t>(0x04), 0x0002) << "the Command register is as it was";
  EXPECT_EQ(device_.Get<uint32_t>(0x10), 4u) << "so are the BARs";
}

TEST_F(PciFunctionTest, PlacesBarsAndEnables) {
  auto function = Probe().value();
  ASSERT_TRUE(function.PlaceBars());
  ASSERT_TRUE(function.Enable());
  ASSERT_TRUE(function.SetMsix(true));
  ASSERT_TRUE(function.SetMsi(true, 2));
  EXPECT_EQ(function.bars()[0].address, 0x80'0000'0000u);
  EXPECT_EQ(function.bars()[4].address, 0xe000'0000u);
  End();
  EXPECT_EQ(device_.Get<uint32_t>(0x10), 4u);
  EXPECT_EQ(device_.Get<uint32_t>(0x14), 0x80u);
  EXPECT_EQ(device_.Get<uint32_t>(0x18), 0x1001u);
  EXPECT_EQ(device_.Get<uint32_t>(0x20), 0xe000'0008u);
  EXPECT_EQ(device_.Get<uint16_t>(0x04), 0x0007);
  EXPECT_EQ(device_.Get<uint16_t>(0x52), 0x8010);
  EXPECT_EQ(device_.Get<uint16_t>(0x42), 0x00a5);
}

TEST_F(PciFunctionTest, SaysWhenABarFindsNoPlace) {
  auto function = Probe().value();
  const auto placed = function.PlaceBars({.memory32 = 0xffff'f001});
  ASSERT_FALSE(placed);
  EXPECT_THAT(placed.error().message, HasSubstr("BAR 4"));
}

TEST_F(PciFunctionTest, RefusesAnAbsentDevice) {
  device_.Set<uint32_t>(0, 0xffff'ffff);
  EXPECT_THAT(Probe().error().message, HasSubstr("0xffff"));
}

TEST_F(PciFunctionTest, RefusesABridge) {
  device_.Set<uint8_t>(0x0e, 1);
  EXPECT_THAT(Probe().error().message, HasSubstr("type 1"));
}

TEST_F(PciFunctionTest, RefusesABarWhoseSizeIsNoPowerOfTwo) {
  device_.Bar(4, 0, 0xff00'f000);
  EXPECT_THAT(Probe().error().message, HasSubstr("power of two"));
}

TEST_F(PciFunctionTest, RefusesAWideBarWithoutAnUpperHalf) {
  device_.Bar(5, 4, 0xffff'f000);
  EXPECT_THAT(Probe().error().message, HasSubstr("BAR 5"));
}

TEST_F(PciFunctionTest, RefusesCapabilitiesInACircle) {
  device_.Set<uint8_t>(0x51, 0x40);
  EXPECT_THAT(Probe().error().message, HasSubstr("circle"));
}

TEST_F(PciFunctionTest, RefusesCapabilitiesInTheHeader) {
  device_.Set<uint8_t>(0x34, 0x10);
  EXPECT_THAT(Probe().error().message, HasSubstr("0x10"));
}

TEST_F(PciFunctionTest, RefusesExtendedCapabilitiesInACircle) {
  device_.Set<uint32_t>(0x148, 0x1000'0003);
  EXPECT_THAT(Probe().error().message, HasSubstr("circle"));
}

}  // namespace
}  // namespace farside
