// Commands from selection to bus free, as drivers run them.
#include <gtest/gtest.h>

#include "devices/lsi53c895a/driver.h"

namespace farside::lsi53c895a {
namespace {

constexpr int kIdentify = 0x80;
constexpr int kIdentifyDisconnect = 0xc0;
constexpr int kSimpleTag = 0x20;

class IoTest : public ChipTest {
 protected:
  IoTest() : driver_(m()) {}
  Driver& driver() { return driver_; }

  static std::vector<int> ReadCdb(int part, int total, int fill) {
    return {TestUnit::kRead, part, total, fill, 0, 0};
  }
  static std::vector<int> WriteCdb(int part, int total) {
    return {TestUnit::kWrite, part, total, 0, 0, 0};
  }

 private:
  Driver driver_;
};
INSTANTIATE_DMA_MODES(IoTest);

TEST_P(IoTest, ReadsInOneConnection) {
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(2, 2, 0x5a), kData, 512);
  EXPECT_EQ(driver().Go(0), kCompleted);
  EXPECT_EQ(driver().StatusOf(0), 0);
  EXPECT_TRUE(IsFilledWith(host().At(kData + 1, 511), 0x5a));
  EXPECT_EQ(host().Peek<uint8_t>(kData + 512), 0);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Intf) << "bus free, and INTFLY";
  EXPECT_EQ(m().Read8(kSstat2), kSstat2Ldsc);
  EXPECT_EQ(m().Read8(kSist0), 0);
  EXPECT_EQ(m().Read32(kCsbc), 1u + 6 + 512 + 1 + 1);
}

TEST_P(IoTest, WritesAndMovesStraightBetweenMemoryAndTarget) {
  for (uint32_t i = 0; i < 1024; ++i) host().Poke<uint8_t>(kData + i, static_cast<uint8_t>(i / 4));
  driver().Prepare(0, 3, {kIdentify}, WriteCdb(1, 4), kData, 1024);
  EXPECT_EQ(driver().Go(0), kCompleted);
  ASSERT_EQ(m().other->written.size(), 1024u);
  EXPECT_TRUE(std::ranges::equal(m().other->written, host().At(kData, 1024)));
}

TEST_P(IoTest, Reads64KiBByTable) {
  driver().Prepare(0, 0, {kIdentifyDisconnect}, ReadCdb(0x40, 0x100 - 0x40, 0x77), kData, 0xc000);
  host().ForgetAccesses();
  EXPECT_EQ(driver().Go(0), kCompleted);
  EXPECT_TRUE(IsFilledWith(host().At(kData + 1, 0x3fff), 0x77));
  EXPECT_EQ(host().Peek<uint8_t>(kData + 0x8000), 2);
  EXPECT_LT(host().accesses().size(), 20u) << "not byte by byte";
}

TEST_P(IoTest, UnitThatFailsHasItsStatus) {
  driver().Prepare(0, 0, {kIdentify}, {TestUnit::kFail, 0, 0, 0, 0, 0});
  EXPECT_EQ(driver().Go(0), kCompleted);
  EXPECT_EQ(driver().StatusOf(0), 2);
  driver().Prepare(1, 0, {kIdentify | 5}, {TestUnit::kGood, 0, 0, 0, 0, 0});
  EXPECT_EQ(driver().Go(1), kCompleted);
  EXPECT_EQ(driver().StatusOf(1), 2) << "no such lun";
}

TEST_P(IoTest, WithoutThePrivilegeTheBusIsHeld) {
  m().unit->Hold();
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 1), kData, 256);
  EXPECT_EQ(driver().Go(0), 0u);
  EXPECT_EQ(m().Read8(kIstat1), kIstat1Srun);
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Con);
  m().unit->Release();
  m().Run();
  EXPECT_EQ(driver().TakeInt(), kCompleted);
}

