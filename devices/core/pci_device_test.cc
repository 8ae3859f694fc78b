#include "devices/core/pci_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/loop.h"

namespace farside {
namespace {

using testing::_;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::InSequence;
using testing::Mock;
using testing::NiceMock;
using testing::Return;
using testing::StrictMock;

constexpr PciIds kIds{.vendor = 0x1b36, .device = 0x0010, .class_code = 0x010802};

// Capabilities of the function below.
constexpr uint32_t kPmcsr = 0x40 + pci::kPmcsr;
constexpr uint32_t kDeviceControl = 0x48 + pci::kPcieDeviceControl;
constexpr uint32_t kMsi = 0x84;
constexpr uint32_t kMsix = 0x9c;
constexpr uint32_t kVectors = 66;

// BAR 4: 0x100 bytes of the model's, the table, more of the model's, the PBA, the model's again.
constexpr uint32_t kTable = 0x100;
constexpr uint32_t kTableEnd = kTable + kVectors * 16;
constexpr uint32_t kPba = 0x800;
constexpr uint32_t kPbaEnd = kPba + 16;

PciConfig MakeConfig(uint16_t device_id) {
  std::array<BarSpec, kBarCount> bars{};
  bars[0] = {.kind = BarKind::kMemory64, .size = 0x1000};
  bars[4] = {.kind = BarKind::kMemory32, .size = 0x1000};
  PciIds ids = kIds;
  ids.device = device_id;
  PciConfig config(ids, bars, /*has_intx=*/true);
  config.AddPowerManagement();
  config.AddPcieEndpoint();
  config.AddMsi(8);
  config.AddMsix({.count = kVectors,
                  .table_bar = 4,
                  .table_offset = kTable,
                  .pba_bar = 4,
                  .pba_offset = kPba});
  return config;
}

// A model whose BARs are memory. It remembers what reached it.
class TestDevice final : public PciDevice {
 public:
  explicit TestDevice(DeviceEnv env, uint16_t device_id = 0x10)
      : PciDevice("test", std::move(env), MakeConfig(device_id), /*msi_count=*/8) {}

  Task<void> Drain() override { co_return; }
  void Resume() override {}

  using PciDevice::config;
  using PciDevice::dma;
  using PciDevice::SetIntxLevel;
  using PciDevice::SignalVector;

  std::map<uint32_t, std::vector<std::byte>> bars = {{0, std::vector<std::byte>(0x1000)},
                                                     {4, std::vector<std::byte>(0x1000)}};
  std::vector<std::tuple<uint32_t, uint64_t, size_t>> accesses;  // BAR, offset, size.
  int resets = 0;
  int master_changes = 0;
  bool refuses_load = false;
  std::optional<bool> intx_of_registers;  // A load finds it in them.
  bool takes_self_access = false;
  std::vector<std::tuple<uint32_t, uint64_t, size_t>> self_accesses;

 private:
  void ReadBar(uint32_t bar, uint64_t offset, Bytes out) override {
    accesses.emplace_back(bar, offset, out.size());
    Copy(out, ConstBytes(bars[bar]).subspan(offset, out.size()));
  }
  void WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) override {
    accesses.emplace_back(bar, offset, in.size());
    Copy(Bytes(bars[bar]).subspan(offset, in.size()), in);
  }
  void OnReset(ResetKind) override { ++resets; }
  void OnBusMasterChanged() override { ++master_changes; }
  void SaveModel(StateWriter& out) const override {
    out.Section("test", 1);
    out.PutBytes(ConstBytes(bars.at(0)).first(64));
  }
  Result<void> LoadModel(StateReader& in) override {
    if (const auto version = in.Section("test", 1); !version)
      return tl::unexpected(version.error());
    std::vector<std::byte> loaded(64);
    in.GetBytes(loaded);
    if (in.remaining() != 0 || refuses_load) return Fail("the model refuses");
    if (const auto finished = in.Finish(); !finished) return finished;
    Copy(Bytes(bars[0]).first(64), loaded);
    if (intx_of_registers) SetIntxLevel(*intx_of_registers);
    return {};
  }
  void SaveModelFast(FastState& out) const override { out.PutArray(bars.at(0)); }
  void LoadModelFast(FastReader& in) override { in.GetArray(std::span(bars[0])); }
  DmaStatus SelfAccess(uint32_t bar, uint64_t offset, Bytes data, DmaAccess access) override {
    if (!takes_self_access) return PciDevice::SelfAccess(bar, offset, data, access);
    self_accesses.emplace_back(bar, offset, data.size());
    const Bytes there = Bytes(bars[bar]).subspan(offset, data.size());
    access == DmaAccess::kRead ? Copy(data, there) : Copy(there, data);
    return DmaStatus::kOk;
  }
};

class MockIrqSink : public IrqSink {
 public:
  MOCK_METHOD(void, SetIntx, (bool), (override));
  MOCK_METHOD(void, SignalMsi, (uint32_t), (override));
  MOCK_METHOD(void, SignalMsix, (uint32_t), (override));
  MOCK_METHOD(bool, owns_msix_table, (), (const, override));
  MOCK_METHOD(bool, msix_pending, (uint32_t), (const, override));
  MOCK_METHOD(void, ClearPending, (), (override));
};

class MockDmaSpace : public DmaSpace {
 public:
  MOCK_METHOD(Task<DmaStatus>, Read, (uint64_t, Bytes), (override));
  MOCK_METHOD(Task<DmaStatus>, Write, (uint64_t, ConstBytes), (override));
  MOCK_METHOD(Task<DmaStatus>, Map, (std::span<const DmaSegment>, DmaAccess, DmaBuffer*),
              (override));
};

Task<DmaStatus> Ok() { co_return DmaStatus::kOk; }

Task<void> Store(Task<DmaStatus> task, DmaStatus* out) { *out = co_await task; }

// Speaks to the function as a driver does.
class PciDeviceTest : public testing::Test {
 protected:
  PciDeviceTest() {
    ON_CALL(irq_, owns_msix_table).WillByDefault([this] { return client_owns_; });
  }

