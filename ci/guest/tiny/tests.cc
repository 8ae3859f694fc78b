#include "ci/guest/tiny/tests.h"

namespace tiny {

constexpr uint64_t kUnclaimed = 0xcfff'0000;

Bench::Bench(uint64_t rsdp) : ecam(FindEcam(rsdp)) {
  Enumerate();
  for (size_t i = 0; i < FunctionCount(); i++) {
    Function& at = Functions()[i];
    const uint32_t id = uint32_t{at.vendor} << 16 | at.device;
    Print("# ", Hex{id}, " at ", at.bus, ":", at.slot, ".", at.function, " class ",
          Hex{at.class_code});
    if (id == 0x1000'0012) lsi = &at;
    if (id == 0x8086'7000) isa_bridge = &at;
  }
  // The first disk is not behind a bridge if any isn't: it has all addresses then.
  for (const bool behind_bridge : {false, true}) {
    for (size_t i = 0; i < FunctionCount(); i++) {
      Function& at = Functions()[i];
      const bool is_disk = at.class_code == 0x01'0802 && (at.bridge != nullptr) == behind_bridge;
      if (is_disk && disk_count < 4) disks[disk_count++].Attach(at);
    }
  }
  nobody = Read<uint32_t>(kUnclaimed);
  Print("# memory that nobody claims reads ", Hex{nobody});
}

void Bench::Run(const Test& test, Outcome& outcome) {
  constexpr size_t kDisksNeeded[] = {0, 1, 1, 2};
  if (disk_count < kDisksNeeded[test.start]) return outcome.Skip("too few NVMe controllers");
  if (test.start == kQueues) {
    disks[0].SetMsix(false, false);
    SetCommand(disks[0].at(), kIntxDisable, 0);
    if (!outcome.Expect(disks[0].Start(0), "the controller does not start")) return;
  }
  test.run(*this, disks[0], outcome);
}

namespace {

// ---- configuration space ----

void TestCf8(Bench&, Nvme&, Outcome& t) {
  for (size_t i = 0; i < FunctionCount(); i++) {
    const Function& at = Functions()[i];
    const uint32_t id = uint32_t{at.device} << 16 | at.vendor;
    t.ExpectEqual(ReadConfig<uint32_t>(at, 0), id, "32 bits of slot", at.slot);
    for (unsigned byte = 0; byte < 4; byte++) {
      t.ExpectEqual(ReadConfig<uint8_t>(at, byte), id >> 8 * byte & 0xff, "byte", byte);
    }
  }
  const Function nobody = {.bus = 0, .slot = 30, .function = 7};
  t.ExpectEqual(ReadConfig<uint32_t>(nobody, 0), 0xffff'ffff, "a function that is not there");
  t.ExpectEqual(ReadConfig<uint8_t>(nobody, 1), 0xff, "a byte of a function that is not there");
}

void TestEcam(Bench& bench, Nvme& disk, Outcome& t) {
  if (bench.ecam == 0) return t.Skip("no MCFG table");
  for (size_t i = 0; i < FunctionCount(); i++) {
    const Function& at = Functions()[i];
    const uint64_t base = bench.ecam + (uint64_t{at.bus} << 20 | at.slot << 15 | at.function << 12);
    for (unsigned offset = 0; offset < 64; offset += 4) {
      const auto want = ReadConfig<uint32_t>(at, offset);
      t.ExpectEqual(Read<uint32_t>(base + offset), want, "ECAM of offset", offset);
      t.ExpectEqual(Read<uint16_t>(base + offset + 2), want >> 16, "ECAM of offset", offset + 2);
      t.ExpectEqual(Read<uint8_t>(base + offset + 1), want >> 8 & 0xff, "ECAM of", offset + 1);
    }
    Read<uint32_t>(base + 0x100);
  }
  const Function& at = disk.at();
  const uint64_t line = bench.ecam + (uint64_t{at.bus} << 20 | at.slot << 15 | kInterruptLine);
  const auto old = ReadConfig<uint8_t>(at, kInterruptLine);
  Write<uint8_t>(line, 0x5a);
  t.ExpectEqual(ReadConfig<uint8_t>(at, kInterruptLine), 0x5a, "written by ECAM, read by CF8");
  WriteConfig<uint8_t>(at, kInterruptLine, old);
  t.ExpectEqual(Read<uint8_t>(line), old, "written by CF8, read by ECAM");
}

// ---- BARs ----

void TestSizing(Bench&, Nvme&, Outcome& t) {
  for (size_t i = 0; i < FunctionCount(); i++) {
    for (const Bar& bar : Functions()[i].bars) {
      if (bar.size == 0) continue;
      const Bar again = SizeBar(Functions()[i], bar.reg);
      t.Expect((bar.size & (bar.size - 1)) == 0, "size ", Hex{bar.size}, " is no power of two");
      t.Expect(bar.size >= (bar.io ? 4 : 16), "size ", bar.size, " is too small");
      t.ExpectEqual(again.size, bar.size, "second sizing of slot", Functions()[i].slot);
      t.ExpectEqual(again.base, bar.base, "base after sizing, slot", Functions()[i].slot);
      t.ExpectEqual(bar.base & (bar.size - 1), 0, "alignment of the base of BAR", bar.reg);
    }
  }
}

template <typename T>
void ExpectParts(Outcome& t, uint64_t address, uint64_t want, const char* what) {
  for (unsigned at = 0; at < 8; at += sizeof(T)) {
    t.ExpectEqual(Read<T>(address + at), static_cast<T>(want >> 8 * at), what, at);
  }
}

void TestWidths(Bench&, Nvme& disk, Outcome& t) {
  SetCommand(disk.at(), kMemoryDecode, 0);
  const auto cap = Read<uint64_t>(disk.regs() + kCap);
  t.Expect(cap != 0 && ~cap != 0, "CAP is ", Hex{cap});
  ExpectParts<uint32_t>(t, disk.regs() + kCap, cap, "4 bytes of CAP at");
  ExpectParts<uint16_t>(t, disk.regs() + kCap, cap, "2 bytes of CAP at");
  ExpectParts<uint8_t>(t, disk.regs() + kCap, cap, "byte of CAP at");
  const auto version = Read<uint32_t>(disk.regs() + kVs);
  t.Expect(version >= 0x1'0000 && version < 0x3'0000, "VS is ", Hex{version});
  t.ExpectEqual(Read<uint16_t>(disk.regs() + kVs + 2), version >> 16, "upper half of VS");
  t.Expect(disk.SetEnabled(false), "the controller stays enabled");
  Write<uint64_t>(disk.regs() + kAsq, 0x1234'5678'9abc'd000);
  ExpectParts<uint32_t>(t, disk.regs() + kAsq, 0x1234'5678'9abc'd000, "4 bytes of ASQ at");
  Write<uint32_t>(disk.regs() + kAsq + 4, 0x5555'0001);
  t.ExpectEqual(Read<uint64_t>(disk.regs() + kAsq), 0x5555'0001'9abc'd000, "ASQ by halves");
}

void TestDecode(Bench& bench, Nvme& disk, Outcome& t) {
  const auto version = Read<uint32_t>(disk.regs() + kVs);
  for (int round = 0; round < 8; round++) {
    SetCommand(disk.at(), 0, kMemoryDecode);
    t.ExpectEqual(Read<uint32_t>(disk.regs() + kVs), bench.nobody, "VS without decode");
    SetCommand(disk.at(), kMemoryDecode, 0);
    t.ExpectEqual(Read<uint32_t>(disk.regs() + kVs), version, "VS with decode again");
  }
}

void TestPorts(Bench& bench, Nvme&, Outcome& t) {
  if (bench.lsi == nullptr) return t.Skip("needs an LSI53C895A");
  const Bar& ports = bench.lsi->bars[0];
  const Bar& memory = bench.lsi->bars[1];
  if (!t.Expect(ports.io && ports.size == 256, "BAR 0 is not of 256 ports")) return;
  SetCommand(*bench.lsi, kIoDecode | kMemoryDecode, 0);
  const auto port = static_cast<uint16_t>(ports.base + 0x34);  // SCRATCHA
  for (uint8_t byte = 0; byte < 4; byte++) {
    Out<uint8_t>(static_cast<uint16_t>(port + byte), static_cast<uint8_t>(0xa0 + byte));
  }
  t.ExpectEqual(In<uint32_t>(port), 0xa3a2'a1a0, "SCRATCHA written by bytes");
  t.ExpectEqual(In<uint16_t>(static_cast<uint16_t>(port + 2)), 0xa3a2, "its upper half");
  Out<uint16_t>(static_cast<uint16_t>(port + 2), 0x1234);
  t.ExpectEqual(In<uint32_t>(port), 0x1234'a1a0, "SCRATCHA, one half written");
  Out<uint32_t>(port, 0x8765'4321);
  for (uint8_t byte = 0; byte < 4; byte++) {
    t.ExpectEqual(In<uint8_t>(static_cast<uint16_t>(port + byte)), 0x8765'4321 >> 8 * byte & 0xff,
                  "SCRATCHA, byte", byte);
  }
  t.ExpectEqual(Read<uint32_t>(memory.base + 0x34), 0x8765'4321, "SCRATCHA by memory");
  SetCommand(*bench.lsi, 0, kIoDecode);
  t.ExpectEqual(In<uint32_t>(port), 0xffff'ffff, "SCRATCHA without decode");
}

// ---- order, DMA, doorbells ----

void TestPostedOrder(Bench&, Nvme& disk, Outcome& t) {
  SetCommand(disk.at(), kMemoryDecode, 0);
  t.Expect(disk.SetEnabled(false), "the controller stays enabled");
  for (uint32_t i = 1; i <= 64; i++) {
    for (uint32_t write = 0; write < i % 16; write++) {  // the last one counts
      Write<uint32_t>(disk.regs() + kAqa, write << 16 | write);
    }
    const uint32_t sizes = (i & 0xfff) << 16 | (i & 0xfff);
    Write<uint32_t>(disk.regs() + kAqa, sizes);
    Write<uint64_t>(disk.regs() + kAsq, uint64_t{i} << 12);
    Write<uint64_t>(disk.regs() + kAcq, uint64_t{i} << 20);
    t.ExpectEqual(Read<uint32_t>(disk.regs() + kAqa), sizes, "AQA in round", i);
    t.ExpectEqual(Read<uint64_t>(disk.regs() + kAcq), uint64_t{i} << 20, "ACQ in round", i);
    t.ExpectEqual(Read<uint64_t>(disk.regs() + kAsq), uint64_t{i} << 12, "ASQ in round", i);
  }
}

Command Transfer(uint8_t opcode, const void* to, uint32_t block, uint32_t blocks) {
  return {.opcode = opcode,
          .nsid = 1,
          .prp1 = reinterpret_cast<uint64_t>(to),
          .words = {block, 0, blocks - 1}};
}

void TestIdentify(Bench&, Nvme& disk, Outcome& t) {
  const int status = disk.Run(
      0, {.opcode = kIdentify, .prp1 = reinterpret_cast<uint64_t>(disk.page(0)), .words = {1}});
  t.ExpectEqual(static_cast<uint32_t>(status), 0, "status of Identify");
  t.ExpectEqual(Read<uint16_t>(reinterpret_cast<uint64_t>(disk.page(0))), disk.at().vendor,
                "vendor by Identify");
  t.Expect(disk.page(0)[4] >= ' ' && disk.page(0)[4] < 127, "no serial number");
  t.Expect(Read<uint32_t>(reinterpret_cast<uint64_t>(disk.page(0) + 516)) > 0, "no namespaces");
}

void TestTransfer(Bench&, Nvme& disk, Outcome& t) {
  uint8_t *const out = disk.page(0), *const in = disk.page(1);
  for (uint32_t i = 0; i < 4096; i++) out[i] = static_cast<uint8_t>(i * 7 + (i >> 8) + 1);
  t.ExpectEqual(static_cast<uint32_t>(disk.Run(1, Transfer(kWrite, out, 8, 8))), 0, "write");
  t.ExpectEqual(static_cast<uint32_t>(disk.Run(1, Transfer(kRead, in, 8, 8))), 0, "read");
  for (uint32_t i = 0; i < 4096; i++) t.ExpectEqual(in[i], out[i], "read back, byte", i);
  memset(in, 0xee, 4096);
  t.ExpectEqual(static_cast<uint32_t>(disk.Run(1, Transfer(kRead, in + 512, 9, 1))), 0, "read 2");
  for (uint32_t i = 0; i < 2048; i++) {
    const bool within = i >= 512 && i < 1024;
    t.ExpectEqual(in[i], within ? out[i] : 0xee, "one block at an offset, byte", i);
  }
}

// Takes `count` completions and says whether all were good.
bool ReapAll(Nvme& disk, uint32_t count) {
  bool good = true;
  for (uint32_t i = 0; i < count && good; i++) good = disk.Reap(1) == 0;
  return good;
}

void TestDoorbells(Bench&, Nvme& disk, Outcome& t) {
  constexpr uint32_t kCount = 256, kInFlight = 32;
  static bool seen[0x1'0000];
  memset(seen, 0, sizeof seen);
  uint32_t completed = 0;
  for (uint32_t rung = 0; completed < kCount;) {
    if (rung < kCount)
      disk.Enqueue(1, Transfer(kRead, disk.page(0), rung % 64, 1)), disk.Ring(1), rung++;
    if (rung < kCount && rung - completed < kInFlight) continue;
    if (!t.ExpectEqual(static_cast<uint32_t>(disk.Reap(1)), 0, "status of command", completed))
      return;
    t.Expect(!seen[disk.last_id()], "command ", disk.last_id(), " completes twice");
    seen[disk.last_id()] = true;
    completed++;
  }
  Pause(kQuiet);
  t.Expect(!disk.Completed(1), "more completions than doorbells");
}

// ---- MSI-X ----

volatile uint32_t& MsixCount(unsigned index) { return interrupts[kMsixVector + index].count; }

bool StartMsix(Nvme& disk, Outcome& t) {
  if (!disk.SetUpMsix()) return t.Skip("no MSI-X"), false;
  disk.SetMsix(true, false);
  if (!t.Expect(disk.Start(1), "the controller does not start with MSI-X")) return false;
  Pause(kQuiet);  // the interrupts of its start
  return true;
}

void TestMsix(Bench&, Nvme& disk, Outcome& t) {
  if (!StartMsix(disk, t)) return;
  const uint32_t before[] = {MsixCount(0), MsixCount(1)};
  for (uint32_t i = 1; i <= 20; i++) {
    disk.StartNothing();
    disk.Enqueue(1, Transfer(kRead, disk.page(0), i, 1));
    disk.Ring(1);
    t.Expect(disk.Reap(0) == 0 && disk.Reap(1) == 0, "a command fails");
    t.Expect(WaitFor([&] { return MsixCount(0) == before[0] + i; }),
             "vector 0: ", MsixCount(0) - before[0], " interrupts after ", i, " commands");
    t.Expect(WaitFor([&] { return MsixCount(1) == before[1] + i; }),
             "vector 1: ", MsixCount(1) - before[1], " interrupts after ", i, " commands");
  }
}

template <bool kWholeFunction>
void TestMsixMask(Bench&, Nvme& disk, Outcome& t) {
  if (!StartMsix(disk, t)) return;
  const auto mask = [&](bool masked) {
    kWholeFunction ? disk.SetMsix(true, masked) : disk.MaskVector(0, masked);
  };
  for (uint32_t round = 0; round < 5 && t.failures == 0; round++) {
    const uint32_t before = MsixCount(0);
    mask(true);
    t.Expect(!disk.IsPending(0), "pending before the command");
    disk.StartNothing();
    t.Expect(WaitFor([&] { return disk.Completed(0); }), "no completion");
    t.Expect(WaitFor([&] { return disk.IsPending(0); }), "the pending bit does not come");
    Pause(kQuiet);
    t.ExpectEqual(MsixCount(0), before, "interrupts while masked, round", round);
    mask(false);
    t.Expect(WaitFor([&] { return MsixCount(0) != before; }), "none after unmasking");
    Pause(kQuiet);
    t.ExpectEqual(MsixCount(0), before + 1, "interrupts after unmasking");
    t.Expect(!disk.IsPending(0), "still pending after unmasking");
    t.Expect(disk.Reap(0) == 0, "the command fails");
  }
}

// ---- INTx, by the PIC ----

constexpr unsigned kIrqs[] = {5, 10, 11, 12};  // one for each PIRQ, for finding out
Nvme* reaped[2];                               // what the handlers below reap, in this order
volatile unsigned unreaped_interrupts;         // to be let pass before

void ReapOne() {
  if (unreaped_interrupts > 0) {
    unreaped_interrupts = unreaped_interrupts - 1;
    return;
  }
  for (Nvme* disk : reaped) {
    if (disk != nullptr && disk->Completed(0)) {
      disk->Reap(0);
      return;
    }
  }
}

uint32_t IrqCount(unsigned irq) { return interrupts[kPicVector + irq].count; }

void Route(Bench& bench, unsigned pirq, unsigned irq) {
  WriteConfig(*bench.isa_bridge, 0x60 + pirq, static_cast<uint8_t>(irq));
}

// Starts the disk on its pin and finds the PIRQ that it is wired to; -1: none, with a reason.
int StartIntx(Bench& bench, Nvme& disk, Outcome& t) {
  if (bench.isa_bridge == nullptr) return t.Skip("no ISA bridge with PIRQ registers"), -1;
  if (ReadConfig<uint8_t>(disk.at(), kInterruptPin) == 0) return t.Skip("no interrupt pin"), -1;
  disk.SetMsix(false, false);
  SetCommand(disk.at(), kIntxDisable, 0);
  if (!t.Expect(disk.Start(0), "the controller does not start")) return -1;
  reaped[0] = &disk, reaped[1] = nullptr;
  for (unsigned pirq = 0; pirq < 4; pirq++) {
    interrupts[kPicVector + kIrqs[pirq]].action = ReapOne;
    Route(bench, pirq, kIrqs[pirq]);
    UnmaskIrq(kIrqs[pirq], true);
  }
  Pause(kQuiet);  // The PIC may have kept edges from before: they would name a wrong line.
  uint32_t before[4];
  for (unsigned pirq = 0; pirq < 4; pirq++) before[pirq] = IrqCount(kIrqs[pirq]);
  SetCommand(disk.at(), 0, kIntxDisable);
  int found = -1;
  const auto search = [&] {
    for (int pirq = 0; pirq < 4; pirq++) {
      if (IrqCount(kIrqs[pirq]) != before[pirq]) found = pirq;
    }
    return found >= 0;
  };
  disk.StartNothing();
  t.Expect(WaitFor(search), "no interrupt on any PIRQ");
  Pause(kQuiet);
  return found;
}

void TestIntxLevel(Bench& bench, Nvme& disk, Outcome& t) {
  const int pirq = StartIntx(bench, disk, t);
  if (pirq < 0) return;
  for (uint32_t round = 0; round < 5 && t.failures == 0; round++) {
    const uint32_t before = IrqCount(kIrqs[pirq]);
    unreaped_interrupts = 4;
    disk.StartNothing();
    t.Expect(WaitFor([&] { return IrqCount(kIrqs[pirq]) - before >= 5; }),
             "not delivered again: ", IrqCount(kIrqs[pirq]) - before, " interrupts of 5");
    Pause(kQuiet);
    const uint32_t after = IrqCount(kIrqs[pirq]);
    t.Expect(after - before <= 6, after - before, " interrupts, not 5");
    t.Expect(!disk.Completed(0), "not reaped");
    t.ExpectEqual(ReadConfig<uint16_t>(disk.at(), kStatus) & kIntxStatus, 0, "Status bit 3");
    Pause(kQuiet);
    t.ExpectEqual(IrqCount(kIrqs[pirq]), after, "interrupts without a cause");
  }
}

void TestIntxMask(Bench& bench, Nvme& disk, Outcome& t) {
  const int pirq = StartIntx(bench, disk, t);
  if (pirq < 0) return;
  for (int round = 0; round < 6; round++) {
    const bool by_command = round % 2 == 0;
    uint32_t before = IrqCount(kIrqs[pirq]);
    by_command ? SetCommand(disk.at(), kIntxDisable, 0) : Write<uint32_t>(disk.regs() + kIntms, 1);
    disk.StartNothing();
    t.Expect(WaitFor([&] { return disk.Completed(0); }), "no completion");
    Pause(kQuiet);
    t.ExpectEqual(IrqCount(kIrqs[pirq]), before, by_command ? "while disabled" : "while masked");
    t.ExpectEqual(ReadConfig<uint16_t>(disk.at(), kStatus) & kIntxStatus,
                  by_command ? kIntxStatus : 0, by_command ? "Status, disabled" : "Status, masked");
    by_command ? SetCommand(disk.at(), 0, kIntxDisable) : Write<uint32_t>(disk.regs() + kIntmc, 1);
    t.Expect(WaitFor([&] { return !disk.Completed(0); }), "no interrupt after ",
             by_command ? "enabling" : "unmasking");
  }
}

void TestIntxShared(Bench& bench, Nvme& disk, Outcome& t) {
  const int other = StartIntx(bench, bench.disks[1], t);
  const int pirq = other < 0 ? -1 : StartIntx(bench, disk, t);
  if (pirq < 0) return;
  if (pirq != other) return t.Skip("the two controllers are on different lines");
  for (uint32_t round = 0; round < 40; round++) {
    const uint32_t before = IrqCount(kIrqs[pirq]);
    for (size_t i = 0; i < 2; i++) reaped[i] = &bench.disks[(i + round) % 2];
    for (Nvme* each : reaped) each->StartNothing();
    t.Expect(WaitFor([&] { return IrqCount(kIrqs[pirq]) - before >= 2; }), "round ", round, ": ",
             IrqCount(kIrqs[pirq]) - before, " interrupts for two controllers");
    for (Nvme* each : reaped) {
      t.Expect(WaitFor([&] { return !each->Completed(0); }), "one is left over, round ", round);
    }
  }
}

void TestPirq(Bench& bench, Nvme& disk, Outcome& t) {
  const int found = StartIntx(bench, disk, t);
  if (found < 0) return;
  const auto pirq = static_cast<unsigned>(found);
  for (unsigned each = 0; each < 4; each++) Route(bench, each, 0x80);  // to none
  uint32_t at_switch = 0;
  for (uint32_t round = 0; round < 12; round++) {
    const unsigned now = round % 2 == 0 ? 10 : 11, old = 21 - now;
    disk.StartNothing();  // in flight while the route changes
    Route(bench, pirq, now);
    t.Expect(
        WaitFor([&] { return !disk.Completed(0) && IrqCount(now) + IrqCount(old) != at_switch; }),
        "the interrupt is lost in round ", round);
    Pause(kQuiet);
    const uint32_t before_now = IrqCount(now), before_old = IrqCount(old);
    for (uint32_t i = 1; i <= 5; i++) {
      disk.StartNothing();
      t.Expect(WaitFor([&] { return IrqCount(now) - before_now >= i; }), "no interrupt on IRQ ",
               now);
    }
    t.ExpectEqual(IrqCount(old), before_old, "interrupts on the old IRQ", old);
    at_switch = IrqCount(now) + IrqCount(old);
  }
}

// ---- BARs that move ----

bool MoveUnderLoad(Bench& bench, Nvme& disk, Outcome& t, uint64_t to, uint32_t version) {
  const uint64_t from = disk.regs();
  for (uint32_t i = 0; i < 32; i++) disk.Enqueue(1, Transfer(kRead, disk.page(0), i, 8));
  disk.Ring(1);
  MoveBar(disk.at(), disk.bar(), to);
  t.ExpectEqual(Read<uint32_t>(from + kVs), bench.nobody, "VS at the old address", from);
  t.ExpectEqual(Read<uint32_t>(to + kVs), version, "VS at the new address", to);
  return t.Expect(ReapAll(disk, 32), "commands in flight are lost");
}

template <bool kHigh>
void TestMove(Bench& bench, Nvme& disk, Outcome& t) {
  if (kHigh && !disk.bar().wide) return t.Skip("BAR 0 has 32 bits");
  if (kHigh && disk.at().bridge != nullptr) return t.Skip("behind a bridge without such a window");
  const uint64_t home = disk.regs();
  const uint64_t away = kHigh ? 0x8'0000'0000 : FreeAddress(disk.at(), disk.bar().size);
  const auto version = Read<uint32_t>(disk.regs() + kVs);
  for (uint32_t round = 0; round < 4 && t.failures == 0; round++) {
    MoveUnderLoad(bench, disk, t, away + 0x10'0000 * (kHigh ? round : 0), version);
    MoveUnderLoad(bench, disk, t, home, version);
  }
}

// ---- what is measured ----

constexpr size_t kSamples = 101;

template <typename Measured>
void Measure(const char* name, Measured measured) {
  static uint64_t samples[kSamples];
  for (size_t i = 0; i < kSamples; i++) {
    const uint64_t sample = measured();
    size_t at = i;
    for (; at > 0 && samples[at - 1] > sample; at--) samples[at] = samples[at - 1];
    samples[at] = sample;
  }
  Print("# latency ", name, " median ", samples[kSamples / 2], " tenth ", samples[kSamples / 10],
        " cycles");
}

void TestLatency(Bench& bench, Nvme& disk, Outcome& t) {
  const auto timed_write = [&](auto write) {
    const uint64_t start = Tsc();
    write();
    const uint64_t end = Tsc();
    Read<uint32_t>(disk.regs() + kVs);  // so that the next one finds nothing under way
    return end - start;
  };
  Measure("mmio_read", [&] {
    const uint64_t start = Tsc();
    Read<uint32_t>(disk.regs() + kVs);
    return Tsc() - start;
  });
  Measure("posted_write",
          [&] { return timed_write([&] { Write<uint32_t>(disk.regs() + kIntmc, 0); }); });
  Measure("doorbell_write", [&] { return timed_write([&] { disk.Ring(1); }); });
  Measure("command_polled", [&] {
    const uint64_t start = Tsc();
    disk.StartNothing();
    t.Expect(WaitFor([&] { return disk.Completed(0); }), "no completion");
    const uint64_t end = Tsc();
    disk.Reap(0);
    return end - start;
  });
  // From a command's doorbell to its interrupt's handler.
  const auto to_interrupt = [&](unsigned vector, bool reap) {
    const uint32_t before = interrupts[vector].count;
    const uint64_t start = Tsc();
    disk.StartNothing();
    t.Expect(WaitFor([&] { return interrupts[vector].count != before; }), "no interrupt");
    const uint64_t end = interrupts[vector].tsc;
    if (reap) disk.Reap(0);
    Read<uint32_t>(disk.regs() + kVs);
    return end - start;
  };
  if (StartMsix(disk, t)) {
    Measure("msix", [&] { return to_interrupt(kMsixVector, true); });
  }
  Outcome unused;
  if (const int pirq = StartIntx(bench, disk, unused); pirq >= 0) {
    Measure("intx", [&] { return to_interrupt(kPicVector + kIrqs[pirq], false); });
  }
}

// ---- the last one ----

// A root port's slot (PCI Express 3.0, sections 7.8.10 and 7.8.11).
constexpr unsigned kSlotControl = 0x18, kSlotStatus = 0x1a;  // from the capability
constexpr uint16_t kPowerOff = 0x400, kButton = 1, kPresenceChanged = 8, kPresent = 0x40;

// As a hot-plug driver answers the attention button: it lets go, by switching the power off.
void AnswerButton(const Function& port, unsigned express) {
  if ((ReadConfig<uint16_t>(port, express + kSlotStatus) & kButton) == 0) return;
  Print("# the slot's button is pressed");
  WriteConfig(port, express + kSlotStatus, kButton);
  const auto control = ReadConfig<uint16_t>(port, express + kSlotControl);
  WriteConfig(port, express + kSlotControl, static_cast<uint16_t>(control | kPowerOff));
}

void TestUnplug(Bench& bench, Nvme& disk, Outcome& t) {
  if (!bench.unplug) return t.Skip("nobody said unplug");
  const Function* const port = disk.at().bridge;
  const unsigned express = port != nullptr ? FindCapability(*port, 0x10) : 0;
  Print("# ready: unplug slot ", disk.at().slot, " of bus ", disk.at().bus);
  const auto gone = [&] {
    if (express != 0) AnswerButton(*port, express);
    return ReadConfig<uint32_t>(disk.at(), 0) == 0xffff'ffff;
  };
  t.Expect(WaitFor(gone, 30'000), "it is still there after 30 s");
  t.ExpectEqual(Read<uint32_t>(disk.regs() + kVs), bench.nobody, "VS of what is not there");
  if (express == 0) return;
  const auto vacant = [&] {
    const auto status = ReadConfig<uint16_t>(*port, express + kSlotStatus);
    return (status & (kPresenceChanged | kPresent)) == kPresenceChanged;
  };
  t.Expect(WaitFor(vacant), "Slot Status does not say that the slot is empty now");
}

constexpr Test kAllTests[] = {
    {"config.cf8", kNothing, TestCf8},
    {"config.ecam", kDisk, TestEcam},
    {"bar.sizing", kNothing, TestSizing},
    {"bar.widths", kDisk, TestWidths},
    {"bar.decode", kDisk, TestDecode},
    {"port.widths", kNothing, TestPorts},
    {"posted.order", kDisk, TestPostedOrder},
    {"dma.identify", kQueues, TestIdentify},
    {"dma.transfer", kQueues, TestTransfer},
    {"doorbell.count", kQueues, TestDoorbells},
    {"msix.deliver", kQueues, TestMsix},
    {"msix.vector_mask", kQueues, TestMsixMask<false>},
    {"msix.function_mask", kQueues, TestMsixMask<true>},
    {"intx.level", kDisk, TestIntxLevel},
    {"intx.mask", kDisk, TestIntxMask},
    {"intx.shared", kTwoDisks, TestIntxShared},
    {"intx.pirq", kDisk, TestPirq},
    {"bar.move", kQueues, TestMove<false>},
    {"bar.move_high", kQueues, TestMove<true>},
    {"latency", kQueues, TestLatency},
    {"unplug", kDisk, TestUnplug},
};

}  // namespace

const std::span<const Test> kTests = kAllTests;

}  // namespace tiny