TEST_P(IoTest, DisconnectsAndReselectsWithThirtyTwoTags) {
  constexpr uint32_t kTags = 32;
  m().unit->Hold();
  for (uint32_t i = 0; i < kTags; ++i) {
    const int tag = static_cast<int>(2 * i + 1);
    driver().Prepare(i, 0, {kIdentifyDisconnect, kSimpleTag, tag},
                     ReadCdb(1, 2, static_cast<int>(i)), kData + i * 512, 512);
    ASSERT_EQ(driver().Go(i), kDisconnected) << i;
    ASSERT_EQ(m().Read8(kIstat0) & kIstat0Con, 0);
  }
  EXPECT_EQ(m().unit->waiting, static_cast<int>(kTags));
  ASSERT_EQ(driver().Go(0, "reselect"), 0u);
  m().unit->Release();
  m().Run();
  for (uint32_t i = 0; i < kTags; ++i) {
    ASSERT_EQ(driver().TakeInt(), kReselected) << i;
    EXPECT_EQ(m().Read8(kSsid), kSsidVal | 0);
    EXPECT_EQ(host().Peek<uint8_t>(Driver::kMessageIn), kIdentify);
    EXPECT_EQ(host().Peek<uint8_t>(Driver::kMessageIn + 1), kSimpleTag);
    const uint8_t tag = m().Read8(kSidl);
    EXPECT_EQ(host().Peek<uint8_t>(Driver::kMessageIn + 2), tag);
    ASSERT_EQ(driver().Go(tag / 2, "dispatch"), kCompleted);
    EXPECT_EQ(driver().StatusOf(tag / 2), 0);
    if (i + 1 < kTags) {
      m().Write32(kDsa, 0);
      m().Start(driver().label("reselect"));
    }
  }
  for (uint32_t i = 0; i < kTags; ++i) {
    EXPECT_TRUE(IsFilledWith(host().At(kData + i * 512 + 1, 255), static_cast<uint8_t>(i)));
  }
}

TEST_P(IoTest, SigpWakesWaitReselect) {
  EXPECT_EQ(driver().Go(0, "reselect"), 0u);
  EXPECT_EQ(m().Read8(kIstat1), kIstat1Srun);
  m().Write8(kIstat0, kIstat0Sigp);
  m().Run();
  EXPECT_EQ(driver().TakeInt(), kWoken);
  EXPECT_EQ(m().Read8(kIstat0), 0);
}

TEST_P(IoTest, SelectionOfNobodyTimesOutWhenTheBusIsNeeded) {
  m().Write8(kSien1, kSist1Sto);
  driver().Prepare(0, 7, {kIdentify}, ReadCdb(1, 1, 1), kData, 256);
  EXPECT_EQ(driver().Go(0), 0u);
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read8(kIstat0), kIstat0Sip);
  EXPECT_EQ(m().Read32(kDsp), driver().label("start") + 16) << "behind what needs the bus";
  EXPECT_EQ(m().Read<uint16_t>(kSist0), kSist1Sto << 8);
  EXPECT_EQ(m().Read8(kScntl1) & kScntl1Con, 0);
  m().RunScript(Script(kCode).Select(7, 0).Int(1), kCode);
  EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
  EXPECT_EQ(m().Read<uint16_t>(kSist0), kSist1Sto << 8) << "stacked behind the INT";
}

TEST_P(IoTest, ConnectedSelectJumpsToItsAlternative) {
  m().unit->Hold();
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 1), kData, 256);
  EXPECT_EQ(driver().Go(0), 0u);
  Script script(kCode);
  script.Select(3, kCode + 16).Int(1).Int(2);
  m().RunScript(script, kCode);
  EXPECT_EQ(driver().TakeInt(), 2u);
}

TEST_P(IoTest, ShortDataIsAPhaseMismatch) {
  m().Write8(kSien0, kSist0Ma);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 9), kData, 1000);
  EXPECT_EQ(driver().Go(0), 0u);
  EXPECT_TRUE(m().irq.intx());
  EXPECT_EQ(m().Read8(kSist0), kSist0Ma);
  EXPECT_EQ(m().Read32(kDbc), 0x1900'0000u | (1000 - 256));
  EXPECT_EQ(m().Read32(kDnad), kData + 256);
  EXPECT_EQ(m().Read32(kDsp), driver().label("data_in") + 8);
  EXPECT_EQ(m().Read8(kSbcl) & kBusPhase, Script::kStatus);
  // Linux computes how much is left in the DMA FIFO: nothing.
  EXPECT_EQ(m().Read8(kDfifo), (1000 - 256) & 0xff);
  m().Start(driver().label("dispatch"));
  EXPECT_EQ(driver().TakeInt(), kCompleted);
}