  template <typename T>
  T Read(Region region, uint64_t offset) {
    T value{};
    device_.ReadRegion(region, offset, AsWritableBytes(value));
    return value;
  }
  template <typename T>
  void Write(Region region, uint64_t offset, T value) {
    device_.WriteRegion(region, offset, AsBytes(value));
  }
  template <typename T>
  void WriteConfig(uint64_t offset, T value) {
    Write(Region::kConfig, offset, value);
  }
  uint16_t Status() { return Read<uint16_t>(Region::kConfig, pci::kStatus); }

  void SetBusMaster(bool on) {
    WriteConfig(pci::kCommand, on ? pci::kCommandBusMaster : uint16_t{0});
  }
  void EnableMsix(bool function_mask = false) {
    SetBusMaster(true);
    WriteConfig(
        kMsix + pci::kMsixControl,
        static_cast<uint16_t>(pci::kMsixEnable | (function_mask ? pci::kMsixFunctionMask : 0)));
  }
  void EnableMsi(uint32_t log2_vectors) {
    SetBusMaster(true);
    WriteConfig(kMsi + pci::kMsiControl,
                static_cast<uint16_t>(pci::kMsiEnable | log2_vectors << 4));
  }
  void SetVectorMask(uint32_t vector, bool masked) {
    Write(Region::kBar4, kTable + 16 * vector + 12, uint32_t{masked});
  }
  DmaStatus Run(Task<DmaStatus> task) {
    auto status = DmaStatus::kCancelled;
    scope_.Spawn(Store(std::move(task), &status));
    loop_.RunUntilIdle();
    return status;
  }
  std::vector<std::byte> Save() const { return SaveOf(device_); }
  static std::vector<std::byte> SaveOf(const TestDevice& device) {
    StateWriter writer;
    device.Save(writer);
    return writer.Finish();
  }
  static Result<void> LoadInto(TestDevice& device, ConstBytes state) {
    auto reader = StateReader::Parse(state);
    if (!reader) return tl::unexpected(reader.error());
    return device.Load(*reader);
  }
  DeviceEnv Env() {
    return {.id = "test0", .loop = loop_, .clock = clock_, .dma = dma_, .irq = irq_};
  }

