// Aborts, resets, and what a hostile script does to the chip it runs on.
#include <gtest/gtest.h>

#include "devices/lsi53c895a/driver.h"

namespace farside::lsi53c895a {
namespace {

constexpr int kIdentify = 0x80;
constexpr int kIdentifyDisconnect = 0xc0;
constexpr int kAbort = 0x06;
constexpr int kBusDeviceReset = 0x0c;
constexpr int kAbortTag = 0x0d;
constexpr int kClearQueue = 0x0e;

class RecoveryTest : public ChipTest {
 protected:
  RecoveryTest() : driver_(std::make_unique<Driver>(m())) {}
  Driver& driver() { return *driver_; }

  static std::vector<int> ReadCdb() { return {TestUnit::kRead, 1, 1, 0x21, 0, 0}; }

  // Selects target 0, sends `message` and waits for the disconnect.
  uint32_t SendMessage(const std::vector<int>& message) {
    driver().Prepare(60, 0, message, ReadCdb());
    Script script(kCode);
    script.SelectTable(0, 0)
        .Modify(OffsetOf(kScntl2), Script::kAnd, 0x7f)
        .MoveTable(Script::kMessageOut, Driver::kMessageEntry)
        .Clear(Script::kAck | Script::kAtn)
        .WaitDisconnect()
        .Int(0xab);
    m().Write32(kDsa, Driver::Block(60));
    m().RunScript(script, kCode);
    return driver().TakeInt();
  }
  void StartTagged(uint32_t count) {
    m().unit->Hold();
    for (uint32_t i = 0; i < count; ++i) {
      driver().Prepare(i, 0, {kIdentifyDisconnect, 0x20, static_cast<int>(i)}, ReadCdb(), kData,
                       256);
      ASSERT_EQ(driver().Go(i), kDisconnected);
    }
  }
  void ResetBus() {
    m().Write8(kScntl1, kScntl1Rst);
    m().Write8(kScntl1, 0);
  }
  // What stays when everything was reset: a command that a new driver sends ends well.
  void ExpectAlive() {
    m().unit->Release();
    m().Run();
    m().Write8(kIstat0, kIstat0Srst);
    m().Write8(kIstat0, 0);
    driver().Load();
    for (int i = 0; i < 3; ++i) {  // Unit attention, its sense, good.
      const bool sense = i == 1;
      driver().Prepare(0, 0, {kIdentify},
                       sense ? std::vector<int>{3, 0, 0, 0, 18, 0}
                             : std::vector<int>{TestUnit::kGood, 0, 0, 0, 0, 0},
                       kData, 18);
      ASSERT_EQ(driver().Go(0), kCompleted);
    }
    EXPECT_EQ(driver().StatusOf(0), 0);
  }

  std::unique_ptr<Driver> driver_;
};
INSTANTIATE_DMA_MODES(RecoveryTest);

TEST_P(RecoveryTest, AbortTagEndsOneCommand) {
  StartTagged(3);
  EXPECT_EQ(SendMessage({kIdentify, 0x20, 1, kAbortTag}), 0xabu);
  EXPECT_EQ(m().chip->bus().running(), 2u);
  EXPECT_EQ(SendMessage({kIdentify, kAbort}), 0xabu);
  EXPECT_EQ(m().chip->bus().running(), 0u);
  m().unit->Release();
  EXPECT_EQ(driver().Go(0, "reselect"), 0u) << "nobody comes back";
}

TEST_P(RecoveryTest, BusDeviceResetResetsTheTarget) {
  StartTagged(2);
  const int resets = m().unit->resets;
  EXPECT_EQ(SendMessage({kBusDeviceReset}), 0xabu);
  EXPECT_EQ(m().unit->resets, resets + 1);
  EXPECT_EQ(m().other->resets, 0);
  EXPECT_EQ(m().chip->bus().running(), 0u);
  ExpectAlive();
}

// CVE-2022-0216, GitLab 972: several of them in one message out, in the midst of a command.
TEST_P(RecoveryTest, RepeatedAbortsUseNoCancelledCommand) {
  const auto ends = [&] {
    m().unit->Hold();
    driver().Prepare(0, 0, {kIdentify}, ReadCdb(), kData, 256);
    EXPECT_EQ(driver().Go(0), 0u);
    EXPECT_EQ(m().Read8(kIstat0) & kIstat0Con, kIstat0Con);
    m().PokeBytes(kData, {kAbort, kAbort, kClearQueue, kBusDeviceReset, kAbortTag, kAbort});
    Script script(kCode);
    script.Modify(OffsetOf(kScntl2), Script::kAnd, 0x7f)
        .Set(Script::kAtn)
        .Move(Script::kMessageOut, 6, kData)
        .WaitDisconnect()
        .Int(0xab);
    m().RunScript(script, kCode);
    const bool ended = driver().TakeInt() == 0xab && (m().Read8(kIstat0) & kIstat0Con) == 0;
    m().Write8(kIstat0, kIstat0Srst);
    m().Write8(kIstat0, 0);
    return ended;
  };
  EXPECT_TRUE(ends());
  EXPECT_EQ(m().chip->bus().running(), 0u);
  ExpectAlive();
  SetMutant("lsi-abort-keeps-request");
  EXPECT_FALSE(ends()) << "the mutant lives";
}

TEST_P(RecoveryTest, BusResetDuringCommands) {
  StartTagged(4);
  driver().Prepare(10, 3, {kIdentify}, ReadCdb(), kData, 256);
  m().other->Hold();
  EXPECT_EQ(driver().Go(10), 0u);
  m().Write8(kSien0, kSist0Rst);
  ResetBus();
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Sip);
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read8(kSist0), kSist0Rst);
  EXPECT_EQ(m().Read8(kIstat1), 0);
  EXPECT_EQ(m().chip->bus().running(), 0u);
  m().other->Release();
  ExpectAlive();
}