TEST_P(IoTest, PhaseMismatchJump) {
  const uint32_t handler = kCode;
  m().Put(Script(kCode).Int(0x77), kCode);
  m().Write8(kCcntl0, kCcntl0Enpmj);
  m().Write32(kPmjad1, handler);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 9), kData, 0x1200'0000 | 1000);
  EXPECT_EQ(driver().Go(0), 0x77u);
  EXPECT_EQ(m().Read8(kSist0), 0);
  EXPECT_EQ(m().Read32(kIa), driver().label("data_in"));
  EXPECT_EQ(m().Read32(kEsa), Driver::Block(0) + Driver::kDataEntry);
  EXPECT_EQ(m().Read32(kUa), kData + 256);
  EXPECT_EQ(m().Read32(kRbc), 0x1200'0000u | (1000 - 256));
  EXPECT_EQ(m().Read32(kSbc), 256u);
  m().Start(driver().label("dispatch"));
  EXPECT_EQ(driver().TakeInt(), kCompleted);
  // Data phases only, unless ENNDJ; by direction with PMJCTL.
  m().Write8(kCcntl0, kCcntl0Enpmj | kCcntl0Pmjctl);
  m().Write32(kPmjad1, 0);
  m().Write32(kPmjad2, handler);
  EXPECT_EQ(driver().Go(0), 0x77u);
  m().Start(driver().label("dispatch"));
  EXPECT_EQ(driver().TakeInt(), kCompleted);
}

TEST_P(IoTest, MismatchOutsideDataPhases) {
  Script script(kCode);
  script.Select(0, 0).Move(Script::kCommand, 6, kData).Int(1);
  m().Write8(kCcntl0, kCcntl0Enpmj);
  m().RunScript(script, kCode);
  EXPECT_EQ(m().Read8(kSist0), kSist0Ma);
  m().Write8(kScntl1, kScntl1Rst);
  m().Write8(kScntl1, 0);
  m().Read<uint16_t>(kSist0);
  m().Put(Script(kRam).Int(0x78), kRam);
  m().Write32(kPmjad1, kRam);
  m().Write8(kCcntl0, kCcntl0Enpmj | kCcntl0Enndj);
  m().RunScript(script, kCode);
  EXPECT_EQ(driver().TakeInt(), 0x78u);
}

TEST_P(IoTest, InitiatorMayTakeLessAtATime) {
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(4, 4, 6), kData, 100);
  EXPECT_EQ(driver().Go(0), 0u) << "the target has more than one round";
  EXPECT_EQ(m().Read8(kSist0), kSist0Ma);
  EXPECT_EQ(m().Read32(kDbc) & 0xff'ffff, 1100u - 1024);
}

TEST_P(IoTest, NegotiationIsAgreedTo) {
  const std::vector<int> kWide = {1, 2, 3, 1};
  const std::vector<int> kSync = {1, 3, 1, 10, 31};
  const std::vector<int> kPpr = {1, 6, 4, 9, 0, 31, 1, 2};
  for (const auto& message : {kWide, kSync, kPpr}) {
    std::vector<int> out = {kIdentify};
    out.insert(out.end(), message.begin(), message.end());
    driver().Prepare(0, 0, out, {TestUnit::kGood, 0, 0, 0, 0, 0});
    ASSERT_EQ(driver().Go(0), kNegotiated);
    const auto length = static_cast<uint32_t>(message[1]);
    EXPECT_EQ(m().Read8(kScratchA), length);
    Script script(kCode);
    script.Move(Script::kMessageIn, length, kData)
        .Clear(Script::kAck)
        .Jump(driver().label("dispatch"));
    m().RunScript(script, kCode);
    EXPECT_EQ(driver().TakeInt(), kCompleted);
    auto expected = message;
    if (length == 6) {
      expected[3] = 10;
      expected[7] = 0;  // No double transitions.
    }
    for (uint32_t i = 0; i < length; ++i) {
      EXPECT_EQ(host().Peek<uint8_t>(kData + i), expected[2 + i]) << i;
    }
  }
}