  ManualClock clock_;
  Loop loop_{clock_};
  TaskScope scope_;
  bool client_owns_ = false;
  NiceMock<MockIrqSink> irq_;
  StrictMock<MockDmaSpace> dma_;
  TestDevice device_{Env()};
};

TEST_F(PciDeviceTest, InfoSaysWhatConfigurationSpaceHas) {
  const DeviceInfo& info = device_.info();
  EXPECT_EQ(info.model, "test");
  EXPECT_EQ(info.region(Region::kBar0).size, 0x1000u);
  EXPECT_EQ(info.region(Region::kBar1).size, 0u);
  EXPECT_EQ(info.region(Region::kConfig).size, 4096u);
  EXPECT_EQ(info.region(Region::kRom).size, 0u);
  EXPECT_EQ(info.intx_count, 1u);
  EXPECT_EQ(info.msi_count, 8u);
  EXPECT_EQ(info.msix_count, kVectors);
}

// --- BARs.

TEST_F(PciDeviceTest, AccessesReachTheModelAndWhatLiesOutsideReadsAsOnes) {
  Write(Region::kBar0, 0x10, uint32_t{0x11223344});
  EXPECT_EQ(Read<uint16_t>(Region::kBar0, 0x12), 0x1122);
  EXPECT_EQ(Read<uint32_t>(Region::kBar0, 0xffe), 0xffff'ffffu) << "across the end";
  EXPECT_EQ(Read<uint32_t>(Region::kBar1, 0), 0xffff'ffffu) << "no such BAR";
  EXPECT_EQ(Read<uint32_t>(Region::kRom, 0), 0xffff'ffffu);
  EXPECT_EQ(Read<uint32_t>(Region::kVga, 0), 0xffff'ffffu);
  EXPECT_EQ(Read<uint32_t>(Region::kBar0, ~uint64_t{1}), 0xffff'ffffu) << "wraps at 2^64";
  Write(Region::kBar0, 0xffe, uint32_t{1});
  Write(Region::kVga, 0, uint32_t{1});
  EXPECT_THAT(device_.accesses, ElementsAre(std::tuple(0, 0x10, 4), std::tuple(0, 0x12, 2)));
}

TEST_F(PciDeviceTest, InD3HotBarsAreGoneAndConfigurationSpaceIsNot) {
  Write(Region::kBar0, 0, uint32_t{0x5a5a5a5a});
  WriteConfig(kPmcsr, uint16_t{3});
  EXPECT_EQ(Read<uint32_t>(Region::kBar0, 0), 0xffff'ffffu);
  EXPECT_EQ(Read<uint32_t>(Region::kBar4, kTable), 0xffff'ffffu);
  Write(Region::kBar0, 0, uint32_t{0});
  EXPECT_EQ(Read<uint16_t>(Region::kConfig, 0), 0x1b36);
  EXPECT_EQ(device_.master_changes, 1);
  WriteConfig(kPmcsr, uint16_t{0});
  EXPECT_EQ(Read<uint32_t>(Region::kBar0, 0), 0x5a5a5a5au) << "no soft reset";
}

TEST_F(PciDeviceTest, TheModelNeverSeesTheMsixTableAndPbaHoweverAnAccessLies) {
  std::ranges::fill(device_.bars[4], std::byte{0xaa});
  std::vector<std::byte> all(0x1000);
  device_.ReadRegion(Region::kBar4, 0, all);
  EXPECT_THAT(device_.accesses,
              ElementsAre(std::tuple(4, 0, kTable), std::tuple(4, kTableEnd, kPba - kTableEnd),
                          std::tuple(4, kPbaEnd, 0x1000 - kPbaEnd)));
  EXPECT_EQ(all[kTable - 1], std::byte{0xaa});
  EXPECT_EQ(all[kTable + 12], std::byte{1}) << "vectors are masked after reset";
  EXPECT_EQ(all[kPba], std::byte{0});
  EXPECT_EQ(all[kPbaEnd], std::byte{0xaa});

  device_.accesses.clear();
  const std::vector<std::byte> zeroes(0x1000);
  device_.WriteRegion(Region::kBar4, 0, zeroes);
  EXPECT_EQ(device_.accesses.size(), 3u);
  EXPECT_EQ(Read<uint32_t>(Region::kBar4, kTable + 12), 0u) << "the table took the write";

  device_.accesses.clear();
  Write(Region::kBar4, kTable - 2, uint32_t{0x11223344});
  EXPECT_THAT(device_.accesses, ElementsAre(std::tuple(4, kTable - 2, 2)));
  EXPECT_EQ(Read<uint16_t>(Region::kBar4, kTable), 0x1122);
}

TEST_F(PciDeviceTest, MsixTableEntriesKeepWhatADriverWritesInAnyAccessSize) {
  const uint64_t entry = kTable + 16 * (kVectors - 1);
  Write(Region::kBar4, entry, uint64_t{0xfee0'1000});
  Write(Region::kBar4, entry + 8, uint32_t{0x4041});
  Write(Region::kBar4, entry + 12, uint8_t{0});
  EXPECT_EQ(Read<uint32_t>(Region::kBar4, entry), 0xfee0'1000u);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, entry + 8), 0x4041u);
  EXPECT_EQ(Read<uint8_t>(Region::kBar4, entry + 9), 0x40);
  Write(Region::kBar4, kPba, ~uint64_t{0});
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 0u) << "the PBA is read-only";
}

// --- MSI-X, the table being ours.

TEST_F(PciDeviceTest, AnUnmaskedVectorIsSignalledAndAMaskedOneWaits) {
  EnableMsix();
  SetVectorMask(65, false);
  EXPECT_CALL(irq_, SignalMsix(65));
  device_.SignalVector(65);
  Mock::VerifyAndClearExpectations(&irq_);

  EXPECT_CALL(irq_, SignalMsix).Times(0);
  device_.SignalVector(64);
  device_.SignalVector(64);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba + 8), 1u);
  Mock::VerifyAndClearExpectations(&irq_);

  EXPECT_CALL(irq_, SignalMsix(64)).Times(1);
  SetVectorMask(64, false);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba + 8), 0u);
}

TEST_F(PciDeviceTest, TheFunctionMaskHoldsAllVectorsBackAndItsEndLetsThemGo) {
  EnableMsix(/*function_mask=*/true);
  for (uint32_t vector : {0u, 3u, 5u}) SetVectorMask(vector, false);
  EXPECT_CALL(irq_, SignalMsix).Times(0);
  device_.SignalVector(5);
  device_.SignalVector(3);
  device_.SignalVector(1);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 0x2au);
  Mock::VerifyAndClearExpectations(&irq_);

  {
    const InSequence in_order;
    EXPECT_CALL(irq_, SignalMsix(3));
    EXPECT_CALL(irq_, SignalMsix(5));
  }
  EnableMsix();
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 2u) << "vector 1 has a mask of its own";
}

TEST_F(PciDeviceTest, VectorsThatAreNotThereOrNotEnabledAreNotSignalled) {
  EXPECT_CALL(irq_, SignalMsix).Times(0);
  EXPECT_CALL(irq_, SignalMsi).Times(0);
  device_.SignalVector(0);
  EnableMsix();
  device_.SignalVector(kVectors);
  device_.SignalVector(~0u);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 0u);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba + 8), 0u);
}

// --- MSI-X, the client's table.

TEST_F(PciDeviceTest, WhereTheClientOwnsTheTableEveryVectorIsSignalledWhateverOurMasksSay) {
  client_owns_ = true;
  EnableMsix(/*function_mask=*/true);
  EXPECT_CALL(irq_, SignalMsix(7));
  device_.SignalVector(7);
  EXPECT_CALL(irq_, msix_pending).WillRepeatedly([](uint32_t vector) { return vector == 65; });
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 0u);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba + 8), 2u) << "pending bits are the sink's";
}

