#include "ci/guest/tiny/cpu.h"

namespace tiny {

InterruptCount interrupts[256];
uint64_t patience = 5000;

namespace {

constexpr uint16_t kCom1 = 0x3f8;
constexpr uint64_t kLapic = 0xfee0'0000;
uint64_t tsc_per_ms = 1'000'000;
uint16_t exit_port = 0;

void SendByte(char byte) {
  for (int tries = 0; tries < 100'000 && (In<uint8_t>(kCom1 + 5) & 0x20) == 0; tries++) continue;
  Out<uint8_t>(kCom1, static_cast<uint8_t>(byte));
}

}  // namespace

// ---- text ----

void Text::Add(const char* text) {
  while (*text != 0 && size < sizeof data - 1) data[size++] = *text++;
  data[size] = 0;
}

void Text::Add(uint64_t value) {
  char digits[21];
  char* at = &digits[20];
  *at = 0;
  do {
    *--at = static_cast<char>('0' + value % 10);
  } while ((value /= 10) != 0);
  Add(at);
}

void Text::Add(Hex hex) {
  char digits[17];
  char* at = &digits[16];
  *at = 0;
  do {
    *--at = "0123456789abcdef"[hex.value & 15];
  } while ((hex.value >>= 4) != 0);
  Add("0x");
  Add(at);
}

void Send(const Text& line) {
  for (size_t i = 0; i < line.size; i++) SendByte(line.data[i]);
}

// ---- time ----

bool CalibrateTsc() {
  constexpr uint64_t kPitHz = 1'193'182, kTicks = kPitHz / 50;  // 20 ms
  const uint8_t gate = In<uint8_t>(0x61) & 0xfc;
  Out<uint8_t>(0x61, gate);
  Out<uint8_t>(0x43, 0xb0);  // channel 2, low and high byte, mode 0
  Out<uint8_t>(0x42, kTicks & 0xff);
  Out<uint8_t>(0x42, kTicks >> 8);
  const uint64_t start = Tsc();
  Out<uint8_t>(0x61, gate | 1);
  bool ticks = false;
  while (!ticks && Tsc() - start < 400'000'000) ticks = In<uint8_t>(0x61) & 0x20;
  // All in one read: a port 0x61 of which nobody knows.
  if (!ticks || Tsc() - start < 100'000) return false;
  tsc_per_ms = (Tsc() - start) / 20;
  return true;
}

uint64_t TscPerMillisecond() { return tsc_per_ms; }

// ---- interrupts ----

struct InterruptFrame {
  uint64_t vector, error, rip, cs, flags, rsp, ss;
};

extern "C" {
extern const char kInterruptEntries[];
extern uint64_t kPml4[];
void OnInterrupt(const InterruptFrame* frame);
}

extern "C" void OnInterrupt(const InterruptFrame* frame) {
  const auto vector = static_cast<uint8_t>(frame->vector);
  if (vector < 32) {
    uint64_t address;
    asm volatile("mov %%cr2, %0" : "=r"(address));
    Print("Bail out! exception ", vector, " at ", Hex{frame->rip}, ", error ", Hex{frame->error},
          ", cr2 ", Hex{address});
    Stop();
  }
  const unsigned irq = vector - kPicVector;
  if (irq == 7 || irq == 15) {  // the PIC's spurious ones are not in service
    const uint16_t pic = irq == 7 ? 0x20 : 0xa0;
    Out<uint8_t>(pic, 0x0b);
    if ((In<uint8_t>(pic) & 0x80) == 0) {
      if (irq == 15) Out<uint8_t>(0x20, 0x20);
      return;
    }
  }
  InterruptCount& interrupt = interrupts[vector];
  interrupt.tsc = Tsc();
  interrupt.count = interrupt.count + 1;
  if (interrupt.action != nullptr) interrupt.action();
  if (irq < 16) {
    if (irq >= 8) Out<uint8_t>(0xa0, 0x20);
    Out<uint8_t>(0x20, 0x20);
  } else {
    Write<uint32_t>(kLapic + 0xb0, 0);
  }
}

void SetUpInterrupts() {
  struct [[gnu::packed]] Gate {
    uint16_t offset_low, selector, flags, offset_middle;
    uint32_t offset_high, reserved;
  };
  static Gate idt[256];
  for (size_t i = 0; i < 256; i++) {
    const uint64_t entry = reinterpret_cast<uint64_t>(&kInterruptEntries[16 * i]);
    idt[i] = {static_cast<uint16_t>(entry),       8, 0x8e00, static_cast<uint16_t>(entry >> 16),
              static_cast<uint32_t>(entry >> 32), 0};
  }
  const struct [[gnu::packed]] {
    uint16_t limit;
    uint64_t base;
  } pointer = {sizeof idt - 1, reinterpret_cast<uint64_t>(idt)};
  asm volatile("lidt %0" : : "m"(pointer));

  for (const auto pic : {uint16_t{0x20}, uint16_t{0xa0}}) {
    const bool first = pic == 0x20;
    const auto data = static_cast<uint16_t>(pic + 1);
    Out<uint8_t>(pic, 0x11);
    Out<uint8_t>(data, first ? kPicVector : kPicVector + 8);
    Out<uint8_t>(data, first ? 4 : 2);
    Out<uint8_t>(data, 1);
    Out<uint8_t>(data, first ? 0xfb : 0xff);  // all masked but the second PIC
  }
  Write<uint32_t>(kLapic + 0xf0, 0x1ff);   // enabled, spurious vector 0xff
  Write<uint32_t>(kLapic + 0x350, 0x700);  // LINT0 is the PIC
  Write<uint32_t>(kLapic + 0x80, 0);       // every priority
  asm volatile("sti");
}

static void SetBit(uint16_t port, unsigned bit, bool value) {
  const auto old = In<uint8_t>(port);
  Out<uint8_t>(port, static_cast<uint8_t>(value ? old | 1 << bit : old & ~(1 << bit)));
}

void UnmaskIrq(unsigned irq, bool level) {
  SetBit(irq < 8 ? 0x4d0 : 0x4d1, irq % 8, level);
  SetBit(irq < 8 ? 0x21 : 0xa1, irq % 8, false);
}

void MaskIrq(unsigned irq) { SetBit(irq < 8 ? 0x21 : 0xa1, irq % 8, true); }

uint64_t MsiAddress() { return kLapic | (Read<uint32_t>(kLapic + 0x20) >> 24) << 12; }

void MapDevice(uint64_t address) {
  alignas(4096) static uint64_t pool[8][512];
  static size_t used = 0;
  uint64_t* table = kPml4;
  for (const int shift : {39, 30}) {
    uint64_t& entry = table[address >> shift & 511];
    if (entry == 0) {
      if (used == 8) return;
      entry = reinterpret_cast<uint64_t>(pool[used++]) | 3;
    }
    table = reinterpret_cast<uint64_t*>(entry & ~uint64_t{0xfff});
  }
  // Two pages of 2 MiB, for what crosses the end of the first; uncached.
  for (uint64_t page = address >> 21; page <= (address >> 21) + 1; page++) {
    if (table[page & 511] == 0) table[page & 511] = page << 21 | 0x9b;
  }
}

// ---- the end ----

void SetExitPort(uint16_t port) { exit_port = port; }

void Stop() {
  if (exit_port != 0) Out<uint8_t>(exit_port, 0);  // isa-debug-exit
  Out<uint8_t>(0x64, 0xfe);                        // i8042: reset
  for (;;) asm volatile("cli; hlt");
}

}  // namespace tiny

// What the compiler may call without being asked.
extern "C" void* memset(void* to, int byte, size_t size) {
  void* const start = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
  return start;
}

extern "C" void* memcpy(void* to, const void* from, size_t size) {
  void* const start = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return start;
}
