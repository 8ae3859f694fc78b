#include "harness/diff/lsi_workload.h"

#include "devices/lsi53c895a/registers.h"

namespace farside::diff {

using namespace lsi53c895a;  // NOLINT: this file writes its registers.
using namespace lsi_memory;  // NOLINT: this file is about them.

namespace {

// Instructions, LSI53C895A Technical Manual, chapter 5.
constexpr uint32_t kReturnAlways = 0x9008'0000;
constexpr uint32_t kCallAlways = 0x8808'0000;
constexpr uint32_t kIntAlways = 0x9808'0000;
constexpr uint32_t kIntOnTheFly = 0x9818'0000;
constexpr uint32_t kJumpRelative = 0x8080'0000;
constexpr uint32_t kIfTrue = 1 << 19;
constexpr uint32_t kIfData = 1 << 18;
constexpr uint32_t kIfCarry = 1 << 21;
constexpr uint32_t kSfbrToRegister = 0x6a00'0000;
constexpr uint32_t kClearSfbr = 0x7000'0000 | OffsetOf(kScratchA) << 16;
constexpr uint32_t kSetCarry = 0x5800'0400;
constexpr uint32_t kClearCarry = 0x6000'0400;
constexpr uint32_t kClearAck = 0x6000'0040;
constexpr uint32_t kMoveMemory = 0xc000'0000;
constexpr uint32_t kLoad = 0xe100'0000;
constexpr uint32_t kStore = 0xe000'0000;
constexpr uint32_t kSelectWithAtn = 0x4100'0000;
constexpr uint32_t kWaitDisconnect = 0x4800'0000;
constexpr uint32_t kAndScntl2 = 0x7c02'0000 | 0x7f << 8;  // Disconnection is expected.

constexpr uint32_t BlockMove(uint32_t phase, uint32_t count) {
  return 1u << 27 | phase << 24 | count;
}

}  // namespace

void LsiWorkload::OnOther(const Event& event) {
  if (event.kind == Event::Kind::kReset) ready_ = false;
  if (event.kind != Event::Kind::kWrite) return;
  if (event.region == kRamBar || event.region == kConfigRegion) return;
  // Registers that change how scripts run, or whether they interrupt. BAR 1 repeats them.
  for (const Reg reg :
       {kScntl0,  kScntl1, kScntl2, kScntl3, kScid,   kSxfer,  kCtest3, kCtest4, kCtest5, kDmode,
        kDien,    kSien0,  kSien1,  kMacntl, kStest1, kStest2, kStest3, kCcntl0, kCcntl1, kRespid0,
        kRespid1, kSocl,   kMmrs,   kMmws,   kSfs,    kDrs,    kSbms,   kDbms,   kDnad64}) {
    const uint64_t at = OffsetOf(reg);
    const uint64_t from = event.offset % kRegisterSize;
    if (from < at + kRegisters[reg].width && at < from + event.size) ready_ = false;
  }
}

Event LsiWorkload::WriteRegister(uint32_t offset, uint32_t size, uint64_t value) {
  return Write(random_.OneIn(4) ? kMemoryBar : kIoBar, offset, size, value);
}

void LsiWorkload::Next(std::vector<Event>* out) {
  if (!ready_ || random_.OneIn(100)) return SetUp(out);
  if (random_.OneIn(12)) return RunCommand(out);
  RunProgram(out);
}

// INTF first: QEMU keeps DSTAT while it is set.
void LsiWorkload::ServeInterrupts(std::vector<Event>* out) {
  out->push_back(WriteRegister(OffsetOf(kIstat0), 1, kIstat0Intf));
  out->push_back(Read(kIoBar, OffsetOf(kSist0), 1));
  out->push_back(Read(kIoBar, OffsetOf(kSist1), 1));
  out->push_back(Read(kIoBar, OffsetOf(kDstat), 1));
}

// As after power on, but for what SRST leaves. Interrupts are served one by one: QEMU does not
// stack them, and SRST leaves its line up.
void LsiWorkload::SetUp(std::vector<Event>* out) {
  ServeInterrupts(out);
  if (random_.OneIn(4)) {
    out->push_back(WriteRegister(OffsetOf(kIstat0), 1, kIstat0Abrt | kIstat0Sem));
    ServeInterrupts(out);
  }
  out->push_back(WriteRegister(OffsetOf(kScntl1), 1, kScntl1Rst));
  out->push_back(WriteRegister(OffsetOf(kScntl1), 1, 0));
  ServeInterrupts(out);
  out->push_back(WriteRegister(OffsetOf(kIstat0), 1, kIstat0Srst));
  out->push_back(WriteRegister(OffsetOf(kIstat0), 1, 0));
  for (uint32_t reg = OffsetOf(kMmrs); reg <= OffsetOf(kDnad64); reg += 4) {
    out->push_back(WriteRegister(reg, 4, 0));
  }
  // Power-up values differ from maker to maker.
  out->push_back(WriteRegister(OffsetOf(kScid), 1, 0x47));
  out->push_back(WriteRegister(OffsetOf(kRespid0), 1, 0x80));
  out->push_back(WriteRegister(OffsetOf(kRespid1), 1, 0));
  out->push_back(WriteRegister(OffsetOf(kDien), 1, 0x7d));
  out->push_back(WriteRegister(OffsetOf(kSien0), 1, 0x8f));
  out->push_back(WriteRegister(OffsetOf(kSien1), 1, 0x04));
  out->push_back(WriteRegister(OffsetOf(kDsa), 4, kSource));
  // A sum for ADDER, which need not have a value before.
  Run({kJumpRelative | kIfTrue, 0, kIntAlways, 0}, false, out);
  ready_ = true;
}

uint32_t LsiWorkload::Scratch() {
  const uint64_t dice = random_.Below(4 + 64);
  return static_cast<uint32_t>(dice < 4 ? OffsetOf(kScratchA) + dice
                                        : OffsetOf(kScratchB) + dice - 4);
}

void LsiWorkload::AddTransfer(Words* words) {
  const auto data = static_cast<uint32_t>(random_.Below(256));
  switch (random_.Below(4)) {
    case 0:  // Over an instruction, or not.
      words->insert(words->end(), {kJumpRelative | (random_.OneIn(2) ? kIfTrue : 0) |
                                       (random_.OneIn(2) ? kIfCarry : kIfData | data),
                                   8, random_.OneIn(2) ? kSetCarry : kClearCarry, 0});
      return;
    case 1:
      words->insert(words->end(), {kIntOnTheFly, 0});
      return;
    default:
      words->insert(words->end(), {random_.OneIn(2) ? kSetCarry : kClearCarry, 0});
  }
}

void LsiWorkload::AddInstruction(Words* words) {
  const uint32_t reg = Scratch();
  const auto data = static_cast<uint32_t>(random_.Below(256));
  switch (random_.Below(6)) {
    case 0: {
      const auto count = static_cast<uint32_t>(1 + random_.Below(600));
      auto from = static_cast<uint32_t>(kSource + random_.Below(kAreaSize - count));
      auto to = static_cast<uint32_t>(kTarget + random_.Below(kAreaSize - count));
      // Section 5.9: else it is illegal.
      if (!random_.OneIn(16)) to = (to & ~3u) | (from & 3);
      if (((to ^ from) & 3) != 0) ends_early_ = true;
      words->insert(words->end(), {kMoveMemory | count, from, to});
      return;
    }
    case 1:
    case 2: {
      const auto count = static_cast<uint32_t>(1 + random_.Below(4 - (reg & 3)));
      const bool load = random_.OneIn(2);
      const auto area = static_cast<uint32_t>(load ? kSource : kTarget);
      const auto place = static_cast<uint32_t>(random_.Below(kAreaSize / 4) * 4) + (reg & 3);
      words->insert(words->end(), {(load ? kLoad : kStore) | reg << 16 | count, area + place});
      return;
    }
    case 3:
    case 4: {
      // Register to SFBR, SFBR to register, or read-modify-write; with one of eight operators.
      const auto kind = static_cast<uint32_t>(5 + random_.Below(3));
      const auto operation = static_cast<uint32_t>(random_.Below(8));
      words->insert(words->end(), {1u << 30 | kind << 27 | operation << 24 | (reg & 0x7f) << 16 |
                                       data << 8 | (reg & 0x80),
                                   0});
      return;
    }
    default:
      AddTransfer(words);
  }
}

void LsiWorkload::RunProgram(std::vector<Event>* out) {
  if (random_.OneIn(4)) {
    std::vector<std::byte> bytes(8 + random_.Below(32));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_.Next());
    out->push_back(WriteMemory(kSource + random_.Below(kAreaSize - bytes.size()), bytes));
  }
  Words words;
  ends_early_ = false;
  for (uint64_t i = 1 + random_.Below(8); i != 0; --i) AddInstruction(&words);
  // QEMU shows SFBR to scripts alone.
  const uint32_t reg = Scratch();
  words.insert(words.end(), {kSfbrToRegister | (reg & 0x7f) << 16 | (reg & 0x80), 0, kClearSfbr, 0,
                             kIntAlways, static_cast<uint32_t>(random_.Next())});
  const bool in_ram = random_.OneIn(4);
  if (random_.OneIn(8)) {
    // The whole of it as a subroutine.
    const uint64_t base = in_ram ? kRamOnBus : kScripts;
    words.insert(words.begin(), {kCallAlways, static_cast<uint32_t>(base + 16), kIntAlways, 1});
    *(words.end() - 2) = kReturnAlways;
  }
  Run(words, in_ram, out);
  if (ends_early_) Run({kClearSfbr, 0, kIntAlways, 2}, false, out);
}