// --- MSI.

TEST_F(PciDeviceTest, MsiVectorsAreSharedModuloWhatTheDriverAllotted) {
  EnableMsi(3);
  EXPECT_CALL(irq_, SignalMsi(7));
  device_.SignalVector(7);
  Mock::VerifyAndClearExpectations(&irq_);
  EnableMsi(1);
  EXPECT_CALL(irq_, SignalMsi(1));
  device_.SignalVector(7);
  Mock::VerifyAndClearExpectations(&irq_);
  EnableMsi(0);
  EXPECT_CALL(irq_, SignalMsi(0)).Times(2);
  device_.SignalVector(7);
  device_.SignalVector(2);
}

TEST_F(PciDeviceTest, AMaskedMsiVectorIsPendingUntilItIsUnmasked) {
  EnableMsi(2);
  WriteConfig(kMsi + pci::kMsiMask, uint32_t{0x6});
  EXPECT_CALL(irq_, SignalMsi).Times(0);
  device_.SignalVector(1);
  device_.SignalVector(2);
  EXPECT_EQ(Read<uint32_t>(Region::kConfig, kMsi + pci::kMsiPending), 6u);
  Mock::VerifyAndClearExpectations(&irq_);

  EXPECT_CALL(irq_, SignalMsi(2)).Times(1);
  WriteConfig(kMsi + pci::kMsiMask, uint32_t{0x2});
  EXPECT_EQ(Read<uint32_t>(Region::kConfig, kMsi + pci::kMsiPending), 2u);
}

