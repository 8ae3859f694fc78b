#include "vmm-lite/pci/bridges.h"

#include <utility>

namespace farside::vmm {
namespace {

// Type 1 header (PCI-to-PCI Bridge 1.2, section 3.2).
constexpr uint32_t kSecondaryBus = 0x19;
constexpr uint32_t kIoBase = 0x1c;
constexpr uint32_t kMemoryBase = 0x20;
constexpr uint32_t kPrefetchableBase = 0x24;
constexpr uint32_t kBridgeControl = 0x3e;
constexpr uint16_t kWindow64 = 1;  // Prefetchable window: 64 bits.
constexpr uint16_t kWindowIo32 = 1;

// The host bridge's shadow registers.
constexpr uint32_t kShadow = 0x59;
constexpr uint32_t kShadowCount = 7;

// The root port's capabilities and where it has them.
constexpr uint32_t kMsi = 0x40;
constexpr uint32_t kExpress = 0x60;
constexpr uint32_t kSlotCapabilities = kExpress + 0x14;
constexpr uint32_t kSlotControl = kExpress + 0x18;
constexpr uint32_t kSlotStatus = kExpress + 0x1a;
constexpr uint32_t kRootControl = kExpress + 0x1c;
constexpr uint32_t kLinkStatus = kExpress + pci::kPcieLinkStatus;

// PCI Express 3.0, sections 7.8.2 and 7.8.6 to 7.8.11.
constexpr uint16_t kRootPortWithSlot = 2 | 4 << 4 | 1 << 8;
constexpr uint32_t kLinkSpeed = 1;          // 2.5 GT/s.
constexpr uint32_t kLinkWidth = 1 << 4;     // x1.
constexpr uint32_t kLinkReports = 1 << 20;  // Data link layer active can be read.
constexpr uint16_t kLinkActive = 1 << 13;
constexpr uint32_t kSlotButton = 1 << 0;
constexpr uint32_t kSlotPower = 1 << 1;
constexpr uint32_t kSlotSurprise = 1 << 5;
constexpr uint32_t kSlotHotPlug = 1 << 6;
constexpr uint32_t kSlotNoCompletion = 1 << 18;
constexpr uint16_t kControlInterrupt = 1 << 5;
constexpr uint16_t kControlPowerOff = 1 << 10;
constexpr uint16_t kStatusButton = 1 << 0;
constexpr uint16_t kStatusPresenceChanged = 1 << 3;
constexpr uint16_t kStatusPresent = 1 << 6;
constexpr uint16_t kStatusLinkChanged = 1 << 8;
constexpr uint16_t kStatusEvents = 0x11f;

}  // namespace

void ConfigOnlyFunction::Identify(uint16_t vendor, uint16_t device, uint32_t class_code,
                                  uint8_t header_type) {
  config_.Set<uint16_t>(pci::kVendorId, vendor);
  config_.Set<uint16_t>(pci::kDeviceId, device);
  config_.Set<uint32_t>(pci::kRevision, class_code << 8);
  config_.Set<uint8_t>(pci::kHeaderType, header_type);
  config_.AllowWrites<uint8_t>(pci::kInterruptLine, 0xff);
}

void ConfigOnlyFunction::ReadConfig(uint32_t, uint32_t offset, Bytes out) {
  const std::lock_guard lock(mutex_);
  config_.Read(offset, out);
}

void ConfigOnlyFunction::WriteConfig(uint32_t, uint32_t offset, ConstBytes in) {
  const std::lock_guard lock(mutex_);
  config_.Write(offset, in);
  OnWritten(offset, in.size());
}

void ConfigOnlyFunction::Reset() {
  const std::lock_guard lock(mutex_);
  OnReset();
}

HostBridge::HostBridge() {
  constexpr uint32_t kManagementRam = 0x72;
  Identify(0x8086, 0x1237, 0x06'00'00, 0);
  config_.Set<uint16_t>(pci::kSubsystemVendorId, 0x1af4);  // By this SeaBIOS knows QEMU.
  config_.Set<uint16_t>(pci::kSubsystemId, 0x1100);
  config_.AllowWrites<uint16_t>(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster);
  for (uint32_t i = 0; i < kShadowCount; ++i) config_.AllowWrites<uint8_t>(kShadow + i, 0xff);
  config_.AllowWrites<uint8_t>(kManagementRam, 0xff);
}

// SeaBIOS copies itself from the end of 4 GiB only if the registers say that there is no RAM yet.
void HostBridge::OnReset() {
  for (uint32_t i = 0; i < kShadowCount; ++i) config_.Set<uint8_t>(kShadow + i, 0);
}

IsaBridge::IsaBridge(IntxRouter& router) : router_(router) {
  Identify(0x8086, 0x7000, 0x06'01'00, 0);
  config_.AllowWrites<uint16_t>(pci::kCommand, 0x0f);
  for (uint32_t i = 0; i < kPirqCount; ++i) {
    config_.AllowWrites<uint8_t>(kPirqRoute + i, kPirqDisabled | kPirqIrqMask);
  }
  OnReset();
}

// A PC's firmware routes the PIRQs to 10, 10, 11, 11; a kernel that starts without one finds that.
void IsaBridge::OnReset() {
  constexpr uint8_t kFirmwareRoutes[kPirqCount] = {10, 10, 11, 11};
  for (uint32_t i = 0; i < kPirqCount; ++i) {
    config_.Set<uint8_t>(kPirqRoute + i, kFirmwareRoutes[i]);
    router_.Route(i, kFirmwareRoutes[i]);
  }
}

void IsaBridge::OnWritten(uint32_t offset, size_t size) {
  for (uint32_t i = 0; i < kPirqCount; ++i) {
    const uint32_t at = kPirqRoute + i;
    if (at >= offset && at < offset + size) router_.Route(i, config_.Get<uint8_t>(at));
  }
}

RootPort::RootPort(Vm& vm, std::string id, uint8_t port, OnRemoved on_removed)
    : vm_(vm), id_(std::move(id)), on_removed_(std::move(on_removed)) {
  Identify(0x1b36, 0x000c, 0x06'04'00, 1);
  config_.Set<uint16_t>(pci::kStatus, pci::kStatusCapabilities);
  config_.Set<uint8_t>(pci::kCapabilities, kMsi);
  config_.AllowWrites<uint16_t>(pci::kCommand, pci::kCommandIo | pci::kCommandMemory |
                                                   pci::kCommandBusMaster |
                                                   pci::kCommandIntxDisable);
  config_.AllowWrites<uint32_t>(kSecondaryBus - 1, 0xffff'ffff);
  config_.Set<uint16_t>(kIoBase, kWindowIo32 << 8 | kWindowIo32);
  config_.AllowWrites<uint16_t>(kIoBase, 0xf0f0);
  config_.AllowWrites<uint32_t>(kMemoryBase, 0xfff0'fff0);
  config_.Set<uint32_t>(kPrefetchableBase, kWindow64 << 16 | kWindow64);
  config_.AllowWrites<uint32_t>(kPrefetchableBase, 0xfff0'fff0);
  config_.AllowWrites<uint64_t>(kPrefetchableBase + 4, UINT64_MAX);
  config_.AllowWrites<uint32_t>(kPrefetchableBase + 12, UINT32_MAX);
  config_.AllowWrites<uint16_t>(kBridgeControl, 0x005f);

  config_.Set<uint16_t>(kMsi, pci::kCapMsi | kExpress << 8);
  config_.Set<uint16_t>(kMsi + pci::kMsiControl, pci::kMsi64);
  config_.AllowWrites<uint16_t>(kMsi + pci::kMsiControl, pci::kMsiEnable);
  config_.AllowWrites<uint64_t>(kMsi + pci::kMsiAddress, ~uint64_t{3});
  config_.AllowWrites<uint16_t>(kMsi + pci::kMsiData, 0xffff);

  config_.Set<uint16_t>(kExpress, pci::kCapPcie);
  config_.Set<uint16_t>(kExpress + pci::kPcieCapabilities, kRootPortWithSlot);
  config_.AllowWrites<uint16_t>(kExpress + pci::kPcieDeviceControl, 0x7fff);
  config_.Set<uint32_t>(kExpress + pci::kPcieLinkCapabilities,
                        kLinkSpeed | kLinkWidth | kLinkReports | uint32_t{port} << 24);
  config_.AllowWrites<uint16_t>(kExpress + pci::kPcieLinkCapabilities + 4, 0x0ffb);
  config_.Set<uint16_t>(kLinkStatus, kLinkSpeed | kLinkWidth);
  config_.Set<uint32_t>(kSlotCapabilities, kSlotButton | kSlotPower | kSlotSurprise | kSlotHotPlug |
                                               kSlotNoCompletion | uint32_t{port} << 19);
  config_.AllowWrites<uint16_t>(kSlotControl, 0x17ff);
  config_.AllowClears<uint16_t>(kSlotStatus, kStatusEvents);
  config_.AllowWrites<uint16_t>(kRootControl, 0x001f);
  OnReset();
}

void RootPort::OnReset() {
  config_.Set<uint16_t>(pci::kCommand, 0);
  config_.Set<uint32_t>(kSecondaryBus - 1, 0);
  config_.Set<uint16_t>(kMsi + pci::kMsiControl, pci::kMsi64);
  power_off_ = empty();
  config_.Set<uint16_t>(kSlotControl, power_off_ ? kControlPowerOff : uint16_t{0});
  config_.Set<uint16_t>(kSlotStatus, empty() ? uint16_t{0} : kStatusPresent);
  SetLink(!empty());
  bus_.Reset();
}

PciBus* RootPort::FindBus(uint8_t number) {
  const std::lock_guard lock(mutex_);
  const auto secondary = config_.Get<uint8_t>(kSecondaryBus);
  return secondary != 0 && secondary == number ? &bus_ : nullptr;
}

void RootPort::SetLink(bool up) {
  const auto status = config_.Get<uint16_t>(kLinkStatus);
  config_.Set<uint16_t>(kLinkStatus,
                        static_cast<uint16_t>(up ? status | kLinkActive : status & ~kLinkActive));
}

void RootPort::Notify(uint16_t events) {
  config_.Set<uint16_t>(kSlotStatus,
                        static_cast<uint16_t>(config_.Get<uint16_t>(kSlotStatus) | events));
  const auto control = config_.Get<uint16_t>(kSlotControl);
  const auto msi = config_.Get<uint16_t>(kMsi + pci::kMsiControl);
  if ((control & kControlInterrupt) == 0 || (msi & pci::kMsiEnable) == 0) return;
  vm_.SignalMsi(config_.Get<uint64_t>(kMsi + pci::kMsiAddress),
                config_.Get<uint16_t>(kMsi + pci::kMsiData));
}

void RootPort::Plug(std::shared_ptr<PciFunction> function) {
  const std::lock_guard lock(mutex_);
  bus_.Set(0, std::move(function));
  uint16_t events = kStatusPresenceChanged | kStatusLinkChanged;
  if ((config_.Get<uint16_t>(kSlotControl) & kControlInterrupt) != 0) {
    // Linux forgets changes of presence and link in the second after it has switched the power off,
    // but no press of the button. Where it sees both, the change counts, at once.
    events |= kStatusButton;
  } else {
    // Nobody drives the slot yet; a reset would find its power on.
    config_.Set<uint16_t>(kSlotControl, static_cast<uint16_t>(config_.Get<uint16_t>(kSlotControl) &
                                                              ~kControlPowerOff));
    power_off_ = false;
  }
  config_.Set<uint16_t>(kSlotStatus,
                        static_cast<uint16_t>(config_.Get<uint16_t>(kSlotStatus) | kStatusPresent));
  SetLink(true);
  Notify(events);
}

void RootPort::AskToRemove() {
  const std::lock_guard lock(mutex_);
  Notify(kStatusButton);
}

std::shared_ptr<PciFunction> RootPort::TakeOut() {
  auto function = bus_.Get(0);
  bus_.Set(0, nullptr);
  config_.Set<uint16_t>(
      kSlotStatus, static_cast<uint16_t>(config_.Get<uint16_t>(kSlotStatus) & ~kStatusPresent));
  SetLink(false);
  return function;
}

void RootPort::PullOut() {
  std::shared_ptr<PciFunction> function;
  {
    const std::lock_guard lock(mutex_);
    function = TakeOut();
    if (function) Notify(kStatusPresenceChanged | kStatusLinkChanged);
  }
  if (function) on_removed_(std::move(function));
}

// Switching power off is how the guest says that it has let go. To write that it is off, while it
// switches something else, says nothing.
void RootPort::OnWritten(uint32_t offset, size_t size) {
  if (kSlotControl + 1 < offset || kSlotControl + 1 >= offset + size) return;
  const bool off = (config_.Get<uint16_t>(kSlotControl) & kControlPowerOff) != 0;
  if (std::exchange(power_off_, off) || !off || empty()) return;
  removed_ = TakeOut();
  Notify(kStatusPresenceChanged | kStatusLinkChanged);
}

void RootPort::WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) {
  ConfigOnlyFunction::WriteConfig(cpu, offset, in);
  std::shared_ptr<PciFunction> removed;
  {
    const std::lock_guard lock(mutex_);
    removed = std::exchange(removed_, nullptr);
  }
  if (removed) on_removed_(std::move(removed));
}

}  // namespace farside::vmm
