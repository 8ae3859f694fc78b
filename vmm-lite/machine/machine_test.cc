// The parts of the machine that need no KVM.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/machine/fw_cfg.h"
#include "vmm-lite/machine/guest_ram.h"
#include "vmm-lite/machine/legacy.h"
#include "vmm-lite/machine/uart.h"
#include "vmm-lite/pci/pci_bus.h"

namespace farside::vmm {
namespace {

template <typename T>
T Read(IoHandler& handler, uint64_t offset) {
  T value{};
  handler.Read(0, offset, AsWritableBytes(value));
  return value;
}
template <typename T>
void Write(IoHandler& handler, uint64_t offset, T value) {
  handler.Write(0, offset, AsBytes(value));
}

class Register final : public IoHandler {
 public:
  void Read(uint32_t, uint64_t offset, Bytes out) override { Fill(out, uint8_t(offset)); }
  void Write(uint32_t, uint64_t, ConstBytes in) override { written = LoadLePartial(in); }
  uint64_t written = 0;
};

TEST(AddressMapTest, FindsTheRangeThatHoldsTheWholeAccess) {
  AddressMap map;
  const auto device = std::make_shared<Register>();
  ASSERT_TRUE(map.Add(0x1000, 0x100, device));
  uint32_t value = 0;
  map.Read(0, 0x1010, AsWritableBytes(value));
  EXPECT_EQ(value, 0x1010'1010u);
  for (const uint64_t outside : {0xfful, 0xffeul, 0x10feul, 0x1100ul, UINT64_MAX - 3}) {
    map.Read(0, outside, AsWritableBytes(value));
    EXPECT_EQ(value, UINT32_MAX) << outside;
    map.Write(0, outside, AsBytes(value));
  }
  EXPECT_EQ(device->written, 0u);
  map.Remove(0x1000);
  map.Read(0, 0x1010, AsWritableBytes(value));
  EXPECT_EQ(value, UINT32_MAX);
}

TEST(AddressMapTest, RefusesWhatOverlapsOrWraps) {
  AddressMap map;
  const auto device = std::make_shared<Register>();
  ASSERT_TRUE(map.Add(0x1000, 0x100, device));
  for (const auto& [start, size] : {std::pair<uint64_t, uint64_t>{0x1000, 1},
                                    {0x10ff, 1},
                                    {0xfff, 2},
                                    {0, 0x2000},
                                    {0x5000, 0},
                                    {UINT64_MAX, 2}}) {
    EXPECT_FALSE(map.Add(start, size, device)) << start << " " << size;
  }
  EXPECT_TRUE(map.Add(0x1100, 1, device));
  EXPECT_TRUE(map.Add(0xfff, 1, device));
  EXPECT_TRUE(map.Add(UINT64_MAX, 1, device)) << "the last byte";
}

class UartTest : public testing::Test {
 protected:
  ~UartTest() override {
    close(pipe_[0]);
    close(pipe_[1]);
  }
  std::string Sent() {
    std::array<char, 256> text;
    const ssize_t got = read(pipe_[0], text.data(), text.size());
    return std::string(text.data(), got > 0 ? static_cast<size_t>(got) : 0);
  }

  int pipe_[2] = {};
  bool irq_ = false;
  Uart uart_{(pipe2(pipe_, O_NONBLOCK), pipe_[1]), [this](bool level) { irq_ = level; }};
};

TEST_F(UartTest, SendsAndSaysThatThereIsRoom) {
  for (const char c : std::string("ok\n")) Write<uint8_t>(uart_, 0, uint8_t(c));
  EXPECT_EQ(Sent(), "ok\n");
  EXPECT_EQ(Read<uint8_t>(uart_, 5) & 0x60, 0x60);
}

TEST_F(UartTest, TransmitterInterruptIsTakenByReadingIt) {
  Write<uint8_t>(uart_, 1, 2);
  EXPECT_TRUE(irq_) << "enabling it with room raises it";
  EXPECT_EQ(Read<uint8_t>(uart_, 2) & 0xf, 2);
  EXPECT_FALSE(irq_);
  Write<uint8_t>(uart_, 0, 'x');
  EXPECT_TRUE(irq_);
}

TEST_F(UartTest, ReceivesBehindItsInterruptAndForgetsTheRest) {
  Write<uint8_t>(uart_, 1, 1);
  const std::vector<std::byte> much(10'000, std::byte{'a'});
  uart_.Receive(much);
  EXPECT_TRUE(irq_);
  EXPECT_EQ(Read<uint8_t>(uart_, 2) & 0xf, 4);
  size_t count = 0;
  while ((Read<uint8_t>(uart_, 5) & 1) != 0) {
    EXPECT_EQ(Read<uint8_t>(uart_, 0), 'a');
    ++count;
  }
  EXPECT_EQ(count, 4096u);
  EXPECT_FALSE(irq_);
}

TEST_F(UartTest, LoopsBackAndKeepsTheDivisorApart) {
  Write<uint8_t>(uart_, 3, 0x80);
  Write<uint8_t>(uart_, 0, 1);
  EXPECT_EQ(Sent(), "") << "the divisor";
  Write<uint8_t>(uart_, 3, 3);
  Write<uint8_t>(uart_, 4, 0x1f);
  EXPECT_EQ(Read<uint8_t>(uart_, 6) & 0xf0, 0xf0);
  Write<uint8_t>(uart_, 0, 'l');
  EXPECT_EQ(Sent(), "");
  EXPECT_EQ(Read<uint8_t>(uart_, 0), 'l');
}

TEST(CmosTest, ShowsTheTimeAndNeverAnUpdate) {
  Cmos cmos(512 << 20, 0, 2);
  const auto read = [&cmos](uint8_t index) {
    Write<uint8_t>(cmos, 0, index);
    return Read<uint8_t>(cmos, 1);
  };
  EXPECT_EQ(read(0x0a) & 0x80, 0);
  const std::chrono::year_month_day today(
      std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now()));
  const int year = static_cast<int>(today.year());
  EXPECT_EQ(read(0x32) >> 4, year / 1000);
  EXPECT_EQ(read(0x09), year % 100 / 10 << 4 | year % 10);
  EXPECT_EQ(read(0x34) | read(0x35) << 8, (512 - 16) * 16) << "64 KiB from 16 MiB on";
  EXPECT_EQ(read(0x5f), 1);
}

TEST(PowerManagementTest, TheButtonInterruptsUntilItIsAcknowledged) {
  bool irq = false;
  PowerManagement power([&](bool level) { irq = level; }, [] {});
  Write<uint16_t>(power, 2, 1 << 8);
  EXPECT_FALSE(irq);
  power.PressPowerButton();
  EXPECT_TRUE(irq);
  EXPECT_EQ(Read<uint16_t>(power, 0), 1 << 8);
  Write<uint16_t>(power, 0, 1 << 8);
  EXPECT_FALSE(irq);
}

TEST(PowerManagementTest, S5SwitchesOffAndNothingElseDoes) {
  int off = 0;
  PowerManagement power([](bool) {}, [&] { ++off; });
  EXPECT_EQ(Read<uint16_t>(power, 4) & 1, 1) << "ACPI is on";
  Write<uint16_t>(power, 4, kSleepTypeS5 << 10);
  Write<uint16_t>(power, 4, 1 << 13 | 1 << 10);
  EXPECT_EQ(off, 0);
  Write<uint16_t>(power, 4, 1 << 13 | kSleepTypeS5 << 10);
  EXPECT_EQ(off, 1);
  const auto before = Read<uint32_t>(power, 8);
  usleep(2000);
  EXPECT_GT((Read<uint32_t>(power, 8) - before) & 0xff'ffff, 3000u) << "3.58 MHz";
}

std::string ReadItem(FwCfg& config, uint16_t key, size_t size) {
  Write<uint16_t>(config, 0, key);
  std::string out;
  for (size_t i = 0; i < size; ++i) out += static_cast<char>(Read<uint8_t>(config, 1));
  return out;
}

TEST(FwCfgTest, ItemsReadFromTheirStartAndAsZeroesBehindTheirEnd) {
  FwCfg config(3);
  EXPECT_EQ(ReadItem(config, 0, 6), std::string("QEMU\0\0", 6));
  EXPECT_EQ(ReadItem(config, 1, 4), std::string("\1\0\0\0", 4)) << "ports, no DMA";
  EXPECT_EQ(ReadItem(config, 5, 2), std::string("\3\0", 2));
  EXPECT_EQ(ReadItem(config, 0x0f, 3), std::string("\3\0\0", 3));
  EXPECT_EQ(ReadItem(config, 0x8003, 4), std::string(4, '\0')) << "not there";
  EXPECT_EQ(ReadItem(config, 0, 4), "QEMU") << "again";
}

TEST(FwCfgTest, WritesOfDataAreIgnored) {
  FwCfg config(1);
  EXPECT_EQ(ReadItem(config, 0, 1), "Q");
  Write<uint8_t>(config, 1, 5);
  Write<uint8_t>(config, 0, 5);
  EXPECT_EQ(Read<uint16_t>(config, 0), 0) << "the selector can't be read";
  EXPECT_EQ(Read<uint8_t>(config, 1), 'E');
  EXPECT_EQ(ReadItem(config, 0, 4), "QEMU");
}

TEST(FwCfgTest, TheDirectoryNamesTheFiles) {
  FwCfg config(1);
  EXPECT_EQ(ReadItem(config, 0x19, 4), std::string(4, '\0'));
  config.SetFile("etc/a", std::as_bytes(std::span("old", 3)));
  config.SetFile("etc/b", std::as_bytes(std::span("other", 5)));
  config.SetFile("etc/a", std::as_bytes(std::span("anew", 4)));
  std::string expected(
      "\0\0\0\2"
      "\0\0\0\4\0\x20\0\0etc/a",
      17);
  expected.resize(4 + 64);
  expected += std::string("\0\0\0\5\0\x21\0\0etc/b", 13);
  expected.resize(4 + 2 * 64);
  EXPECT_EQ(ReadItem(config, 0x19, 4 + 2 * 64), expected);
  EXPECT_EQ(ReadItem(config, 0x20, 5), std::string("anew\0", 5));
  EXPECT_EQ(ReadItem(config, 0x21, 5), "other");
}

TEST(FwCfgTest, TheRsdpLeadsToTablesThatTheMemoryMapKeeps) {
  auto ram = GuestRam::Create(64 << 20);
  ASSERT_TRUE(ram);
  FwCfg config(2);
  ASSERT_TRUE(config.Describe(**ram, 2));
  const std::string rsdp = ReadItem(config, 0x20, 36);
  EXPECT_EQ(rsdp.substr(0, 8), "RSD PTR ");
  const auto xsdt = LoadLe<uint64_t>(std::as_bytes(std::span(rsdp)).subspan(24));
  std::array<char, 4> name{};
  ASSERT_TRUE((*ram)->Read(xsdt, AsWritableBytes(name)));
  EXPECT_EQ(std::string_view(name.data(), 4), "XSDT");
  const std::string loader = ReadItem(config, 0x21, 128);
  EXPECT_EQ(loader.substr(0, 18), std::string("\1\0\0\0etc/acpi/rsdp\0", 18));
  EXPECT_EQ(loader.substr(60, 5), std::string("\x10\0\0\0\2", 5)) << "aligned, in the F segment";
  const std::string map = ReadItem(config, 0x22, 40);
  const ConstBytes bytes = std::as_bytes(std::span(map));
  const uint64_t tables = (64 << 20) - kFirmwareTablesSize;
  EXPECT_EQ(LoadLe<uint64_t>(bytes.subspan(8)), tables);
  EXPECT_EQ(LoadLe<uint32_t>(bytes.subspan(16)), 1u);
  EXPECT_EQ(LoadLe<uint64_t>(bytes.subspan(20)), tables);
  EXPECT_EQ(LoadLe<uint64_t>(bytes.subspan(28)), kFirmwareTablesSize);
  EXPECT_EQ(LoadLe<uint32_t>(bytes.subspan(36)), 2u) << "reserved";
  EXPECT_GE(xsdt, tables);
}

class Stored final : public PciFunction {
 public:
  Stored() { space.AllowWrites<uint32_t>(0x40, UINT32_MAX); }
  void ReadConfig(uint32_t, uint32_t offset, Bytes out) override { space.Read(offset, out); }
  void WriteConfig(uint32_t, uint32_t offset, ConstBytes in) override { space.Write(offset, in); }
  void Reset() override {}
  ConfigSpace space;
};

class PciHostTest : public testing::Test {
 protected:
  PciHostTest() { host_.bus().Set(3, function_); }
  std::shared_ptr<Stored> function_ = std::make_shared<Stored>();
  PciHost host_;
  int resets_ = 0;
  std::shared_ptr<IoHandler> ports_ = host_.MakePorts([this] { ++resets_; });
  std::shared_ptr<IoHandler> ecam_ = host_.MakeEcam();
};

TEST_F(PciHostTest, BothMechanismsReachTheSameRegister) {
  Write<uint32_t>(*ports_, 0, 0x8000'0000 | 3 << 11 | 0x40);
  Write<uint32_t>(*ports_, 4, 0x1122'3344);
  EXPECT_EQ(Read<uint32_t>(*ecam_, 3 << 15 | 0x40), 0x1122'3344u);
  EXPECT_EQ(Read<uint8_t>(*ports_, 6), 0x22);
  Write<uint16_t>(*ecam_, 3 << 15 | 0x42, 0x5566);
  EXPECT_EQ(Read<uint32_t>(*ports_, 4), 0x5566'3344u);
  EXPECT_EQ(Read<uint32_t>(*ports_, 0), 0x8000'0000u | 3 << 11 | 0x40);
}

TEST_F(PciHostTest, NothingReadsAsOnes) {
  EXPECT_EQ(Read<uint32_t>(*ecam_, 4 << 15), UINT32_MAX) << "an empty slot";
  EXPECT_EQ(Read<uint32_t>(*ecam_, 3 << 15 | 1 << 12), UINT32_MAX) << "another function";
  EXPECT_EQ(Read<uint32_t>(*ecam_, 1 << 20 | 3 << 15), UINT32_MAX) << "another bus";
  EXPECT_EQ(Read<uint32_t>(*ecam_, 3 << 15 | 0x41), UINT32_MAX) << "not aligned";
  Write<uint32_t>(*ports_, 0, 3 << 11 | 0x40);
  EXPECT_EQ(Read<uint32_t>(*ports_, 4), UINT32_MAX) << "not enabled";
}

TEST_F(PciHostTest, OnlyTheResetValueResets) {
  Write<uint8_t>(*ports_, 1, 0x02);
  EXPECT_EQ(resets_, 0);
  Write<uint8_t>(*ports_, 1, 0x06);
  EXPECT_EQ(resets_, 1);
}

TEST(ConfigSpaceTest, OnlyWritableBitsChangeAndOnesClear) {
  ConfigSpace space;
  space.Set<uint16_t>(6, 0xffff);
  space.AllowWrites<uint16_t>(4, 0x0007);
  space.AllowClears<uint16_t>(6, 0xf900);
  const uint32_t all = UINT32_MAX;
  space.Write(4, AsBytes(all));
  EXPECT_EQ(space.Get<uint16_t>(4), 0x0007);
  EXPECT_EQ(space.Get<uint16_t>(6), 0x06ff);
}

}  // namespace
}  // namespace farside::vmm