// A command for disk 0, which need not be there.
void LsiWorkload::RunCommand(std::vector<Event>* out) {
  struct Cdb {
    uint8_t bytes[10];
    uint32_t size;
    uint32_t data;  // Bytes that come.
  };
  constexpr Cdb kCdbs[] = {{{0x00}, 6, 0},                                  // TEST UNIT READY
                           {{0x12, 0, 0, 0, 36, 0}, 6, 36},                 // INQUIRY
                           {{0x25}, 10, 8},                                 // READ CAPACITY
                           {{0x28, 0, 0, 0, 0, 9, 0, 0, 2, 0}, 10, 1024}};  // READ(10)
  const Cdb& cdb = kCdbs[random_.Below(std::size(kCdbs))];
  constexpr std::byte kIdentify{0x80};
  out->push_back(WriteMemory(kCommand, ConstBytes(&kIdentify, 1)));
  out->push_back(WriteMemory(kCommand + 16, std::as_bytes(std::span(cdb.bytes)).first(cdb.size)));
  const auto at = [](uint64_t iova) { return static_cast<uint32_t>(iova); };
  Words words = {kSelectWithAtn, at(kScripts),           BlockMove(6, 1),
                 at(kCommand),   BlockMove(2, cdb.size), at(kCommand + 16)};
  if (cdb.data != 0) words.insert(words.end(), {BlockMove(1, cdb.data), at(kData)});
  words.insert(words.end(), {BlockMove(3, 1), at(kStatus), BlockMove(7, 1), at(kStatus + 1),
                             kAndScntl2, 0, kClearAck, 0, kWaitDisconnect, 0, kIntAlways, 7});
  Run(words, false, out);
  SetUp(out);  // However it ended, the bus is free afterwards.
}

