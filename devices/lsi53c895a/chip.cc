#include "devices/lsi53c895a/chip.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/mutant.h"

namespace farside::lsi53c895a {
namespace {

PciConfig MakePciConfig() {
  std::array<BarSpec, kBarCount> bars{};
  bars[kIoBar] = {.kind = BarKind::kIo, .size = kRegisterSize};
  bars[kMemoryBar] = {.kind = BarKind::kMemory32, .size = kMemoryBarSize};
  bars[kRamBar] = {.kind = BarKind::kMemory32, .size = kRamSize};
  const PciIds ids{.vendor = kVendorId,
                   .device = kDeviceId,
                   .subsystem_vendor = kVendorId,
                   .subsystem = 0x1000,
                   .class_code = kClassCode,
                   .revision = 0};
  return PciConfig(ids, bars, /*has_intx=*/true);
}

}  // namespace

Chip::Chip(DeviceEnv env, Options options)
    : PciDevice(kModelName, std::move(env), MakePciConfig(), /*msi_count=*/0),
      options_(options),
      bus_(loop(), *this),
      link_(bus_),
      idle_(loop()) {}

void Chip::ReadBar(uint32_t bar, uint64_t offset, Bytes out) {
  if (bar == kRamBar) return Copy(out, ConstBytes(ram_).subspan(offset, out.size()));
  ReadRegisters(offset, out);
}

void Chip::WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) {
  if (bar == kRamBar) return Copy(Bytes(ram_).subspan(offset, in.size()), in);
  WriteRegisters(offset, in);
}

// Our own DMA. Registers behave as for the guest; a script that it starts or halts is ours, which
// notices when the access has ended.
DmaStatus Chip::SelfAccess(uint32_t bar, uint64_t offset, Bytes data, DmaAccess access) {
  if (access == DmaAccess::kRead) {
    ReadBar(bar, offset, data);
  } else {
    WriteBar(bar, offset, data);
  }
  return DmaStatus::kOk;
}

// BAR 1 repeats the registers.
void Chip::ReadRegisters(uint64_t offset, Bytes out) {
  while (!out.empty()) {
    const uint64_t at = offset % kRegisterSize;
    const size_t size = std::min<uint64_t>(out.size(), kRegisterSize - at);
    ReadWindow(at, out.first(size));
    offset += size;
    out = out.subspan(size);
  }
}

void Chip::WriteRegisters(uint64_t offset, ConstBytes in) {
  while (!in.empty()) {
    const uint64_t at = offset % kRegisterSize;
    const size_t size = std::min<uint64_t>(in.size(), kRegisterSize - at);
    regs_.Write(at, in.first(size), [this](size_t row, uint64_t old, uint64_t mask) {
      OnRegisterWrite(row, old, mask);
    });
    offset += size;
    in = in.subspan(size);
  }
}

void Chip::ReadWindow(uint64_t offset, Bytes out) {
  const auto reads = [&](Reg reg) {
    return OffsetOf(reg) >= offset && OffsetOf(reg) < offset + out.size();
  };
  if (reads(kSbcl)) {
    const bool connected = link_.connected();
    regs_.Set(kSbcl, (link_.atn() ? kBusAtn : 0) | (link_.ack_held() ? kBusAck : 0) |
                         (connected ? kBusBsy | (regs_[kSstat1] & kBusPhase) : 0) |
                         (connected && link_.WantsBus() ? kBusReq : 0));
  }
  if (reads(kCtest2)) {
    SetBits(kCtest2, kCtest2Sigp, bit(kIstat0, kIstat0Sigp));
    SetBits(kCtest2, kCtest2Cio, config().bar_address(kIoBar).has_value());
    SetBits(kCtest2, kCtest2Cm, config().bar_address(kMemoryBar).has_value());
  }
  regs_.Read(offset, out);
  if (bit(kCtest2, kCtest2Pcicie)) {
    for (const auto& [reg, bar] : {std::pair{kScratchA, kMemoryBar}, {kScratchB, kRamBar}}) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint64_t at = OffsetOf(reg) + i;
        if (at < offset || at >= offset + out.size()) continue;
        const uint64_t address = config().bar_address(bar).value_or(0);
        out[at - offset] = static_cast<std::byte>(address >> 8 * i);
      }
    }
  }
  if (reads(kCtest2)) SetBits(kIstat0, kIstat0Sigp, false);
  if (!reads(kDstat) && !reads(kSist0) && !reads(kSist1)) return;
  interrupts_.Clear(reads(kDstat), reads(kSist0), reads(kSist1));
  UpdateInterrupts();
}