TEST_F(PciDeviceTest, MessagesWaitForBusMastering) {
  EnableMsix();
  SetVectorMask(3, false);
  SetBusMaster(false);
  EXPECT_CALL(irq_, SignalMsix).Times(0);
  device_.SignalVector(3);
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 8u);
  Mock::VerifyAndClearExpectations(&irq_);
  EXPECT_CALL(irq_, SignalMsix(3)).Times(1);
  SetBusMaster(true);
  Mock::VerifyAndClearExpectations(&irq_);

  WriteConfig(kMsix + pci::kMsixControl, uint16_t{0});
  EnableMsi(2);
  EXPECT_CALL(irq_, SignalMsi).Times(0);
  WriteConfig(kPmcsr, pci::kPmcsrD3Hot);
  device_.SignalVector(1);
  Mock::VerifyAndClearExpectations(&irq_);
  EXPECT_CALL(irq_, SignalMsi(1)).Times(1);
  WriteConfig(kPmcsr, pci::kPmcsrD0);
}

TEST_F(PciDeviceTest, MsixWinsOverMsi) {
  EnableMsi(3);
  EnableMsix();
  SetVectorMask(2, false);
  EXPECT_CALL(irq_, SignalMsi).Times(0);
  EXPECT_CALL(irq_, SignalMsix(2));
  device_.SignalVector(2);
}

// --- INTx.

TEST_F(PciDeviceTest, IntxFollowsTheLevelOnceForEachChange) {
  const InSequence in_order;
  EXPECT_CALL(irq_, SetIntx(true));
  EXPECT_CALL(irq_, SetIntx(false));
  device_.SetIntxLevel(true);
  device_.SetIntxLevel(true);
  EXPECT_TRUE(Status() & pci::kStatusInterrupt);
  device_.SetIntxLevel(false);
  device_.SetIntxLevel(false);
  EXPECT_FALSE(Status() & pci::kStatusInterrupt);
}

TEST_F(PciDeviceTest, DisabledIntxKeepsTheLineDownAndTheStatusBitUp) {
  WriteConfig(pci::kCommand, pci::kCommandIntxDisable);
  EXPECT_CALL(irq_, SetIntx).Times(0);
  device_.SetIntxLevel(true);
  EXPECT_TRUE(Status() & pci::kStatusInterrupt);
  Mock::VerifyAndClearExpectations(&irq_);

  EXPECT_CALL(irq_, SetIntx(true));
  WriteConfig(pci::kCommand, uint16_t{0});
  Mock::VerifyAndClearExpectations(&irq_);

  EXPECT_CALL(irq_, SetIntx(false));
  WriteConfig(pci::kCommand + 1, uint8_t{4});
}

TEST_F(PciDeviceTest, WhileMsixIsOnThereIsNoIntx) {
  EXPECT_CALL(irq_, SetIntx(true));
  device_.SetIntxLevel(true);
  Mock::VerifyAndClearExpectations(&irq_);
  EXPECT_CALL(irq_, SetIntx(false));
  EnableMsix();
  EXPECT_FALSE(Status() & pci::kStatusInterrupt);
  Mock::VerifyAndClearExpectations(&irq_);
  EXPECT_CALL(irq_, SetIntx(true));
  WriteConfig(kMsix + pci::kMsixControl, uint16_t{0});
  EXPECT_TRUE(Status() & pci::kStatusInterrupt);
}

// --- Reset.

TEST_F(PciDeviceTest, ResetTakesRegistersInterruptsAndPendingBitsBack) {
  EnableMsix(/*function_mask=*/true);
  SetVectorMask(0, false);
  device_.SignalVector(0);
  WriteConfig(kMsix + pci::kMsixControl, uint16_t{0});
  device_.SetIntxLevel(true);
  EXPECT_CALL(irq_, SetIntx(false));
  EXPECT_CALL(irq_, ClearPending);
  device_.Reset(ResetKind::kFunction);
  EXPECT_EQ(device_.resets, 1);
  EXPECT_EQ(Status(), pci::kStatusCapabilities);
  EXPECT_EQ(Read<uint32_t>(Region::kBar4, kTable + 12), 1u) << "masked again";
  EXPECT_EQ(Read<uint64_t>(Region::kBar4, kPba), 0u);
}

TEST_F(PciDeviceTest, FunctionLevelResetIsAReset) {
  WriteConfig(pci::kCommand, pci::kCommandBusMaster);
  WriteConfig(kDeviceControl, pci::kPcieInitiateFlr);
  EXPECT_EQ(device_.resets, 1);
  EXPECT_EQ(Read<uint16_t>(Region::kConfig, pci::kCommand), 0);
}

// --- DMA.