TEST_P(RecoveryTest, DeviceResetDuringCommands) {
  StartTagged(4);
  driver().Prepare(10, 3, {kIdentify}, ReadCdb(), kData, 256);
  m().other->Hold();
  EXPECT_EQ(driver().Go(10), 0u);
  m().chip->Reset(ResetKind::kFunction);
  m().Run();
  EXPECT_EQ(m().chip->bus().running(), 0u);
  m().Probe();
  m().other->Release();
  ExpectAlive();
}

TEST_P(RecoveryTest, ResetsWhileDataMove) {
  if (GetParam() == DmaMode::kByFd) return;
  for (const int how : {0, 1, 2}) {
    host().Hold();
    driver().Prepare(0, 0, {kIdentify}, {TestUnit::kRead, 16, 16, 1, 0, 0}, kData, 4096);
    m().Write32(kDsa, Driver::Block(0));
    m().Write32(kDsp, driver().label("start"));
    // Let through the fetches, and hold the first write of data.
    host().Release();
    bool done = false;
    host().set_during_wait([&] {
      const bool writes = !host().accesses().empty() &&
                          host().accesses().back().kind == DmaAccess::kWrite &&
                          host().accesses().back().iova == kData;
      if (done || !writes) return;
      done = true;
      if (how == 0) m().Write8(kIstat0, kIstat0Srst);
      if (how == 1) ResetBus();
      if (how == 2) m().chip->Reset(ResetKind::kFunction);
    });
    m().Run();
    host().set_during_wait({});
    EXPECT_TRUE(done);
    if (how == 2) m().Probe();
    EXPECT_EQ(m().chip->bus().running(), 0u);
    m().Write8(kIstat0, 0);
    m().Read<uint16_t>(kSist0);
    ExpectAlive();
  }
}

TEST_P(RecoveryTest, AbortStopsAScriptThatWaits) {
  m().Write8(kDien, kDstatAbrt);
  EXPECT_EQ(driver().Go(0, "reselect"), 0u);
  m().Write8(kIstat0, kIstat0Abrt);
  EXPECT_TRUE(m().irq.intx());
  m().Write8(kIstat0, 0);
  EXPECT_EQ(m().Read8(kIstat1), 0);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatAbrt);
}

// GitLab 305: a script moves data while no command is there.
TEST_P(RecoveryTest, MoveWithoutANexusWaits) {
  const auto waits = [&] {
    m().RunScript(Script(kCode).Move(Script::kDataOut, 16, kData).Int(1), kCode);
    const bool running = m().Read8(kIstat1) == kIstat1Srun && m().Read8(kIstat0) == 0;
    m().Write8(kIstat0, kIstat0Srst);
    m().Write8(kIstat0, 0);
    return running;
  };
  EXPECT_TRUE(waits());
  ExpectAlive();
  SetMutant("lsi-move-without-nexus");
  EXPECT_FALSE(waits()) << "the mutant lives";
}

// CVE-2023-0330: data of a block move go to DSP and start the script anew, inside the move.
TEST_P(RecoveryTest, MoveIntoDspAbandonsTheMove) {
  const auto moved_on = [&] {
    // Two parts of 256 zeroes: the first goes through all registers and ends with DSP, the second
    // would go on behind it.
    m().Put(Script(0).Int(0x99), 0);
    driver().Prepare(0, 0, {kIdentify}, {TestUnit::kRead, 1, 2, 0, 0, 0},
                     kRegs + 0x200 + OffsetOf(kDsp) + 3 - 255, 512);
    EXPECT_EQ(driver().Go(0), 0x99u);
    const bool went_on = m().Read32(kCsbc) != 0;
    m().chip->Reset(ResetKind::kFunction);
    m().Run();
    m().Probe();
    driver().Load();
    return went_on;
  };
  EXPECT_FALSE(moved_on());
  ExpectAlive();
  SetMutant("lsi-move-outlives-restart");
  EXPECT_TRUE(moved_on()) << "the mutant lives";
}

TEST_P(RecoveryTest, ScriptsRestartThemselvesForEver) {
  host().Poke<uint32_t>(kData, kRam);
  m().Put(Script(kRam).MoveMemory(4, kData, kRegs + OffsetOf(kDsp)), kRam);
  m().Write32(kDsp, kRam);
  EXPECT_FALSE(m().loop.RunUntilIdle(50)) << "each time anew, none inside another";
  m().Write8(kIstat0, kIstat0Srst);
  EXPECT_TRUE(m().loop.RunUntilIdle());
}

TEST_P(RecoveryTest, ScriptResetsItsChip) {
  host().Poke<uint32_t>(kData, kIstat0Srst);
  m().RunScript(Script(kCode).MoveMemory(1, kData, kRegs + OffsetOf(kIstat0)).Int(1), kCode);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Srst);
  EXPECT_EQ(m().Read8(kIstat1), 0);
  m().RunScript(Script(kCode).Modify(OffsetOf(kScntl1), Script::kOr, kScntl1Rst).Int(1), kCode);
  EXPECT_EQ(m().Read8(kSist0), kSist0Rst);
  ExpectAlive();
}

}  // namespace
}  // namespace farside::lsi53c895a
