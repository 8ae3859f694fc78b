// The SCRIPTS processor without a SCSI bus.
#include <gtest/gtest.h>

#include "devices/lsi53c895a/test_support.h"

namespace farside::lsi53c895a {
namespace {

constexpr uint32_t kLine = kRegs;  // Registers as bus addresses.
constexpr uint32_t At(Reg reg) { return kLine + OffsetOf(reg); }

class ScriptsTest : public ChipTest {
 protected:
  // Runs it from guest memory and expects its INT.
  void ExpectInt(const Script& script, uint32_t code, uint32_t base = kCode) {
    m().RunScript(script, base);
    EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
    EXPECT_EQ(m().Read32(kDsps), code);
    EXPECT_EQ(m().Read8(kIstat1) & kIstat1Srun, 0);
  }
};
INSTANTIATE_DMA_MODES(ScriptsTest);

TEST_P(ScriptsTest, IntStopsBehindItself) {
  m().Write8(kDien, kDstatSir);
  m().Put(Script(kCode).Int(0x1234), kCode);
  m().Write32(kDsp, kCode);
  EXPECT_EQ(m().Read8(kIstat1), kIstat1Srun) << "nothing runs inside the access";
  m().Run();
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Dip);
  EXPECT_EQ(m().Read32(kDsp), kCode + 8);
  EXPECT_EQ(m().Read32(kDsps), 0x1234u);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
  EXPECT_FALSE(m().irq.intx());
}

TEST_P(ScriptsTest, RunFromRamWithoutDma) {
  m().host.ForgetAccesses();
  ExpectInt(Script(kRam).Modify(OffsetOf(kScratchA), Script::kLoad, 5).Int(1), 1, kRam);
  EXPECT_TRUE(m().host.accesses().empty());
  EXPECT_EQ(m().Read32(kScratchA), 5u);
}

TEST_P(ScriptsTest, IntFlyGoesOn) {
  ExpectInt(Script(kCode).IntFly().Int(2), 2);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Intf);
  EXPECT_TRUE(m().irq.intx());
  m().Write8(kIstat0, kIstat0Sem);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Sem | kIstat0Intf);
  m().Write8(kIstat0, kIstat0Intf);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  EXPECT_FALSE(m().irq.intx());
}

TEST_P(ScriptsTest, ByteDspWritesStartWithTheLast) {
  m().Put(Script(kCode).Int(3), kCode);
  for (uint32_t i = 0; i < 4; ++i) {
    const auto byte = static_cast<uint8_t>(kCode >> 8 * i);
    EXPECT_EQ(m().Read8(kIstat1), 0);
    m().chip->WriteRegion(Region::kBar0, OffsetOf(kDsp) + i, AsBytes(byte));
  }
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
}

TEST_P(ScriptsTest, ManualAndSingleStepModes) {
  m().Write8(kDmode, kDmodeMan);
  m().RunScript(Script(kCode).IntFly().Int(4), kCode);
  EXPECT_EQ(m().Read8(kIstat0), 0) << "DSP alone starts nothing";
  m().Write8(kDcntl, kDcntlSsm | kDcntlStd);
  m().Run();
  EXPECT_EQ(m().Read8(kDcntl), kDcntlSsm);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSsi);
  EXPECT_EQ(m().Read32(kDsp), kCode + 8);
  m().Write8(kDcntl, kDcntlSsm | kDcntlStd);
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
}