TEST_F(PciDeviceTest, WithoutBusMasteringNothingReachesMemory) {
  std::array<std::byte, 4> data{};
  DmaBuffer buffer;
  const DmaSegment segment{0x1000, 4};
  EXPECT_EQ(Run(device_.dma().Read(0x1000, data)), DmaStatus::kFault);
  EXPECT_EQ(Run(device_.dma().Write(0x1000, data)), DmaStatus::kFault);
  EXPECT_EQ(Run(device_.dma().Map(std::span(&segment, 1), DmaAccess::kRead, &buffer)),
            DmaStatus::kFault);

  WriteConfig(pci::kCommand, pci::kCommandBusMaster);
  EXPECT_EQ(device_.master_changes, 1);
  EXPECT_CALL(dma_, Read(0x1000, _)).WillOnce([](uint64_t, Bytes) { return Ok(); });
  EXPECT_CALL(dma_, Write(0x1000, _)).WillOnce([](uint64_t, ConstBytes) { return Ok(); });
  EXPECT_CALL(dma_, Map).WillOnce([](auto, DmaAccess, DmaBuffer*) { return Ok(); });
  EXPECT_EQ(Run(device_.dma().Read(0x1000, data)), DmaStatus::kOk);
  EXPECT_EQ(Run(device_.dma().Write(0x1000, data)), DmaStatus::kOk);
  EXPECT_EQ(Run(device_.dma().Map(std::span(&segment, 1), DmaAccess::kRead, &buffer)),
            DmaStatus::kOk);
}

// Counts what is written back at the end of a transfer.
class CountingLease final : public DmaBuffer::Lease {
 public:
  explicit CountingLease(int& write_backs) : write_backs_(write_backs) {}
  Task<DmaStatus> WriteBack() override {
    ++write_backs_;
    co_return DmaStatus::kOk;
  }
  bool revoked() const override { return false; }

 private:
  int& write_backs_;
};

TEST_F(PciDeviceTest, ATransferThatLosesBusMasteringOnItsWayWritesNothing) {
  int write_backs = 0;
  EXPECT_CALL(dma_, Map).WillRepeatedly([&](auto, DmaAccess, DmaBuffer* out) {
    *out = DmaBuffer({}, std::make_unique<CountingLease>(write_backs));
    return Ok();
  });
  const DmaSegment segment{0x1000, 4};
  for (const bool loses : {false, true}) {
    WriteConfig(pci::kCommand, pci::kCommandBusMaster);
    DmaBuffer buffer;
    ASSERT_EQ(Run(device_.dma().Map(std::span(&segment, 1), DmaAccess::kWrite, &buffer)),
              DmaStatus::kOk);
    if (loses) WriteConfig(pci::kCommand, uint16_t{0});
    EXPECT_EQ(Run(buffer.Finish()), loses ? DmaStatus::kFault : DmaStatus::kOk);
  }
  EXPECT_EQ(write_backs, 1);
}

TEST_F(PciDeviceTest, InD3HotNothingReachesMemory) {
  WriteConfig(pci::kCommand, pci::kCommandBusMaster);
  WriteConfig(kPmcsr, uint16_t{3});
  std::array<std::byte, 4> data{};
  EXPECT_EQ(Run(device_.dma().Read(0x1000, data)), DmaStatus::kFault);
}

class PciDeviceSelfDmaTest : public PciDeviceTest {
 protected:
  static constexpr uint64_t kBar = 0xfe00'0000;

  PciDeviceSelfDmaTest() {
    WriteConfig(pci::kBar0, static_cast<uint32_t>(kBar));
    WriteConfig(pci::kCommand, static_cast<uint16_t>(pci::kCommandMemory | pci::kCommandBusMaster));
  }
};

TEST_F(PciDeviceSelfDmaTest, DmaToTheFunctionsOwnBarIsAMasterAbort) {
  std::array<std::byte, 16> data{};
  DmaBuffer buffer;
  for (const uint64_t iova : {kBar, kBar + 0xff8, kBar - 8}) {
    EXPECT_EQ(Run(device_.dma().Read(iova, data)), DmaStatus::kFault);
    EXPECT_EQ(Run(device_.dma().Write(iova, data)), DmaStatus::kFault);
    const DmaSegment segments[] = {{0x1000, 512}, {iova, 16}};
    EXPECT_EQ(Run(device_.dma().Map(segments, DmaAccess::kWrite, &buffer)), DmaStatus::kFault);
  }
  EXPECT_TRUE(device_.accesses.empty());
}