TEST_P(IoTest, UnknownMessagesAreRejected) {
  driver().Prepare(0, 0, {kIdentify, 0x11}, {TestUnit::kGood, 0, 0, 0, 0, 0});
  EXPECT_EQ(driver().Go(0), kOtherMessage);
  EXPECT_EQ(host().Peek<uint8_t>(Driver::kMessageIn), 0x07);
  m().Start(driver().label("acknowledge"));
  EXPECT_EQ(driver().TakeInt(), kCompleted);
}

// CVE-2018-18849: a message whose length is beyond any buffer.
TEST_P(IoTest, LongMessageIsEatenAndRejected) {
  const auto reply = [&] {
    driver().Prepare(0, 0, {kIdentify}, {TestUnit::kGood, 0, 0, 0, 0, 0});
    // Its 17th byte and those that follow look like the start of a WDTR message.
    m().PokeBytes(kData, {kIdentify, 1, 0x16, 0x55});
    for (uint32_t i = 4; i < 25; ++i) host().Poke<uint8_t>(kData + i, 0);
    m().PokeBytes(kData + 17, {1, 2, 3, 1});
    host().Poke<uint32_t>(Driver::Block(0) + Driver::kMessageEntry, 25);
    host().Poke<uint32_t>(Driver::Block(0) + Driver::kMessageEntry + 4, kData);
    const uint32_t event = driver().Go(0);
    m().Write8(kScntl1, kScntl1Rst);
    m().Write8(kScntl1, 0);
    m().Read<uint16_t>(kSist0);
    return event;
  };
  EXPECT_EQ(reply(), kOtherMessage);
  EXPECT_EQ(host().Peek<uint8_t>(Driver::kMessageIn), 0x07);
  SetMutant("lsi-long-message");
  EXPECT_NE(reply(), kOtherMessage) << "the mutant lives";
}

