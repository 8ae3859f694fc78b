#include "vmm-lite/pci/pci_bus.h"

#include <atomic>

#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint32_t kAddressEnable = 1u << 31;
constexpr uint64_t kDataOffset = 4;   // From the address port.
constexpr uint64_t kResetOffset = 1;  // CF9.

}  // namespace

std::optional<uint32_t> PciBus::FindFree() const {
  const std::shared_lock lock(mutex_);
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    if (!slots_[slot]) return slot;
  }
  return std::nullopt;
}

PciBus* PciBus::FindBus(uint8_t number) const {
  const std::shared_lock lock(mutex_);
  for (const auto& function : slots_) {
    PciBus* const bus = function ? function->FindBus(number) : nullptr;
    if (bus != nullptr) return bus;
  }
  return nullptr;
}

void PciBus::Reset() {
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    if (const auto function = Get(slot)) function->Reset();
  }
}

// Bus, slot and function in bits 15:8, 7:3 and 2:0.
std::shared_ptr<PciFunction> PciHost::Find(uint32_t bdf) const {
  const auto number = static_cast<uint8_t>(bdf >> 8);
  if ((bdf & 7) != 0) return nullptr;
  const PciBus* const bus = number == 0 ? &bus_ : bus_.FindBus(number);
  return bus == nullptr ? nullptr : bus->Get(bdf >> 3 & 31);
}

void PciHost::Read(uint32_t cpu, uint32_t bdf, uint32_t offset, Bytes out) const {
  if (const auto function = Find(bdf)) return function->ReadConfig(cpu, offset, out);
  Fill(out, 0xff);
}

void PciHost::Write(uint32_t cpu, uint32_t bdf, uint32_t offset, ConstBytes in) const {
  if (const auto function = Find(bdf)) function->WriteConfig(cpu, offset, in);
}

class PciHost::Ports final : public IoHandler {
 public:
  Ports(PciHost& host, std::function<void()> on_reset)
      : host_(host), on_reset_(std::move(on_reset)) {}

  void Read(uint32_t cpu, uint64_t offset, Bytes out) override {
    if (offset == 0 && out.size() == 4) return StoreLe<uint32_t>(out, address_);
    Fill(out, 0xff);
    if (offset < kDataOffset) return;
    if (const auto at = Target(offset, out.size())) {
      host_.Read(cpu, *at >> 8, *at & 0xff, out);
    }
  }

  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override {
    if (offset == 0 && in.size() == 4) {
      address_ = LoadLe<uint32_t>(in);
    } else if (offset == kResetOffset && in.size() == 1) {
      if ((LoadLe<uint8_t>(in) & kResetValue) == kResetValue) on_reset_();
    } else if (offset >= kDataOffset) {
      if (const auto at = Target(offset, in.size())) host_.Write(cpu, *at >> 8, *at & 0xff, in);
    }
  }

 private:
  // Function and offset, if the access is one of configuration space.
  std::optional<uint32_t> Target(uint64_t offset, size_t size) const {
    const uint32_t address = address_;
    const auto byte = static_cast<uint32_t>(offset - kDataOffset);
    if ((address & kAddressEnable) == 0 || size > 4 || byte % size != 0) return std::nullopt;
    return (address & 0x00ff'fffc) + byte;
  }

  PciHost& host_;
  const std::function<void()> on_reset_;
  std::atomic<uint32_t> address_ = 0;
};

class PciHost::Ecam final : public IoHandler {
 public:
  explicit Ecam(PciHost& host) : host_(host) {}

  void Read(uint32_t cpu, uint64_t offset, Bytes out) override {
    if (!Aligned(offset, out.size())) return Fill(out, 0xff);
    host_.Read(cpu, static_cast<uint32_t>(offset >> 12), offset & 0xfff, out);
  }
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override {
    if (!Aligned(offset, in.size())) return;
    host_.Write(cpu, static_cast<uint32_t>(offset >> 12), offset & 0xfff, in);
  }

 private:
  static bool Aligned(uint64_t offset, size_t size) { return size <= 4 && offset % size == 0; }

  PciHost& host_;
};

std::shared_ptr<IoHandler> PciHost::MakePorts(std::function<void()> on_reset) {
  return std::make_shared<Ports>(*this, std::move(on_reset));
}

std::shared_ptr<IoHandler> PciHost::MakeEcam() { return std::make_shared<Ecam>(*this); }

}  // namespace farside::vmm