TEST_F(PciDeviceSelfDmaTest, AModelThatTakesSelfAccessesGetsThoseInsideItsBarAndNoOthers) {
  device_.takes_self_access = true;
  std::array<std::byte, 16> data;
  data.fill(std::byte{0x77});
  EXPECT_EQ(Run(device_.dma().Write(kBar + 0x20, data)), DmaStatus::kOk);
  data.fill(std::byte{0});
  EXPECT_EQ(Run(device_.dma().Read(kBar + 0x20, data)), DmaStatus::kOk);
  EXPECT_EQ(data[15], std::byte{0x77});
  EXPECT_EQ(Run(device_.dma().Read(kBar + 0xff0, data)), DmaStatus::kOk) << "up to the end";
  EXPECT_EQ(Run(device_.dma().Read(kBar + 0xff8, data)), DmaStatus::kFault) << "across the end";
  EXPECT_EQ(Run(device_.dma().Read(kBar - 8, data)), DmaStatus::kFault) << "across the start";
  EXPECT_EQ(Run(device_.dma().Write(kBar + 0xff8, data)), DmaStatus::kFault);
  EXPECT_THAT(device_.self_accesses, ElementsAre(std::tuple(0, 0x20, 16), std::tuple(0, 0x20, 16),
                                                 std::tuple(0, 0xff0, 16)));
}

// --- State.

