#include "devices/core/pci_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "base/random.h"

namespace farside {
namespace {

using testing::HasSubstr;

constexpr PciIds kIds{.vendor = 0x1b36,
                      .device = 0x0010,
                      .subsystem_vendor = 0x1af4,
                      .subsystem = 0x1100,
                      .class_code = 0x010802,
                      .revision = 2};

std::array<BarSpec, kBarCount> Bars() {
  std::array<BarSpec, kBarCount> bars{};
  bars[0] = {.kind = BarKind::kMemory64, .size = 0x4000};
  bars[2] = {.kind = BarKind::kIo, .size = 32};
  bars[3] = {.kind = BarKind::kMemory32, .size = 0x1000, .prefetchable = true};
  bars[4] = {.kind = BarKind::kMemory64, .size = uint64_t{1} << 33, .prefetchable = true};
  return bars;
}

// Offsets of the capabilities, in the order in which the function below is built.
constexpr uint32_t kPm = 0x40;
constexpr uint32_t kPcie = 0x48;
constexpr uint32_t kMsi = 0x84;
constexpr uint32_t kMsix = 0x9c;

PciConfig MakeConfig() {
  PciConfig config(kIds, Bars(), /*has_intx=*/true);
  config.AddPowerManagement();
  config.AddPcieEndpoint();
  config.AddMsi(8);
  config.AddMsix(
      {.count = 33, .table_bar = 3, .table_offset = 0, .pba_bar = 3, .pba_offset = 0x800});
  return config;
}

// Speaks to configuration space as a driver does.
class PciConfigTest : public testing::Test {
 protected:
  template <typename T>
  T Read(uint64_t offset) const {
    T value{};
    config_.Read(offset, AsWritableBytes(value));
    return value;
  }
  template <typename T>
  PciConfigChange Write(uint64_t offset, T value) {
    return config_.Write(offset, AsBytes(value));
  }
  uint32_t Bar(uint32_t index) const { return Read<uint32_t>(pci::kBar0 + 4 * index); }
  void WriteBar(uint32_t index, uint32_t value) { Write(pci::kBar0 + 4 * index, value); }
  // Bits of a byte range that change when ones are written to them, and those that zeroes clear.
  template <typename T>
  T WritableBits(uint64_t offset) {
    Write(offset, T{0});
    const T zeroes = Read<T>(offset);
    Write(offset, static_cast<T>(~T{0}));
    return static_cast<T>(Read<T>(offset) ^ zeroes);
  }