void LsiWorkload::Run(const Words& words, bool in_ram, std::vector<Event>* out) {
  const uint64_t base = in_ram ? kRamOnBus : kScripts;
  if (in_ram) {
    for (size_t i = 0; i < words.size(); ++i) {
      out->push_back(Write(kRamBar, 4 * i, 4, words[i]));
    }
  } else {
    out->push_back(WriteMemory(base, std::as_bytes(std::span(words))));
  }
  out->push_back(WriteRegister(OffsetOf(kDsp), 4, base));
  out->push_back({.kind = Event::Kind::kAwait,
                  .differs = true,
                  .region = kIoBar,
                  .size = 1,
                  .offset = OffsetOf(kIstat0),
                  .value = 0,
                  .mask = kIstat0Dip | kIstat0Sip,
                  .data = {}});
  out->push_back(Read(kIoBar, OffsetOf(kIstat0), 1));
  for (const Reg reg : {kDsps, kDsp, kTemp}) {
    if (random_.OneIn(2)) out->push_back(Read(kMemoryBar, OffsetOf(reg), kRegisters[reg].width));
  }
  ServeInterrupts(out);
  // Which steps of an instruction go through these is nobody's business.
  out->push_back(WriteRegister(OffsetOf(kDbc), 2, random_.Next() & 0xffff));
  out->push_back(WriteRegister(OffsetOf(kDbc) + 2, 1, random_.Next() & 0xff));
  out->push_back(WriteRegister(OffsetOf(kDnad), 4, random_.Next() & kAllBits));
}

}  // namespace farside::diff