TEST_P(ScriptsTest, ReadWriteOperators) {
  const uint32_t a = OffsetOf(kScratchA);
  const uint32_t high =
      OffsetOf(static_cast<Reg>(kScratchC + 15)) + 1;  // Bit 7 of the register number.
  Script script(kCode);
  script.Clear(Script::kCarry)
      .Modify(a, Script::kLoad, 0x81)
      .Modify(a, Script::kShl, 0)       // 02, carry.
      .Modify(a + 1, Script::kAddc, 0)  // 01.
      .RegisterToSfbr(a, Script::kOr, 0x10)
      .SfbrToRegister(high, Script::kXor, 0xff)  // ed.
      .Modify(a + 2, Script::kLoad, 0xff)
      .Modify(a + 2, Script::kAdd, 2)  // 01, carry.
      .Modify(a + 2, Script::kShr, 0)  // 80, carry.
      .Modify(a + 3, Script::kAddc, 0x70)
      .Modify(a + 3, Script::kAnd, 0xf0)
      .Int(5);
  ExpectInt(script, 5);
  EXPECT_EQ(m().Read32(kScratchA), 0x7080'0102u);
  EXPECT_EQ(m().Read32(static_cast<Reg>(kScratchC + 15)), 0xed00u);
  EXPECT_EQ(m().Read8(kSfbr), 0x12);
}

TEST_P(ScriptsTest, SfbrAsData) {
  Script script(kCode);
  script.RegisterToSfbr(OffsetOf(kGpreg), Script::kLoad, 0x0f)
      .Modify(OffsetOf(kScratchA), Script::kLoad, 0xf1)
      .Raw(0x7e80'0000 | OffsetOf(kScratchA) << 16, 0)  // SCRATCHA + SFBR.
      .Int(6);
  ExpectInt(script, 6);
  EXPECT_EQ(m().Read32(kScratchA), 0u);
}

TEST_P(ScriptsTest, JumpsCallsAndConditions) {
  Script script(kCode);
  script.RegisterToSfbr(OffsetOf(kGpreg), Script::kLoad, 0x52)
      .Raw(0x8000'0000, 0x4'0000)                        // No operation.
      .Int(0xbad, Script::kIfTrue | Script::Data(0x53))  // Another byte.
      .Int(0xbad, Script::Data(0x50, 0x0f))              // Unless it is the byte, masked.
      .Jump(kCode + 6 * 8, Script::kIfTrue | Script::Data(0x52))
      .Int(0xbad)
      .Set(Script::kCarry)
      .JumpBy(8, Script::kIfTrue | Script::kIfCarry)
      .Int(0xbad)
      .Call(kCode + 12 * 8)
      .Int(7)
      .Int(0xbad)
      .Modify(OffsetOf(kScratchA), Script::kLoad, 1)
      .Return();
  ExpectInt(script, 7);
  EXPECT_EQ(m().Read32(kScratchA), 1u);
  EXPECT_EQ(m().Read32(kTemp), kCode + 10 * 8);
}

TEST_P(ScriptsTest, TransfersByTheCarry) {
  Script script(kCode);
  script.Clear(Script::kCarry)
      .Int(0xbad, Script::kIfTrue | Script::kIfCarry)
      .Set(Script::kCarry)
      .Int(0xbad, Script::kIfCarry)
      .Int(1, Script::kIfTrue | Script::kIfCarry);
  ExpectInt(script, 1);
}

TEST_P(ScriptsTest, AdderShowsTheSumOfARelativeJump) {
  Script script(kCode);
  script.Raw(0x8088'0000, 8).Int(0xbad).Int(3);
  ExpectInt(script, 3);
  EXPECT_EQ(m().Read32(kAdder), kCode + 16);
}

TEST_P(ScriptsTest, BackwardsRelativeJump) {
  Script script(kCode);
  script.Modify(OffsetOf(kScratchA), Script::kAdd, 1)
      .RegisterToSfbr(OffsetOf(kScratchA), Script::kOr, 0)
      .JumpBy(-24, Script::Data(10))
      .Int(8);
  ExpectInt(script, 8);
  EXPECT_EQ(m().Read32(kScratchA), 10u);
}

TEST_P(ScriptsTest, MemoryMoves) {
  for (uint32_t i = 0; i < 10'000; ++i) m().host.Poke<uint8_t>(kData + i, static_cast<uint8_t>(i));
  ExpectInt(Script(kCode).MoveMemory(10'000, kData, kData + 0x4001).Int(9), 9);
  for (uint32_t i = 0; i < 10'000; ++i) {
    ASSERT_EQ(m().host.Peek<uint8_t>(kData + 0x4001 + i), static_cast<uint8_t>(i));
  }
}

TEST_P(ScriptsTest, MemoryMovesReachOwnRegistersInOrder) {
  // As Linux's snoop test does with chips that have no load and store.
  m().host.Poke<uint32_t>(kData, 1);
  m().Write32(kTemp, 2);
  Script script(kCode);
  script.MoveMemory(4, kData, At(kScratchA))
      .MoveMemory(4, At(kTemp), kData)
      .MoveMemory(4, kData, At(kTemp))
      .MoveMemory(4, At(kScratchA), kRam + 0x100)
      .MoveMemory(4, kRam + 0x100, kData + 4)
      .Int(99);
  ExpectInt(script, 99);
  EXPECT_EQ(m().Read32(kDsp), script.here());
  EXPECT_EQ(m().host.Peek<uint32_t>(kData), 2u);
  EXPECT_EQ(m().Read32(kScratchA), 1u);
  EXPECT_EQ(m().Read32(kTemp), 2u);
  EXPECT_EQ(m().host.Peek<uint32_t>(kData + 4), 1u);
}

TEST_P(ScriptsTest, MemoryMovesInIoSpace) {
  m().Write8(kDmode, kDmodeDiom);
  m().host.Poke<uint32_t>(kData, 77);
  ExpectInt(Script(kCode).MoveMemory(4, kData, kIoBase + OffsetOf(kScratchA)).Int(10), 10);
  EXPECT_EQ(m().Read32(kScratchA), 77u);
  m().RunScript(Script(kCode).MoveMemory(4, kData, 0x3f8).Int(10), kCode);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatBf);
}

TEST_P(ScriptsTest, LoadsAndStores) {
  m().host.Poke<uint32_t>(kData, 0x4433'2211);
  m().Write32(kDsa, kData + 0x100);
  Script script(kCode);
  script.Load(OffsetOf(kScratchA), 4, kData)
      .LoadRelative(OffsetOf(kScratchB) + 1, 2, -0xff)
      .StoreRelative(OffsetOf(kScratchA), 3, 4)
      .Store(OffsetOf(kScratchA) + 3, 1, kData + 0x200)
      .Int(11);
  ExpectInt(script, 11);
  EXPECT_EQ(m().Read32(kScratchA), 0x4433'2211u);
  EXPECT_EQ(m().Read32(kScratchB), 0x0033'2200u);
  EXPECT_EQ(m().host.Peek<uint32_t>(kData + 0x104), 0x0033'2211u);
  EXPECT_EQ(m().host.Peek<uint32_t>(kData + 0x200), 0x44u);
}

TEST_P(ScriptsTest, ScriptsInRamChangeThemselves) {
  Script script(kRam);
  script.Modify(OffsetOf(kScratchA), Script::kLoad, 0x2a)
      .Store(OffsetOf(kScratchA), 1, kRam + 3 * 8 + 4)
      .Raw(0, 0)
      .Int(0);
  ExpectInt(script, 0x2a, kRam);
}

TEST_P(ScriptsTest, UpperAddressBits) {
  m().host.AddMemory(0x5'0000'0000, 0x1000);
  m().host.Poke<uint32_t>(0x5'0000'0010, 0x77);
  m().Write32(kMmrs, 5);
  ExpectInt(Script(kCode).Load(OffsetOf(kScratchA), 4, 0x10).Int(12), 12);
  EXPECT_EQ(m().Read32(kScratchA), 0x77u);
  m().Write8(kCcntl1, kCcntl1Ddac);
  ExpectInt(Script(kCode).Load(OffsetOf(kScratchA), 4, 0x10).Int(13), 13);
  EXPECT_EQ(m().Read32(kScratchA), 0u);
}

TEST_P(ScriptsTest, IllegalInstructions) {
  const std::pair<uint32_t, uint32_t> kIllegal[] = {
      {0xa000'0000, 0},           // No transfer.
      {0xc000'0000, 0},           // A memory move of nothing.
      {0xe100'0000, 0},           // A load of nothing.
      {0xe100'0007, kData},       // And of too much.
      {0x0100'0000, kData},       // A block move of nothing.
      {0x5800'0200 | 1 << 9, 0},  // Target mode is not there: see the next instruction.
  };
  for (const auto& [first, second] : kIllegal) {
    m().RunScript(Script(kCode).Raw(first, second).WaitDisconnect().Raw(0x4000'0000, 0), kCode);
    EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatIid) << std::hex << first;
    m().Write8(kScntl0, 0xc0);
  }
}

TEST_P(ScriptsTest, AbsentMemoryIsABusFault) {
  m().RunScript(Script(kCode).Load(OffsetOf(kScratchA), 4, 0x4000'0000).Int(1), kCode);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatBf);
  m().Start(0x4000'0000);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatBf);
  EXPECT_EQ(m().Read8(kIstat1), 0);
}

TEST_P(ScriptsTest, BusMasteringGatesThem) {
  m().WriteConfig(0x04, 3);
  m().RunScript(Script(kRam).Int(1), kRam);
  EXPECT_EQ(m().Read8(kIstat0), 0);
  m().WriteConfig(0x04, 7);
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
}

// CVE-2019-12068: a script that never waits.
TEST_P(ScriptsTest, EndlessScriptHoldsUpNobody) {
  const auto longest_turn = [&] {
    m().Put(Script(kRam).JumpBy(-8), kRam);
    m().Write32(kDsp, kRam);
    uint64_t longest = 0;
    for (int i = 0; i < 20; ++i) {
      const uint64_t before = m().chip->instructions();
      EXPECT_TRUE(m().loop.RunReady(1)) << "it goes on for ever";
      longest = std::max(longest, m().chip->instructions() - before);
    }
    EXPECT_EQ(m().Read8(kIstat1), kIstat1Srun);
    m().Write8(kIstat0, kIstat0Abrt);
    m().Write8(kIstat0, 0);
    EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
    EXPECT_TRUE(m().loop.RunUntilIdle());
    return longest;
  };
  EXPECT_EQ(longest_turn(), kQuantum);
  // The first turn of the mutant's task is over when the script's start has run.
  SetMutant("lsi-endless-script");
  m().Put(Script(kRam).JumpBy(-8), kRam);
  m().Write32(kDsp, kRam);
  const uint64_t before = m().chip->instructions();
  m().loop.RunReady(1);
  EXPECT_GT(m().chip->instructions() - before, kQuantum) << "the mutant lives";
  m().Write8(kIstat0, kIstat0Srst);
}

TEST_P(ScriptsTest, EndlessScriptDrains) {
  m().Put(Script(kCode).JumpBy(-8), kCode);
  m().Write32(kDsp, kCode);
  EXPECT_TRUE(m().loop.RunReady(3));
  EXPECT_TRUE(m().Drain());
  m().chip->Resume();
  EXPECT_FALSE(m().loop.RunUntilIdle(100));
  m().Write8(kIstat0, kIstat0Srst);
  EXPECT_TRUE(m().loop.RunUntilIdle());
}

TEST_P(ScriptsTest, LongMemoryMoveYields) {
  m().Put(Script(kCode).MoveMemory(0xff'ffff, kData, kData).Int(1), kCode);
  m().Write32(kDsp, kCode);
  for (int i = 0; i < 2; ++i) m().loop.RunReady(1);
  m().Write8(kIstat0, kIstat0Srst);
  EXPECT_TRUE(m().loop.RunUntilIdle());
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe);
}

TEST_P(ScriptsTest, GuestStopsAFetchThatWaits) {
  if (GetParam() == DmaMode::kByFd) return;
  m().host.Hold();
  m().RunScript(Script(kCode).Int(1), kCode);
  m().Write8(kIstat0, kIstat0Srst);
  m().Write8(kIstat0, 0);
  m().Put(Script(kRam).Int(2), kRam);
  m().Write32(kDsp, kRam);
  m().host.Release();
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
  EXPECT_EQ(m().Read32(kDsps), 2u);
}

TEST_P(ScriptsTest, WindowChangesUnderAnAccess) {
  if (GetParam() == DmaMode::kByFd) return;
  m().host.AddMemory(0x4000'0000, 0x1000);
  m().host.Hold();
  m().RunScript(Script(kCode).Int(1), kCode);
  m().host.RemoveMemory(0x4000'0000);
  m().chip->OnDmaChanged();
  m().host.Release();
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir) << "an access elsewhere is tried again";
  m().host.Hold();
  m().Start(kCode);
  m().host.CancelWaits();
  m().host.Release();
  m().Run();
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatBf) << "nobody answers";
}

}  // namespace
}  // namespace farside::lsi53c895a