  PciConfig config_ = MakeConfig();
};

TEST_F(PciConfigTest, TheHeaderSaysWhatTheFunctionIs) {
  EXPECT_EQ(Read<uint16_t>(pci::kVendorId), 0x1b36);
  EXPECT_EQ(Read<uint16_t>(pci::kDeviceId), 0x0010);
  EXPECT_EQ(Read<uint32_t>(pci::kRevision), 0x01080202u) << "class code above revision";
  EXPECT_EQ(Read<uint8_t>(pci::kHeaderType), 0) << "type 0, one function";
  EXPECT_EQ(Read<uint16_t>(pci::kSubsystemVendorId), 0x1af4);
  EXPECT_EQ(Read<uint16_t>(pci::kSubsystemId), 0x1100);
  EXPECT_EQ(Read<uint8_t>(pci::kInterruptPin), 1) << "INTA";
  EXPECT_EQ(Read<uint16_t>(pci::kCommand), 0);
  EXPECT_EQ(Read<uint16_t>(pci::kStatus), pci::kStatusCapabilities);
}

TEST_F(PciConfigTest, IdentityAndStructureAreReadOnly) {
  for (const uint32_t at :
       {pci::kVendorId, pci::kDeviceId, pci::kRevision, pci::kClassCode, pci::kClassCode + 2,
        pci::kHeaderType, pci::kSubsystemVendorId, pci::kSubsystemId, pci::kCapabilities,
        pci::kInterruptPin, kPm, kMsi, kMsix, kMsix + pci::kMsixTable, kMsix + pci::kMsixPba}) {
    EXPECT_EQ(WritableBits<uint8_t>(at), 0) << "offset " << at;
  }
  EXPECT_EQ(WritableBits<uint32_t>(pci::kRomAddress), 0u) << "no ROM";
  EXPECT_EQ(WritableBits<uint32_t>(0x100), 0u) << "no extended capabilities";
}

TEST_F(PciConfigTest, TheCommandRegisterTakesTheBitsOfWhatTheFunctionHas) {
  EXPECT_EQ(WritableBits<uint16_t>(pci::kCommand), 0x0547);

  std::array<BarSpec, kBarCount> memory_only{};
  memory_only[0] = {.kind = BarKind::kMemory32, .size = 0x1000};
  config_ = PciConfig(kIds, memory_only, /*has_intx=*/false);
  EXPECT_EQ(WritableBits<uint16_t>(pci::kCommand), 0x0146) << "neither I/O nor INTx";
  EXPECT_EQ(Read<uint8_t>(pci::kInterruptPin), 0);
  EXPECT_EQ(WritableBits<uint8_t>(pci::kInterruptLine), 0);
}

TEST_F(PciConfigTest, DriversFindTheSizeOfA64BitBarByWritingOnes) {
  WriteBar(0, 0xffff'ffff);
  WriteBar(1, 0xffff'ffff);
  EXPECT_EQ(Bar(0), 0xffff'c004u) << "memory, 64 bits";
  EXPECT_EQ(Bar(1), 0xffff'ffffu);

  WriteBar(4, 0xffff'ffff);
  WriteBar(5, 0xffff'ffff);
  EXPECT_EQ(Bar(4), 0x0000'000cu) << "8 GiB: nothing of the lower half, prefetchable";
  EXPECT_EQ(Bar(5), 0xffff'fffeu);
}

TEST_F(PciConfigTest, DriversFindTheSizeOf32BitAndIoBarsByWritingOnes) {
  WriteBar(2, 0xffff'ffff);
  EXPECT_EQ(Bar(2), 0xffff'ffe1u) << "I/O, 32 bytes";
  WriteBar(3, 0xffff'ffff);
  EXPECT_EQ(Bar(3), 0xffff'f008u) << "memory, 32 bits, prefetchable";
}

TEST_F(PciConfigTest, ABarIsWhereItWasPutWhenItsDecodeIsOn) {
  WriteBar(0, 0xfe00'0000);
  WriteBar(1, 0x12);
  WriteBar(2, 0xc000);
  WriteBar(3, 0xfd00'0000);
  EXPECT_FALSE(config_.bar_address(0));
  EXPECT_FALSE(config_.bar_address(2));

  Write(pci::kCommand, pci::kCommandMemory);
  EXPECT_EQ(config_.bar_address(0), 0x12'fe00'0000u);
  EXPECT_EQ(config_.bar_address(3), 0xfd00'0000u);
  EXPECT_FALSE(config_.bar_address(1)) << "the upper half of BAR 0";
  EXPECT_FALSE(config_.bar_address(2)) << "I/O decode is off";

  Write(pci::kCommand, pci::kCommandIo);
  EXPECT_EQ(config_.bar_address(2), 0xc000u);
  EXPECT_FALSE(config_.bar_address(0));
}

TEST_F(PciConfigTest, ABarThatNobodyPlacedIsNowhereEvenWithDecodeOn) {
  // cloud-hypervisor writes the Command register and keeps the BARs to itself.
  Write(pci::kCommand, static_cast<uint16_t>(pci::kCommandMemory | pci::kCommandIo));
  uint32_t bar = 0;
  uint64_t offset = 0;
  for (uint32_t i = 0; i < kBarCount; ++i) EXPECT_FALSE(config_.bar_address(i)) << i;
  EXPECT_FALSE(config_.OwnsAddress(0, 0x1000, &bar, &offset));
}

TEST_F(PciConfigTest, OwnsAddressFindsAccessesThatTouchAMemoryBar) {
  WriteBar(0, 0xfe00'0000);
  WriteBar(3, 0xfd00'0000);
  WriteBar(2, 0xfc00'0000);
  const auto owner = [&](uint64_t iova, uint64_t size) -> std::pair<int, uint64_t> {
    uint32_t bar = 99;
    uint64_t offset = 99;
    if (!config_.OwnsAddress(iova, size, &bar, &offset)) return {-1, 0};
    return {static_cast<int>(bar), offset};
  };
  EXPECT_EQ(owner(0xfe00'0000, 4).first, -1) << "decode is off";

  Write(pci::kCommand, static_cast<uint16_t>(pci::kCommandMemory | pci::kCommandIo));
  EXPECT_EQ(owner(0xfe00'0000, 4), std::pair(0, uint64_t{0}));
  EXPECT_EQ(owner(0xfe00'3fff, 1), std::pair(0, uint64_t{0x3fff}));
  EXPECT_EQ(owner(0xfe00'4000, 1).first, -1) << "just behind";
  EXPECT_EQ(owner(0xfdff'ffff, 1).first, -1) << "just before";
  EXPECT_EQ(owner(0xfdff'fff8, 16), std::pair(0, uint64_t{0})) << "reaches in";
  EXPECT_EQ(owner(0xfe00'3ff8, 0x10000), std::pair(0, uint64_t{0x3ff8})) << "reaches out";
  EXPECT_EQ(owner(0xfd00'0800, 8), std::pair(3, uint64_t{0x800}));
  EXPECT_EQ(owner(0xfc00'0000, 4).first, -1) << "an I/O BAR has no memory address";
}

TEST_F(PciConfigTest, OwnsAddressAtTheEndOfTheAddressSpaceDoesNotWrap) {
  WriteBar(0, 0xffff'c000);
  WriteBar(1, 0xffff'ffff);
  Write(pci::kCommand, pci::kCommandMemory);
  uint32_t bar = 99;
  uint64_t offset = 99;
  EXPECT_TRUE(config_.OwnsAddress(~uint64_t{0}, 1, &bar, &offset));
  EXPECT_EQ(offset, 0x3fffu);
  EXPECT_TRUE(config_.OwnsAddress(~uint64_t{0} - 7, 8, &bar, &offset));
  EXPECT_TRUE(config_.OwnsAddress(0xffff'ffff'ffff'bff8, 16, &bar, &offset));
  EXPECT_EQ(offset, 0u);
  EXPECT_TRUE(config_.OwnsAddress(1, ~uint64_t{0}, &bar, &offset)) << "all of memory";
  EXPECT_FALSE(config_.OwnsAddress(0, 0x1000, &bar, &offset));
  EXPECT_FALSE(config_.OwnsAddress(0xffff'ffff'ffff'bff8, 8, &bar, &offset));
}

TEST_F(PciConfigTest, TheCapabilityListLeadsThroughAllFourAndEnds) {
  ASSERT_TRUE(Read<uint16_t>(pci::kStatus) & pci::kStatusCapabilities);
  std::map<uint8_t, uint32_t> found;
  int steps = 0;
  for (uint32_t at = Read<uint8_t>(pci::kCapabilities); at != 0; at = Read<uint8_t>(at + 1)) {
    ASSERT_EQ(at % 4, 0u);
    ASSERT_LT(++steps, 10) << "the list is a circle";
    found[Read<uint8_t>(at)] = at;
  }
  EXPECT_EQ(found, (std::map<uint8_t, uint32_t>{{pci::kCapPowerManagement, kPm},
                                                {pci::kCapPcie, kPcie},
                                                {pci::kCapMsi, kMsi},
                                                {pci::kCapMsix, kMsix}}));
}

TEST_F(PciConfigTest, AFunctionWithoutCapabilitiesSaysSo) {
  config_ = PciConfig(kIds, Bars(), true);
  EXPECT_EQ(Read<uint16_t>(pci::kStatus), 0);
  EXPECT_EQ(Read<uint8_t>(pci::kCapabilities), 0);
  EXPECT_TRUE(config_.in_d0());
  EXPECT_FALSE(config_.msi_enabled());
  EXPECT_FALSE(config_.msix_enabled());
}

TEST_F(PciConfigTest, PowerManagementTakesD0AndD3HotAndDiscardsTheOthers) {
  EXPECT_EQ(Read<uint16_t>(kPm + 2) & 7, 3) << "version 1.2";
  const auto state = [&] { return Read<uint16_t>(kPm + pci::kPmcsr) & 3; };
  EXPECT_TRUE(Read<uint16_t>(kPm + pci::kPmcsr) & pci::kPmcsrNoSoftReset);

  EXPECT_TRUE(Write(kPm + pci::kPmcsr, uint16_t{3}).bus_master);
  EXPECT_EQ(state(), 3);
  EXPECT_FALSE(config_.in_d0());
  for (const uint16_t lacking : {uint16_t{1}, uint16_t{2}}) {
    Write(kPm + pci::kPmcsr, lacking);
    EXPECT_EQ(state(), 3) << "D" << lacking;
  }
  Write(kPm + pci::kPmcsr, uint16_t{0});
  EXPECT_TRUE(config_.in_d0());
  for (const uint16_t lacking : {uint16_t{1}, uint16_t{2}}) {
    Write(kPm + pci::kPmcsr, lacking);
    EXPECT_EQ(state(), 0) << "D" << lacking;
    EXPECT_TRUE(config_.in_d0());
  }
}

TEST_F(PciConfigTest, OnlyAMasterInD0MayUseTheBus) {
  EXPECT_FALSE(config_.may_master());
  EXPECT_TRUE(Write(pci::kCommand, pci::kCommandBusMaster).bus_master);
  EXPECT_TRUE(config_.may_master());
  Write(kPm + pci::kPmcsr, uint8_t{3});
  EXPECT_FALSE(config_.may_master());
  Write(kPm + pci::kPmcsr, uint8_t{0});
  EXPECT_TRUE(config_.may_master());
}

TEST_F(PciConfigTest, ThePcieCapabilityIsThatOfAnEndpointWithFunctionLevelReset) {
  EXPECT_EQ(Read<uint16_t>(kPcie + pci::kPcieCapabilities), 0x0002) << "version 2, endpoint";
  EXPECT_TRUE(Read<uint32_t>(kPcie + pci::kPcieDeviceCapabilities) & pci::kPcieFlrCapable);
  EXPECT_EQ(Read<uint16_t>(kPcie + pci::kPcieDeviceControl), 0x2810);
  EXPECT_EQ(Read<uint16_t>(kPcie + pci::kPcieLinkStatus), 0x0011) << "2.5 GT/s, x1";
  EXPECT_EQ(Read<uint32_t>(0x100), 0u) << "the list of extended capabilities is empty";
  EXPECT_EQ(WritableBits<uint16_t>(kPcie + pci::kPcieDeviceControl), 0x78ff);
}

TEST_F(PciConfigTest, FunctionLevelResetIsAskedForByItsBitAloneHoweverItIsWritten) {
  const uint64_t control = kPcie + pci::kPcieDeviceControl;
  EXPECT_TRUE(Write(control, pci::kPcieInitiateFlr).function_level_reset);
  EXPECT_EQ(Read<uint16_t>(control) & pci::kPcieInitiateFlr, 0) << "reads as 0";
  EXPECT_TRUE(Write(control + 1, uint8_t{0x80}).function_level_reset) << "its byte alone";
  EXPECT_TRUE(Write(control - 4, uint64_t{0x8000'0000'0000}).function_level_reset) << "8 bytes";
  EXPECT_FALSE(Write(control, uint16_t{0x7fff}).function_level_reset);
  EXPECT_FALSE(Write(control, uint8_t{0xff}).function_level_reset) << "the byte below";
  EXPECT_FALSE(Write(control + 2, uint16_t{0xffff}).function_level_reset) << "the status above";
  config_ = PciConfig(kIds, Bars(), true);
  EXPECT_FALSE(Write(control, uint16_t{0xffff}).function_level_reset) << "without the capability";
}

TEST_F(PciConfigTest, MsiHas64BitAddressesAndMasksAndAsManyVectorsAsAllotted) {
  const auto control = Read<uint16_t>(kMsi + pci::kMsiControl);
  EXPECT_EQ(control, pci::kMsi64 | pci::kMsiPerVectorMask | 3 << 1) << "8 vectors";
  EXPECT_EQ(WritableBits<uint16_t>(kMsi + pci::kMsiControl), 0x71);
  EXPECT_EQ(WritableBits<uint64_t>(kMsi + pci::kMsiAddress), ~uint64_t{3});
  EXPECT_EQ(WritableBits<uint16_t>(kMsi + pci::kMsiData), 0xffff);
  EXPECT_EQ(WritableBits<uint32_t>(kMsi + pci::kMsiMask), 0xffu) << "8 mask bits";
  EXPECT_EQ(WritableBits<uint32_t>(kMsi + pci::kMsiPending), 0u) << "read-only";

  EXPECT_TRUE(Write(kMsi + pci::kMsiControl, uint16_t{1}).interrupts);
  EXPECT_TRUE(config_.msi_enabled());
  EXPECT_EQ(config_.msi_enabled_count(), 1u);
  Write(kMsi + pci::kMsiControl, uint16_t{1 | 2 << 4});
  EXPECT_EQ(config_.msi_enabled_count(), 4u);
  Write(kMsi + pci::kMsiControl, uint16_t{1 | 7 << 4});
  EXPECT_EQ(config_.msi_enabled_count(), 8u) << "more than there are";
}

TEST_F(PciConfigTest, MsiMasksAndPendingBitsArePerVector) {
  EXPECT_TRUE(Write(kMsi + pci::kMsiMask, uint32_t{0x82}).interrupts);
  EXPECT_TRUE(config_.msi_masked(1));
  EXPECT_TRUE(config_.msi_masked(7));
  EXPECT_FALSE(config_.msi_masked(0));
  config_.set_msi_pending(7, true);
  config_.set_msi_pending(1, true);
  config_.set_msi_pending(1, false);
  EXPECT_TRUE(config_.msi_pending(7));
  EXPECT_EQ(Read<uint32_t>(kMsi + pci::kMsiPending), 0x80u);
}

TEST_F(PciConfigTest, ThirtyTwoMsiVectorsHaveThirtyTwoMasks) {
  config_ = PciConfig(kIds, Bars(), true);
  config_.AddMsi(32);
  EXPECT_EQ(WritableBits<uint32_t>(0x40 + pci::kMsiMask), 0xffff'ffffu);
  config_.set_msi_pending(31, true);
  EXPECT_EQ(Read<uint32_t>(0x40 + pci::kMsiPending), 0x8000'0000u);
}

TEST_F(PciConfigTest, MsixSaysWhereItsTableAndPbaLie) {
  EXPECT_EQ(Read<uint16_t>(kMsix + pci::kMsixControl), 32) << "33 vectors";
  EXPECT_EQ(Read<uint32_t>(kMsix + pci::kMsixTable), 0x003u) << "offset 0 of BAR 3";
  EXPECT_EQ(Read<uint32_t>(kMsix + pci::kMsixPba), 0x803u);
  EXPECT_EQ(WritableBits<uint16_t>(kMsix + pci::kMsixControl), 0xc000);
  EXPECT_TRUE(config_.msix_enabled());
  EXPECT_TRUE(config_.msix_function_masked());
  EXPECT_TRUE(Write(kMsix + pci::kMsixControl, pci::kMsixEnable).interrupts);
  EXPECT_FALSE(config_.msix_function_masked());
}

TEST_F(PciConfigTest, TheInterruptStatusBitIsTheDevicesAndNoDriverClearsIt) {
  config_.set_interrupt_status(true);
  EXPECT_TRUE(Read<uint16_t>(pci::kStatus) & pci::kStatusInterrupt);
  Write(pci::kStatus, uint16_t{0xffff});
  EXPECT_TRUE(Read<uint16_t>(pci::kStatus) & pci::kStatusInterrupt);
  config_.set_interrupt_status(false);
  EXPECT_EQ(Read<uint16_t>(pci::kStatus), pci::kStatusCapabilities);
}

TEST_F(PciConfigTest, AWriteSaysWhatItChanged) {
  EXPECT_TRUE(Write(pci::kBar0 + 4, uint32_t{0}).bars);
  EXPECT_TRUE(Write(pci::kCommand, uint16_t{0}).bars);
  EXPECT_TRUE(Write(pci::kCommand, uint16_t{0}).interrupts) << "INTx disable";
  EXPECT_TRUE(Write(pci::kCommand + 1, uint8_t{4}).interrupts);
  EXPECT_FALSE(Write(pci::kCommand + 1, uint8_t{4}).bars);
  const PciConfigChange nothing = Write(pci::kInterruptLine, uint8_t{11});
  EXPECT_FALSE(nothing.bars || nothing.interrupts || nothing.bus_master ||
               nothing.function_level_reset);
  EXPECT_EQ(Read<uint8_t>(pci::kInterruptLine), 11);
}

TEST_F(PciConfigTest, AccessesOfAnySizeSeeTheSameBytes) {
  std::vector<std::byte> whole(pci::kConfigSize);
  config_.Read(0, whole);
  for (size_t size : {1u, 2u, 3u, 4u, 8u, 64u}) {
    for (size_t at = 0; at + size <= 256; ++at) {
      std::vector<std::byte> part(size);
      config_.Read(at, part);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<ptrdiff_t>(at)))
          << size << " bytes at " << at;
    }
  }
  std::byte last{0xcc};
  config_.Read(pci::kConfigSize - 1, Bytes(&last, 1));
  EXPECT_EQ(last, std::byte{0});
}

TEST_F(PciConfigTest, ResetGivesEveryByteItsResetValue) {
  const PciConfig fresh = MakeConfig();
  const uint64_t seed = 77;
  Random random(seed);
  for (int i = 0; i < 4000; ++i)
    Write(random.Below(pci::kConfigSize), static_cast<uint8_t>(random.Next()));
  config_.set_interrupt_status(true);
  config_.set_msi_pending(0, true);
  ASSERT_FALSE(std::ranges::equal(config_.bytes(), fresh.bytes()));
  config_.Reset();
  EXPECT_TRUE(std::ranges::equal(config_.bytes(), fresh.bytes())) << "seed " << seed;
}

TEST_F(PciConfigTest, LoadTakesOverAllThatADriverWroteAndTheDevicesStatusBits) {
  Write(pci::kCommand, uint16_t{0x0406});
  WriteBar(0, 0xfe00'0000);
  Write(kMsi + pci::kMsiMask, uint32_t{0x0f});
  Write(kPm + pci::kPmcsr, uint16_t{3});
  config_.set_interrupt_status(true);
  config_.set_msi_pending(2, true);

  PciConfig other = MakeConfig();
  ASSERT_TRUE(other.Load(config_.bytes()));
  EXPECT_TRUE(std::ranges::equal(other.bytes(), config_.bytes()));
  EXPECT_FALSE(other.in_d0());
  EXPECT_TRUE(other.msi_pending(2));
}

TEST_F(PciConfigTest, LoadRefusesTheStateOfAnotherDeviceAndKeepsItsOwn) {
  const auto refuses = [&](const PciConfig& other) {
    const std::vector<std::byte> before(config_.bytes().begin(), config_.bytes().end());
    const auto loaded = config_.Load(other.bytes());
    return !loaded && std::ranges::equal(before, config_.bytes());
  };
  PciIds ids = kIds;
  ids.device = 0x11;
  PciConfig other(ids, Bars(), true);
  EXPECT_TRUE(refuses(other));
  EXPECT_TRUE(refuses(PciConfig(kIds, Bars(), true))) << "without capabilities";
  auto bars = Bars();
  bars[3].prefetchable = false;
  EXPECT_TRUE(refuses(PciConfig(kIds, bars, true))) << "another kind of BAR";
  EXPECT_FALSE(config_.Load(std::vector<std::byte>(255)));
  EXPECT_FALSE(config_.Load(std::vector<std::byte>(pci::kConfigSize)));
}

TEST_F(PciConfigTest, LoadRefusesEveryFlippedBitThatNoDriverCanWrite) {
  const std::vector<std::byte> saved(config_.bytes().begin(), config_.bytes().end());
  size_t accepted = 0;
  PciConfig target = MakeConfig();
  // Extended space is empty: a bit of each of its bytes will do.
  for (size_t bit = 0; bit < 8 * pci::kConfigSize; bit += bit < 8 * 256 ? 1 : 9) {
    std::vector<std::byte> flipped = saved;
    flipped[bit / 8] ^= std::byte{1} << bit % 8;
    const bool loaded = target.Load(flipped).has_value();
    ASSERT_TRUE(std::ranges::equal(target.bytes(), loaded ? flipped : saved)) << "bit " << bit;
    if (!loaded) continue;
    ++accepted;
    target.Reset();
  }
  // The masks of the Command, Status and interrupt line registers, the cache line size, the BARs,
  // the device control and status, MSI and MSI-X; of the power states only D0 and D3hot pass, which
  // no single bit makes of D0.
  const size_t command = 6, status = 7, lines = 16, bars = 18 + 32 + 27 + 20 + 31;
  const size_t pcie = 12 + 4, msi = 4 + 62 + 16 + 8 + 8, msix = 2;
  EXPECT_EQ(accepted, command + status + lines + bars + pcie + msi + msix);
}

}  // namespace
}  // namespace farside
