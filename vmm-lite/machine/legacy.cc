#include "vmm-lite/machine/legacy.h"

#include <algorithm>
#include <chrono>

namespace farside::vmm {
namespace {

// QEMU's places for what SeaBIOS asks of CMOS.
constexpr uint8_t kLowRam64k = 0x34;   // From 16 MiB, in 64 KiB; two bytes.
constexpr uint8_t kHighRam64k = 0x5b;  // From 4 GiB; three bytes.
constexpr uint8_t kCpus = 0x5f;        // Besides the first.

constexpr uint16_t kPowerButton = 1 << 8;
constexpr uint16_t kGlobal = 1 << 5;
constexpr uint16_t kTimerCarry = 1 << 0;
constexpr uint16_t kSciEnable = 1 << 0;
constexpr uint16_t kSleepEnable = 1 << 13;
constexpr uint64_t kTimerHz = 3'579'545;

uint8_t Bcd(unsigned value) { return static_cast<uint8_t>(value / 10 << 4 | value % 10); }

}  // namespace

Cmos::Cmos(uint64_t low_ram, uint64_t high_ram, uint32_t cpus) {
  const uint64_t low = (std::max<uint64_t>(low_ram, 16 << 20) - (16 << 20)) >> 16;
  const uint64_t high = high_ram >> 16;
  for (uint32_t i = 0; i < 2; ++i) bytes_[kLowRam64k + i] = static_cast<uint8_t>(low >> 8 * i);
  for (uint32_t i = 0; i < 3; ++i) bytes_[kHighRam64k + i] = static_cast<uint8_t>(high >> 8 * i);
  bytes_[kCpus] = static_cast<uint8_t>(cpus - 1);
  bytes_[0x15] = 640 & 0xff;  // KiB below 1 MiB.
  bytes_[0x16] = 640 >> 8;
}

uint8_t Cmos::ReadRegister(uint8_t index) const {
  // Not gmtime: it opens files, which the process may not any more.
  const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  const auto day = std::chrono::floor<std::chrono::days>(now);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(now - day);
  const int year = static_cast<int>(date.year());
  switch (index) {
    case 0x00:
      return Bcd(static_cast<unsigned>(clock.seconds().count()));
    case 0x02:
      return Bcd(static_cast<unsigned>(clock.minutes().count()));
    case 0x04:
      return Bcd(static_cast<unsigned>(clock.hours().count()));
    case 0x06:
      return Bcd(std::chrono::weekday(day).c_encoding() + 1);
    case 0x07:
      return Bcd(static_cast<unsigned>(date.day()));
    case 0x08:
      return Bcd(static_cast<unsigned>(date.month()));
    case 0x09:
      return Bcd(static_cast<unsigned>(year % 100));
    case 0x32:
      return Bcd(static_cast<unsigned>(year / 100));
    case 0x0a:
      return 0x26;  // 32768 Hz, no update under way.
    case 0x0b:
      return 0x02;  // 24 hours, BCD.
    case 0x0c:
      return 0;
    case 0x0d:
      return 0x80;  // The battery is good.
    default:
      return bytes_[index];
  }
}

void Cmos::Read(uint32_t, uint64_t offset, Bytes out) {
  const std::lock_guard lock(mutex_);
  Fill(out, 0xff);
  if (offset == 1) out[0] = std::byte{ReadRegister(index_)};
}

void Cmos::Write(uint32_t, uint64_t offset, ConstBytes in) {
  const std::lock_guard lock(mutex_);
  const auto value = LoadLe<uint8_t>(in);
  if (offset == 0) {
    index_ = value & 0x7f;
  } else if (index_ > 0x0d) {
    bytes_[index_] = value;
  }
}

uint32_t PowerManagement::Timer() const {
  const uint64_t now = clock_.now_ns();
  const uint64_t ticks =
      now / 1'000'000'000 * kTimerHz + now % 1'000'000'000 * kTimerHz / 1'000'000'000;
  return ticks & 0xff'ffff;
}

void PowerManagement::Update() {
  const bool irq = (status_ & enable_ & (kPowerButton | kGlobal | kTimerCarry)) != 0;
  if (irq != irq_) set_irq_(irq);
  irq_ = irq;
}

void PowerManagement::Read(uint32_t, uint64_t offset, Bytes out) {
  const std::lock_guard lock(mutex_);
  std::array<std::byte, kPmSize + 8> block{};
  StoreLe<uint16_t>(block, status_);
  StoreLe<uint16_t>(Bytes(block).subspan(2), enable_);
  StoreLe<uint16_t>(Bytes(block).subspan(4), control_);
  StoreLe<uint32_t>(Bytes(block).subspan(8), Timer());
  Copy(out, ConstBytes(block).subspan(offset, out.size()));
}

void PowerManagement::Write(uint32_t, uint64_t offset, ConstBytes in) {
  bool off = false;
  {
    const std::lock_guard lock(mutex_);
    const auto value = static_cast<uint16_t>(LoadLePartial(in));
    if (offset == 0) {
      status_ &= static_cast<uint16_t>(~value);
      if (in.size() == 4) enable_ = static_cast<uint16_t>(LoadLePartial(in) >> 16);
    } else if (offset == 2) {
      enable_ = value;
    } else if (offset == 4) {
      control_ = static_cast<uint16_t>((value & ~kSleepEnable) | kSciEnable);
      off = (value & kSleepEnable) != 0 && (value >> 10 & 7) == kSleepTypeS5;
    }
    Update();
  }
  if (off) on_power_off_();
}

void PowerManagement::PressPowerButton() {
  const std::lock_guard lock(mutex_);
  status_ |= kPowerButton;
  Update();
}

void PowerManagement::Reset() {
  const std::lock_guard lock(mutex_);
  status_ = enable_ = 0;
  control_ = kSciEnable;
  Update();
}

}  // namespace farside::vmm