void Chip::OnRegisterWrite(size_t row, uint64_t old, uint64_t mask) {
  switch (row) {
    case kScntl1: {
      const bool rst = bit(kScntl1, kScntl1Rst);
      SetBits(kSstat0, kSstat0Rst, rst);
      if (rst && (old & kScntl1Rst) == 0) ResetScsiBus();
      return;
    }
    case kSocl:
      return SetOutputLatch(old);
    case kIstat0:
      return OnIstat0Write(old);
    case kIstat1:
    case kDien:
    case kSien0:
    case kSien1:
      return UpdateInterrupts();
    case kCtest3:
      return SetBits(kCtest3, kCtest3Clf | kCtest3Flf, false);
    case kStest2:
      return SetBits(kStest2, kStest2Rof, false);
    case kStest3:
      return SetBits(kStest3, kStest3Csf, false);
    case kStime1:
      return OnStime1Write();
    case kDsp:
      // The upper byte starts SCRIPTS (section 4.2, DSP).
      if ((mask & 0xff00'0000) != 0 && !bit(kDmode, kDmodeMan)) Start();
      return;
    case kDcntl: {
      const bool start = bit(kDcntl, kDcntlStd);
      SetBits(kDcntl, kDcntlStd | kDcntlPff, false);
      UpdateInterrupts();
      if (start && !execution_.running) Start();
      return;
    }
    default:
      return;
  }
}

void Chip::OnIstat0Write(uint64_t old) {
  if (bit(kIstat0, kIstat0Srst) && (old & kIstat0Srst) == 0) {
    SoftReset();
    SetBits(kIstat0, kIstat0Srst, true);
    return;
  }
  UpdateInterrupts();
  if (bit(kIstat0, kIstat0Abrt)) Post({.dstat = kDstatAbrt});
  if (bit(kIstat0, kIstat0Sigp)) Kick();
}

// Operating registers to their reset values; commands of targets that have disconnected stay. So
// does SCRIPTS RAM, at every reset: it has no reset input.
void Chip::SoftReset() {
  Halt();
  execution_ = {};
  link_.Drop();
  interrupts_.Reset();
  regs_.Reset();
  general_deadline_.reset();
  handshake_deadline_.reset();
  UpdateInterrupts();
}

void Chip::OnReset(ResetKind) {
  link_.Reset();
  bus_.ResetAll();
  SoftReset();
}

// RST/ was asserted by us, and we hear it like everybody else.
void Chip::ResetScsiBus() {
  link_.Reset();
  bus_.ResetAll();
  execution_.selection_failed = false;
  OnConnectionChanged(/*expected=*/true);
  Post({.sist0 = kSist0Rst});
}

void Chip::Start() {
  ++generation_;
  execution_.wait = Wait::kNone;
  execution_.running = true;
  SetBits(kIstat1, kIstat1Srun, true);
  Kick();
}

void Chip::Halt() {
  ++generation_;
  execution_.wait = Wait::kNone;
  execution_.running = false;
  handshake_deadline_.reset();
  SetBits(kIstat1, kIstat1Srun, false);
}

void Chip::Post(InterruptBits bits) {
  interrupts_.SetEnabled(enabled_interrupts());
  if (interrupts_.Post(bits) && execution_.running) {
    Halt();
    // A selection goes on when SCRIPTS have halted. It is stacked behind what halted them.
    if (std::exchange(execution_.selection_failed, false)) {
      interrupts_.Post({.sist1 = kSist1Sto});
    }
  }
  UpdateInterrupts();
}

InterruptBits Chip::enabled_interrupts() const {
  return {.dstat = reg8(kDien), .sist0 = reg8(kSien0), .sist1 = reg8(kSien1)};
}

void Chip::UpdateInterrupts() {
  interrupts_.SetEnabled(enabled_interrupts());
  const InterruptBits& shown = interrupts_.first();
  regs_.Set(kDstat, shown.dstat | kDstatDfe);
  regs_.Set(kSist0, shown.sist0);
  regs_.Set(kSist1, shown.sist1);
  SetBits(kIstat0, kIstat0Sip, interrupts_.sip());
  SetBits(kIstat0, kIstat0Dip, interrupts_.dip());
  SetIntxLevel(interrupts_.Line(bit(kIstat0, kIstat0Intf), bit(kIstat1, kIstat1Si),
                                bit(kDcntl, kDcntlIrqd)));
}

// The target may have gone to BUS FREE. Unexpectedly, if SCNTL2.SDU says so.
void Chip::OnConnectionChanged(bool expected) {
  if (link_.connected() || !bit(kScntl1, kScntl1Con)) return;
  SetBits(kScntl1, kScntl1Con, false);
  SetBits(kIstat0, kIstat0Con, false);
  SetBits(kSstat2, kSstat2Ldsc, true);
  SetBits(kSocl, kBusAtn | kBusAck, false);
  if (!expected && bit(kScntl2, kScntl2Sdu)) Post({.sist0 = kSist0Udc});
}

void Chip::OnConnected(bool atn) {
  SetBits(kScntl1, kScntl1Con, true);
  SetBits(kScntl1, kScntl1Iarb, false);
  SetBits(kScntl2, kScntl2Sdu, true);
  SetBits(kIstat0, kIstat0Con, true);
  SetBits(kSstat2, kSstat2Ldsc, false);
  SetBits(kSocl, kBusAck, false);
  SetBits(kSocl, kBusAtn, atn);
}

// SOCL was written, by the driver or by SET and CLEAR.
void Chip::SetOutputLatch(uint64_t old) {
  const bool atn = bit(kSocl, kBusAtn);
  if (link_.connected()) {
    link_.SetAtn(atn);
  } else {
    SetBits(kSocl, kBusAtn, false);
  }
  if ((old & kBusAck) != 0 && !bit(kSocl, kBusAck)) link_.ReleaseAck();
  Kick();
}

void Chip::OnDmaChanged() {
  ++dma_changes_;
  Kick();
}

Task<void> Chip::Drain() {
  paused_ = true;
  while (busy_) co_await idle_.Wait();
  co_await bus_.Drain();
}

void Chip::Resume() {
  paused_ = false;
  Kick();
}

}  // namespace farside::lsi53c895a
