// Registers as a driver sees them, interrupts and timers.
#include <gtest/gtest.h>

#include "devices/lsi53c895a/test_support.h"

namespace farside::lsi53c895a {
namespace {

class RegistersTest : public ChipTest {};
INSTANTIATE_DMA_MODES(RegistersTest);

TEST_P(RegistersTest, HaveTheManualsResetValues) {
  EXPECT_EQ(m().Read8(kScntl0), 0xc0);
  EXPECT_EQ(m().Read8(kDstat), 0x80);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  EXPECT_EQ(m().Read8(kStest4), 0xe0);
  EXPECT_EQ(m().Read8(kCtest0), 0xff);
  EXPECT_EQ(m().Read8(kSstat2), kSstat2Ldsc) << "page 4-46";
  EXPECT_EQ(m().Read32(kDbc) >> 24, 0x40u) << "DCMD";
  EXPECT_FALSE(m().irq.intx());
}

TEST_P(RegistersTest, ConfigurationSpaceIsTheChips) {
  uint32_t id = 0;
  uint32_t subsystem = 0;
  uint32_t device_class = 0;
  m().chip->ReadRegion(Region::kConfig, 0x00, AsWritableBytes(id));
  m().chip->ReadRegion(Region::kConfig, 0x08, AsWritableBytes(device_class));
  m().chip->ReadRegion(Region::kConfig, 0x2c, AsWritableBytes(subsystem));
  EXPECT_EQ(id, 0x0012'1000u);
  EXPECT_EQ(device_class, 0x0100'0000u);
  EXPECT_EQ(subsystem, 0x1000'1000u);
  uint8_t capabilities = 0xff;
  m().chip->ReadRegion(Region::kConfig, 0x34, AsWritableBytes(capabilities));
  EXPECT_EQ(capabilities, 0);
}

TEST_P(RegistersTest, ScriptsRamOutlivesAReset) {
  const uint32_t value = 0x1234'5678;
  m().chip->WriteRegion(Region::kBar2, 0x40, AsBytes(value));
  m().chip->Reset(ResetKind::kFunction);
  uint32_t left = 0;
  m().chip->ReadRegion(Region::kBar2, 0x40, AsWritableBytes(left));
  EXPECT_EQ(left, value);
}

TEST_P(RegistersTest, BytesMakeUpRegistersThroughEveryWindow) {
  m().Write32(kScratchA, 0xdead'beef);
  uint8_t byte = 0x55;
  m().chip->WriteRegion(Region::kBar0, OffsetOf(kScratchA) + 1, AsBytes(byte));
  EXPECT_EQ(m().Read32(kScratchA), 0xdead'55efu);
  uint16_t half = 0;
  m().chip->ReadRegion(Region::kBar1, 0x100 + OffsetOf(kScratchA) + 1, AsWritableBytes(half));
  EXPECT_EQ(half, 0xad55);
  // Eight bytes over two registers, and over the end of the repeated file.
  m().Write<uint64_t>(kScratchC, 0x1122'3344'5566'7788);
  EXPECT_EQ(m().Read32(kScratchC), 0x5566'7788u);
  uint64_t wide = 0;
  m().chip->ReadRegion(Region::kBar1, OffsetOf(kScratchC), AsWritableBytes(wide));
  EXPECT_EQ(wide, 0x1122'3344'5566'7788u);
  m().chip->ReadRegion(Region::kBar1, 0xfc, AsWritableBytes(wide));
  EXPECT_EQ(wide, 0x0000'00c0'0000'0000u);
}

TEST_P(RegistersTest, ReadOnlyBitsStay) {
  m().Write32(kDstat, 0xffff'ffff);
  EXPECT_EQ(m().Read32(kDstat), 0x0200'0080u) << "sym_regtest: DSTAT to SSTAT2";
  m().Write8(kSfbr, 0x5a);
  EXPECT_EQ(m().Read8(kSfbr), 0) << "SCRIPTS alone write it";
  m().Write8(kIstat0, 0x0b);
  EXPECT_EQ(m().Read8(kIstat0), 0);
}

TEST_P(RegistersTest, ScriptsRamIsMemory) {
  uint64_t value = 0x1122'3344'5566'7788;
  m().chip->WriteRegion(Region::kBar2, 0x1ff8, AsBytes(value));
  value = 0;
  m().chip->ReadRegion(Region::kBar2, 0x1ff8, AsWritableBytes(value));
  EXPECT_EQ(value, 0x1122'3344'5566'7788u);
  m().Write8(kIstat0, kIstat0Srst);
  m().Write8(kIstat0, 0);
  m().chip->ReadRegion(Region::kBar2, 0x1ff8, AsWritableBytes(value));
  EXPECT_EQ(value, 0x1122'3344'5566'7788u) << "a software reset keeps it";
}

TEST_P(RegistersTest, Ctest2ShowsSigpOnceAndTheBars) {
  m().Write8(kIstat0, kIstat0Sigp);
  EXPECT_EQ(m().Read8(kCtest2), kCtest2Sigp | kCtest2Cio | kCtest2Cm | kCtest2Dack);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  EXPECT_EQ(m().Read8(kCtest2), kCtest2Cio | kCtest2Cm | kCtest2Dack);
  m().Write8(kCtest2, kCtest2Pcicie);
  EXPECT_EQ(m().Read32(kScratchA), kRegs);
  EXPECT_EQ(m().Read32(kScratchB), kRam);
}

TEST_P(RegistersTest, SoftwareResetClearsRegistersAndInterrupts) {
  m().Write8(kDien, 0xff);
  m().Write32(kScratchA, 7);
  m().Write8(kIstat0, kIstat0Abrt);
  EXPECT_TRUE(m().irq.intx());
  m().Write8(kIstat0, kIstat0Srst);
  EXPECT_FALSE(m().irq.intx());
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Srst);
  EXPECT_EQ(m().Read32(kScratchA), 0u);
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe);
}

TEST_P(RegistersTest, SecondInterruptIsStackedBehindTheFirst) {
  m().Write8(kDien, kDstatAbrt);
  m().Write8(kSien0, kSist0Rst);
  m().Write8(kScntl1, kScntl1Rst);
  EXPECT_EQ(m().Read8(kSstat0), kSstat0Rst);
  m().Write8(kScntl1, 0);
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Sip) << "DIP waits behind SIP";
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe);
  EXPECT_EQ(m().irq.intx_edges(), 1u);
  EXPECT_EQ(m().Read8(kSist0), kSist0Rst);
  EXPECT_EQ(m().Read8(kSist0), 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Dip);
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  EXPECT_FALSE(m().irq.intx());
}

TEST_P(RegistersTest, OneAccessToBothSistRegistersUnstacksAfterwards) {
  m().Write8(kStime1, 1);
  m().Write8(kSien1, kSist1Gen);
  m().Write8(kScntl1, kScntl1Rst);
  m().clock.AdvanceTo(m().clock.now_ns() + 1'000'000);
  m().chip->OnDeadline();
  EXPECT_EQ(m().Read<uint16_t>(kSist0), kSist0Rst);
  EXPECT_EQ(m().Read<uint16_t>(kSist0), kSist1Gen << 8);
}

TEST_P(RegistersTest, MasksKeepThePinAndNotTheStatus) {
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Dip);
  EXPECT_FALSE(m().irq.intx());
  m().Write8(kDien, kDstatAbrt);
  EXPECT_TRUE(m().irq.intx()) << "unmasked while it is pending";
  m().Write8(kDien, 0);
  EXPECT_TRUE(m().irq.intx()) << "masking does not deassert";
  m().Write8(kDcntl, kDcntlIrqd);
  EXPECT_FALSE(m().irq.intx());
  m().Write8(kDcntl, 0);
  EXPECT_TRUE(m().irq.intx());
  m().Read8(kDstat);
  EXPECT_FALSE(m().irq.intx());
  m().Write8(kDien, kDstatAbrt);
  m().Write8(kIstat1, kIstat1Si);
  m().Write8(kIstat0, kIstat0Abrt);
  EXPECT_FALSE(m().irq.intx());
  m().Write8(kIstat1, 0);
  EXPECT_TRUE(m().irq.intx());
}

TEST_P(RegistersTest, MaskedNonfatalInterruptIsNoInterrupt) {
  m().Write8(kStime1, 4);  // 1 ms.
  ASSERT_EQ(m().chip->NextDeadline(), m().clock.now_ns() + 1'000'000);
  m().clock.AdvanceTo(m().clock.now_ns() + 1'000'000);
  m().chip->OnDeadline();
  EXPECT_EQ(m().chip->NextDeadline(), std::nullopt);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Dip) << "not stacked behind it";
  EXPECT_EQ(m().Read8(kSist1), kSist1Gen);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
}

TEST_P(RegistersTest, MaskingTheFirstShowsWhatIsStackedBehindIt) {
  m().Write8(kSien1, kSist1Gen);
  m().Write8(kStime1, 1);
  m().clock.AdvanceTo(m().clock.now_ns() + 1'000'000);
  m().chip->OnDeadline();
  m().Write8(kIstat0, kIstat0Abrt);
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Sip);
  m().Write8(kSien1, 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Dip);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
}

TEST_P(RegistersTest, GeneralTimerScalesAndStops) {
  m().Write8(kStime1, kStime1Gensf | 1);
  EXPECT_EQ(m().chip->NextDeadline(), m().clock.now_ns() + 16 * 125'000);
  m().Write8(kStime1, 0);
  EXPECT_EQ(m().chip->NextDeadline(), std::nullopt);
}

TEST_P(RegistersTest, TimersWaitForAStoppedChip) {
  m().Write8(kStime1, 1);
  const auto due = m().chip->NextDeadline();
  ASSERT_TRUE(m().Drain());
  EXPECT_EQ(m().chip->NextDeadline(), std::nullopt);
  m().chip->Resume();
  EXPECT_EQ(m().chip->NextDeadline(), due);
}

TEST_P(RegistersTest, DeviceResetForgetsAllButScriptsRam) {
  m().Write32(kScratchA, 7);
  m().Write8(kStime1, 1);
  m().Write8(kDien, 0xff);
  m().Write8(kIstat0, kIstat0Abrt);
  uint32_t word = 7;
  m().chip->WriteRegion(Region::kBar2, 0, AsBytes(word));
  m().chip->Reset(ResetKind::kFunction);
  EXPECT_FALSE(m().irq.intx());
  EXPECT_EQ(m().chip->NextDeadline(), std::nullopt);
  m().Probe();
  EXPECT_EQ(m().Read32(kScratchA), 0u);
  m().chip->ReadRegion(Region::kBar2, 0, AsWritableBytes(word));
  EXPECT_EQ(word, 7u) << "SCRIPTS RAM has no reset input";
}

}  // namespace
}  // namespace farside::lsi53c895a
