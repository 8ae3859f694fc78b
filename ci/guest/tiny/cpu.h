// What the tiny guest's tests stand on: ports, memory-mapped registers, time, interrupts, and the
// serial line with TAP on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

extern "C" void* memset(void* to, int byte, size_t size);
extern "C" void* memcpy(void* to, const void* from, size_t size);

namespace tiny {

template <typename T>
T In(uint16_t port) {
  T value;
  asm volatile("in %w1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

template <typename T>
void Out(uint16_t port, T value) {
  asm volatile("out %0, %w1" : : "a"(value), "Nd"(port) : "memory");
}

// One access of that width, by a plain mov: what a VMM can decode.
template <typename T>
T Read(uint64_t address) {
  T value;
  asm volatile("mov %1, %0"
               : "=r"(value)
               : "m"(*reinterpret_cast<volatile T*>(address))
               : "memory");
  return value;
}

template <typename T>
void Write(uint64_t address, T value) {
  asm volatile("mov %1, %0"
               : "=m"(*reinterpret_cast<volatile T*>(address))
               : "r"(value)
               : "memory");
}

inline uint64_t Tsc() {
  uint32_t low, high;
  asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return uint64_t{high} << 32 | low;
}

// ---- text ----

struct Hex {
  uint64_t value;
};

// A line in the making; what does not fit is left out.
struct Text {
  char data[160] = "";
  size_t size = 0;

  void Add(const char* text);
  void Add(uint64_t value);
  void Add(Hex value);
};

void Send(const Text& line);

template <typename... Parts>
void Print(Parts... parts) {
  Text line;
  (line.Add(parts), ...);
  line.Add("\n");
  Send(line);
}

// ---- time ----

// By the PIT, or, where it does not tick, as if the TSC made 1 GHz; then false.
bool CalibrateTsc();
uint64_t TscPerMillisecond();

extern uint64_t patience;        // ms that something may take that must happen
constexpr uint64_t kQuiet = 20;  // ms without something that must not happen

template <typename Condition>
bool WaitFor(Condition condition, uint64_t milliseconds = patience) {
  const uint64_t end = Tsc() + milliseconds * TscPerMillisecond();
  while (!condition()) {
    if (Tsc() > end) return condition();
    asm volatile("pause" ::: "memory");
  }
  return true;
}

inline void Pause(uint64_t milliseconds) {
  WaitFor([] { return false; }, milliseconds);
}

// ---- interrupts ----

constexpr uint8_t kPicVector = 0x20;   // IRQ 0; 16 of them
constexpr uint8_t kMsixVector = 0x40;  // vectors of MSI-X

struct InterruptCount {
  volatile uint32_t count;
  volatile uint64_t tsc;  // of the last one
  // Runs at each of them, before the EOI.
  void (*action)();
};
extern InterruptCount interrupts[256];

void SetUpInterrupts();
void UnmaskIrq(unsigned irq, bool level);
void MaskIrq(unsigned irq);
uint64_t MsiAddress();

// Maps what lies above 4 GiB to itself; within the first 4 GiB it is mapped already.
void MapDevice(uint64_t address);

// ---- the end ----

void SetExitPort(uint16_t port);
[[noreturn]] void Stop();

}  // namespace tiny