// SeaBIOS: no ATN, a CDB of 16 bytes whatever the command, an empty move where there are no data,
// no ACK cleared at the end, and everything through I/O space.
TEST_P(IoTest, SeaBiosScript) {
  for (const bool has_data : {true, false, true}) {
    const uint8_t srst = kIstat0Srst;
    m().chip->WriteRegion(Region::kBar0, OffsetOf(kIstat0), AsBytes(srst));
    host().Poke<uint8_t>(kData, kIdentify);
    for (uint32_t i = 0; i < 16; ++i) host().Poke<uint8_t>(kData + 16 + i, 0);
    m().PokeBytes(kData + 16, {has_data ? TestUnit::kRead : TestUnit::kGood, 1, 1, 0x33});
    Script script(kCode);
    script.Select(0, 0, /*atn=*/false)
        .Raw(0x0600'0001, kData)
        .Raw(0x0200'0010, kData + 16)
        .Raw(0x8782'0000, 0x18)
        .Raw(0x0700'0002, kData + 32)
        .WaitReselect(0)
        .Raw(0x0700'0002, kData + 32)
        .Raw(has_data ? 0x0100'0100 : 0, has_data ? kData + 0x1000 : 0)
        .Raw(0x0300'0001, kData + 34)
        .Raw(0x0700'0001, kData + 35)
        .Int(0);
    m().PokeBytes(kData + 34, {0xff, 0xff});
    m().RunScript(script, kCode);
    EXPECT_EQ(m().Read8(kDstat), kDstatDfe | kDstatSir);
    EXPECT_EQ(m().Read<uint16_t>(kSist0), 0);
    EXPECT_EQ(host().Peek<uint16_t>(kData + 34), 0) << "GOOD, COMMAND COMPLETE";
    m().host.At(kData + 0x1000, 1);
  }
  EXPECT_TRUE(IsFilledWith(host().At(kData + 0x1001, 255), 0x33));
}

TEST_P(IoTest, UnexpectedDisconnectIsTold) {
  driver().Prepare(0, 0, {kIdentify}, {TestUnit::kGood, 0, 0, 0, 0, 0});
  Script script(kCode);
  script.SelectTable(0, 0)
      .MoveTable(Script::kMessageOut, Driver::kMessageEntry)
      .MoveTable(Script::kCommand, Driver::kCommandEntry)
      .Move(Script::kStatus, 1, kData)
      .Move(Script::kMessageIn, 1, kData)
      .Clear(Script::kAck)
      .WaitDisconnect()
      .Int(1);
  m().Write32(kDsa, Driver::Block(0));
  m().RunScript(script, kCode);
  EXPECT_EQ(m().Read8(kSist0), kSist0Udc) << "SCNTL2.SDU was not cleared";
  EXPECT_EQ(m().Read8(kIstat0), 0);
}

TEST_P(IoTest, SixtyFourBitMoves) {
  constexpr uint64_t kHigh = 0x7'0000'0000;
  host().AddMemory(kHigh, 0x1000);
  m().Write8(kCcntl1, kCcntl1EnTibmv | kCcntl1Timod);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 0x44), 0x100, 0x0700'0100);
  EXPECT_EQ(driver().Go(0), kCompleted);
  EXPECT_TRUE(IsFilledWith(host().At(kHigh + 0x101, 255), 0x44));
  // By index: SCRATCHE, and a selector that there is none of.
  m().Write8(kCcntl1, kCcntl1EnTibmv);
  m().Write32(static_cast<Reg>(kScratchC + 2), 7);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 0x45), 0x100, 0x0200'0100);
  EXPECT_EQ(driver().Go(0), kCompleted);
  EXPECT_TRUE(IsFilledWith(host().At(kHigh + 0x101, 255), 0x45));
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 0x45), 0x100, 0x1600'0100);
  EXPECT_EQ(driver().Go(0), 0u);
  EXPECT_EQ(m().Read32(kDsp), driver().label("data_in") + 8);
}

TEST_P(IoTest, DirectAndIndirectMoves) {
  host().AddMemory(0x7'0000'0000, 0x1000);
  host().Poke<uint32_t>(kData, kData + 0x100);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 2, 0x61));
  m().Write8(kCcntl1, kCcntl1EnDbmv);
  Script script(kCode);
  script.SelectTable(0, 0)
      .MoveTable(Script::kMessageOut, Driver::kMessageEntry)
      .MoveTable(Script::kCommand, Driver::kCommandEntry)
      .MoveIndirect(Script::kDataIn, 256, kData)
      .Move(Script::kDataIn, 256, 0x200);
  std::vector<uint32_t> words(script.words().begin(), script.words().end());
  words.push_back(7);  // The move's third dword.
  Script rest(kCode);
  rest.Modify(OffsetOf(kCcntl1), Script::kLoad, 0).Jump(driver().label("dispatch"));
  words.insert(words.end(), rest.words().begin(), rest.words().end());
  Copy(host().At(kCode, words.size() * 4), std::as_bytes(std::span(words)));
  m().Write32(kDsa, Driver::Block(0));
  m().Start(kCode);
  EXPECT_EQ(driver().TakeInt(), kCompleted);
  EXPECT_TRUE(IsFilledWith(host().At(kData + 0x101, 255), 0x61));
  EXPECT_TRUE(IsFilledWith(host().At(0x7'0000'0201, 255), 0x61));
}

TEST_P(IoTest, HandshakeTimer) {
  m().unit->Hold();
  m().Write8(kStime0, 0x10);
  m().Write8(kSien1, kSist1Hth);
  driver().Prepare(0, 0, {kIdentify}, ReadCdb(1, 1, 1), kData, 256);
  EXPECT_EQ(driver().Go(0), 0u);
  ASSERT_EQ(m().chip->NextDeadline(), m().clock.now_ns() + 125'000);
  m().clock.AdvanceTo(m().clock.now_ns() + 125'000);
  m().chip->OnDeadline();
  EXPECT_EQ(m().Read<uint16_t>(kSist0), kSist1Hth << 8);
  EXPECT_EQ(m().Read8(kIstat1), 0) << "enabled, it halts SCRIPTS";
}

}  // namespace
}  // namespace farside::lsi53c895a