class PciDeviceStateTest : public PciDeviceTest {
 protected:
  // Every part of the state differs from its reset value.
  void Use(TestDevice& device) {
    const auto write = [&](Region region, uint64_t offset, auto value) {
      device.WriteRegion(region, offset, AsBytes(value));
    };
    write(Region::kConfig, pci::kBar0, uint32_t{0xfe00'0000});
    write(Region::kConfig, kMsix + pci::kMsixControl,
          static_cast<uint16_t>(pci::kMsixEnable | pci::kMsixFunctionMask));
    write(Region::kBar4, kTable, uint64_t{0xfee0'0000});
    device.SignalVector(0);
    device.SignalVector(65);
    write(Region::kConfig, kMsix + pci::kMsixControl, uint16_t{0});
    device.SetIntxLevel(true);
    for (uint8_t i = 0; i < 64; ++i) write(Region::kBar0, i, i);
  }
};

TEST_F(PciDeviceStateTest, ASavedDeviceLoadedIntoAnotherIsTheSameDevice) {
  Use(device_);
  const auto state = Save();
  TestDevice other(Env());
  EXPECT_CALL(irq_, SetIntx(true));  // The line is up where it was.
  const auto loaded = LoadInto(other, state);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(SaveOf(other), state);
  EXPECT_TRUE(std::ranges::equal(other.config().bytes(), device_.config().bytes()));
  EXPECT_EQ(other.bars[0], device_.bars[0]);
}

// As where a state was damaged on its way, or is of a build with a bug.
TEST_F(PciDeviceStateTest, TheModelKnowsBetterThanItsStateWhetherTheLineIsUp) {
  const auto state = Save();
  TestDevice other(Env());
  other.intx_of_registers = true;
  EXPECT_CALL(irq_, SetIntx(true));
  ASSERT_TRUE(LoadInto(other, state));
}

TEST_F(PciDeviceStateTest, PendingBitsThatTheClientKeepsMoveWithTheDevice) {
  client_owns_ = true;
  EnableMsix();
  EXPECT_CALL(irq_, msix_pending).WillRepeatedly([](uint32_t vector) { return vector == 9; });
  const auto state = Save();
  TestDevice other(Env());
  // At the other end: an armed eventfd rings, one that is armed later rings then.
  EXPECT_CALL(irq_, SignalMsix(9));
  ASSERT_TRUE(LoadInto(other, state));
}

TEST_F(PciDeviceStateTest, ALoadThatTheModelRefusesChangesNothing) {
  Use(device_);
  const auto state = Save();
  TestDevice other(Env());
  other.refuses_load = true;
  const auto before = SaveOf(other);
  EXPECT_CALL(irq_, SetIntx).Times(0);
  EXPECT_CALL(irq_, SignalMsix).Times(0);
  const auto loaded = LoadInto(other, state);
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message, HasSubstr("refuses"));
  EXPECT_EQ(SaveOf(other), before);
}

TEST_F(PciDeviceStateTest, TheStateOfAnotherDeviceIsRefused) {
  TestDevice other(Env(), /*device_id=*/0x11);
  const auto before = SaveOf(other);
  const auto loaded = LoadInto(other, Save());
  ASSERT_FALSE(loaded);
  EXPECT_THAT(loaded.error().message, HasSubstr("another device"));
  EXPECT_EQ(SaveOf(other), before);
}

TEST_F(PciDeviceStateTest, AFastLoadIsBackWhereTheFastSaveWas) {
  Use(device_);
  const auto state = Save();
  FastState fast;
  device_.SaveFast(fast);
  const auto bars = device_.bars;
  EXPECT_CALL(irq_, SetIntx(false));
  device_.Reset(ResetKind::kFunction);
  Mock::VerifyAndClearExpectations(&irq_);
  WriteConfig(pci::kBar0, uint32_t{0x1234'0000});
  Write(Region::kBar4, kTable + 8, uint32_t{7});
  Write(Region::kBar0, 0, uint32_t{0x7777'7777});
  EXPECT_CALL(irq_, SetIntx(true));
  EXPECT_CALL(irq_, SignalMsix).Times(0);
  device_.LoadFast(fast);
  EXPECT_EQ(Save(), state);
  EXPECT_EQ(device_.bars[0], bars.at(0));
  // What was pending is delivered when its mask goes.
  Mock::VerifyAndClearExpectations(&irq_);
  EXPECT_CALL(irq_, SetIntx(false));  // MSI-X comes on.
  EXPECT_CALL(irq_, SignalMsix(0));
  EXPECT_CALL(irq_, SignalMsix(65));
  SetVectorMask(0, false);
  SetVectorMask(65, false);
  EnableMsix();
}

TEST_F(PciDeviceStateTest, AFastLoadLeavesALineThatIsWhereItWas) {
  device_.SetIntxLevel(true);
  FastState fast;
  device_.SaveFast(fast);
  EXPECT_CALL(irq_, SetIntx).Times(0);
  device_.LoadFast(fast);
  Mock::VerifyAndClearExpectations(&irq_);
  device_.Reset(ResetKind::kFunction);
  FastState fresh;
  device_.SaveFast(fresh);
  EXPECT_EQ(fresh.size(), fast.size());
  device_.SetIntxLevel(true);
  EXPECT_CALL(irq_, SetIntx(false));
  device_.LoadFast(fresh);
}

TEST_F(PciDeviceStateTest, PendingBitsThatTheClientKeepsAreInAFastStateToo) {
  client_owns_ = true;
  EnableMsix();
  FastState fast;
  {
    EXPECT_CALL(irq_, msix_pending).WillRepeatedly([](uint32_t vector) { return vector == 65; });
    device_.SaveFast(fast);
  }
  device_.Reset(ResetKind::kFunction);
  EXPECT_CALL(irq_, SignalMsix(65));
  device_.LoadFast(fast);
}

TEST_F(PciDeviceStateTest, NoTruncatedStateLoads) {
  Use(device_);
  const auto state = Save();
  TestDevice target(Env());
  const auto before = SaveOf(target);
  for (size_t size = 0; size < state.size(); ++size) {
    ASSERT_FALSE(LoadInto(target, ConstBytes(state).first(size))) << size << " bytes";
  }
  EXPECT_EQ(SaveOf(target), before);
  EXPECT_TRUE(LoadInto(target, state));
}

TEST_F(PciDeviceStateTest, AStateWithAFlippedByteIsRefusedOrIsWhatTheDeviceThenHas) {
  Use(device_);
  const auto state = Save();
  const auto fresh = SaveOf(TestDevice(Env()));
  constexpr size_t kStatusAt = 12 + 11 + pci::kStatus;  // Behind the headers of state and section.
  size_t refused = 0;
  for (size_t at = 0; at < state.size(); ++at) {
    for (const unsigned flip : {0x01u, 0x80u, 0xffu}) {
      auto flipped = state;
      flipped[at] ^= static_cast<std::byte>(flip);
      TestDevice target(Env());
      const bool loaded = LoadInto(target, flipped).has_value();
      const auto now = SaveOf(target);
      refused += !loaded;
      // The interrupt status bit follows from the rest. A flip of a section's kind means nothing to
      // a build that knows the section.
      auto expected = state;
      flipped[kStatusAt] = expected[kStatusAt] = now[kStatusAt];
      ASSERT_TRUE(loaded ? now == flipped || now == expected : now == fresh)
          << "byte " << at << " ^ " << flip;
    }
  }
  EXPECT_GT(refused, 3 * 3000u) << "most of configuration space never changes";
}

}  // namespace
}  // namespace farside
