#include "vmm-lite/pci/pci_proxy.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <bit>
#include <cerrno>

#include "base/log.h"
#include "protocol/mpqemu_client.h"
#include "protocol/vfio_user_client.h"

namespace farside::vmm {
namespace {

constexpr uint32_t kConfigRegion = 7;
constexpr uint32_t kBarsEnd = pci::kBar0 + 6 * 4;
constexpr uint64_t kPage = 4096;
// A device may claim no more than the windows of the machine hold.
constexpr uint64_t kMaxBar = 64ull << 30;
constexpr size_t kMaxDoorbells = 1024;

// [a, a + a_size) and [b, b + b_size) have a byte in common.
bool Overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) {
  return a < b + b_size && b < a + a_size;
}

}  // namespace

class PciProxy::BusMaster final : public DmaHandler {
 public:
  explicit BusMaster(GuestRam& ram) : ram_(ram) {}
  void set_enabled(bool enabled) { enabled_ = enabled; }
  int OnDmaRead(uint64_t iova, Bytes out) override {
    return enabled_ ? ram_.OnDmaRead(iova, out) : EIO;
  }
  int OnDmaWrite(uint64_t iova, ConstBytes in) override {
    return enabled_ ? ram_.OnDmaWrite(iova, in) : EIO;
  }

 private:
  GuestRam& ram_;
  std::atomic<bool> enabled_ = false;
};

class PciProxy::BarHandler final : public IoHandler {
 public:
  BarHandler(std::shared_ptr<PciProxy> proxy, uint32_t bar) : proxy_(std::move(proxy)), bar_(bar) {}
  void Read(uint32_t cpu, uint64_t offset, Bytes out) override {
    proxy_->ReadBar(cpu, bar_, offset, out);
  }
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override {
    proxy_->WriteBar(cpu, bar_, offset, in);
  }

 private:
  const std::shared_ptr<PciProxy> proxy_;
  const uint32_t bar_;
};

PciProxy::PciProxy(const ProxyWiring& wiring, ProxyConfig config)
    : wiring_(wiring),
      config_(std::move(config)),
      bus_master_(std::make_unique<BusMaster>(wiring.ram)) {}

PciProxy::~PciProxy() {
  SignalEventfd(stop_.get());
  if (watcher_.joinable()) watcher_.join();
}

Result<std::shared_ptr<PciProxy>> PciProxy::Attach(const ProxyWiring& wiring, ProxyConfig config,
                                                   UniqueFd socket) {
  std::shared_ptr<PciProxy> proxy(new PciProxy(wiring, std::move(config)));
  Result<void> done = proxy->Connect(std::move(socket));
  if (done) done = proxy->Probe();
  if (done) done = proxy->MapRam();
  if (!done) {
    proxy->irqs_.reset();
    return FailWith(done.error().code, "device {}: {}", proxy->id(), done.error().message);
  }
  proxy->watcher_ = std::thread([raw = proxy.get()] { raw->Watch(); });
  return proxy;
}

Result<void> PciProxy::Connect(UniqueFd socket) {
  auto stop = MakeEventfd();
  if (!stop) return tl::unexpected(stop.error());
  stop_ = std::move(*stop);
  hangup_.reset(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!hangup_) return FailWith(errno, "its socket: {}", ErrnoText(errno));
  const uint64_t timeout_ns = config_.timeout_ms * 1'000'000;
  if (config_.protocol == ProxyProtocol::kMpqemu) {
    mpqemu::ClientOptions options{.timeout_ns = timeout_ns, .place_bars = false};
    auto client = mpqemu::MpqemuClient::Attach(std::move(socket), options);
    if (!client) return tl::unexpected(client.error());
    client_ = std::move(*client);
  } else {
    vfio_user::ClientOptions options;
    options.channel.timeout_ns = timeout_ns;
    if (!config_.expect_id.empty()) {
      options.capabilities.farside.emplace().device = config_.expect_id;
    }
    auto client = vfio_user::VfioUserClient::Attach(std::move(socket), options, bus_master_.get());
    if (!client) return tl::unexpected(client.error());
    const auto& theirs = (*client)->server_capabilities().farside;
    if (!config_.expect_id.empty() && theirs && theirs->device &&
        *theirs->device != config_.expect_id) {
      return Fail("its process calls it '{}', not '{}': give both the same id", *theirs->device,
                  config_.expect_id);
    }
    client_ = std::move(*client);
  }
  irqs_ = std::make_unique<ProxyIrqs>(wiring_.vm, wiring_.intx, *client_);
  return {};
}

Result<void> PciProxy::Probe() {
  const auto info = client_->GetInfo();
  if (!info) return tl::unexpected(info.error());
  if ((info->flags & vfio_user::kDeviceFlagPci) == 0 || info->num_regions <= kConfigRegion) {
    return Fail("it is no PCI device");
  }
  can_reset_ = (info->flags & vfio_user::kDeviceFlagReset) != 0;
  const auto region = client_->GetRegionInfo(kConfigRegion);
  if (!region) return tl::unexpected(region.error());
  config_size_ = static_cast<uint32_t>(std::min<uint64_t>(region->info.size, pci::kConfigSize));
  if (config_size_ < pci::kConventionalSize) {
    return Fail("its configuration space has {} bytes: there are at least {}", config_size_,
                pci::kConventionalSize);
  }
  std::array<std::byte, pci::kConventionalSize> config{};
  if (auto read = client_->RegionRead({.region = kConfigRegion}, config); !read) return read;
  const auto header = LoadLe<uint8_t>(ConstBytes(config).subspan(pci::kHeaderType));
  if ((header & 0x7f) != 0)
    return Fail("its header is of type {}: only devices can be remote", header & 0x7f);
  for (uint32_t i = 0; i < kBars; ++i) {
    if (i != 0 && bars_[i - 1].wide) continue;
    if (auto probed = ProbeBar(i, config); !probed) return probed;
  }
  if (auto probed = ProbeCapabilities(config); !probed) return probed;
  for (uint32_t i = 0; i < kBars; ++i) {
    if (auto probed = ProbeDoorbells(i, &bars_[i]); !probed) return probed;
  }
  if (can_reset_) {
    if (auto reset = client_->Reset(); !reset) return reset;
  }
  const auto pin = LoadLe<uint8_t>(ConstBytes(config).subspan(pci::kInterruptPin));
  const auto intx = client_->GetIrqInfo(vfio_user::IrqIndex::kIntx);
  if (pin == 0 || !intx || intx->count == 0) return {};
  return irqs_->StartIntx((config_.pirq + pin - 1) % kPirqCount);
}

Result<void> PciProxy::ProbeBar(uint32_t index, ConstBytes header) {
  const auto region = client_->GetRegionInfo(index);
  if (!region) return tl::unexpected(region.error());
  if (region->info.size == 0) return {};
  Bar& bar = bars_[index];
  const auto value = LoadLe<uint32_t>(header.subspan(pci::kBar0 + 4 * index));
  bar.port = (value & pci::kBarIo) != 0;
  bar.wide = !bar.port && (value & pci::kBar64) != 0;
  bar.flags = value & (bar.port ? pci::kBarIoFlags : pci::kBarMemoryFlags);
  if (bar.wide && index + 1 == kBars) return Fail("its last BAR has 64 bits: there is no next one");
  if (region->info.size > (bar.port ? 0x1'0000 : kMaxBar)) {
    return Fail("its BAR {} has {:#x} bytes: that is too large", index, region->info.size);
  }
  bar.size = std::bit_ceil(std::max<uint64_t>(region->info.size, bar.port ? 4 : 16));
  return bar.port ? Result<void>() : ProbeMemory(*region, &bar);
}

// Only files that can't shrink: a guest's access behind their end would end the vCPU.
Result<void> PciProxy::ProbeMemory(const ClientRegion& region, Bar* bar) const {
  if (!region.fd || region.areas.empty()) return {};
  const int seals = fcntl(region.fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    LogInfo("vmm-lite", "device {}: its memory can shrink, so it is not mapped", config_.id);
    return {};
  }
  for (const vfio_user::MmapArea& area : region.areas) {
    if (area.size == 0 || area.offset % kPage != 0 || area.size % kPage != 0 ||
        !InRange(area.offset, area.size, bar->size)) {
      return Fail("it offers {:#x} bytes at {:#x} of a BAR of {:#x} to be mapped", area.size,
                  area.offset, bar->size);
    }
    for (const Mapped& other : bar->mapped) {
      if (Overlap(area.offset, area.size, other.area.offset, other.area.size)) {
        return Fail("what it offers to be mapped overlaps");
      }
    }
    auto mapping = Mapping::Map(region.fd.get(), region.info.offset + area.offset, area.size,
                                PROT_READ | PROT_WRITE);
    if (!mapping) return tl::unexpected(mapping.error());
    bar->mapped.push_back({area, std::move(*mapping), {}});
  }
  return {};
}

Result<void> PciProxy::ProbeDoorbells(uint32_t index, Bar* bar) const {
  if (bar->size == 0) return {};
  auto fds = client_->GetRegionIoFds(index);
  if (!fds) return client_->alive() ? Result<void>() : tl::unexpected(fds.error());
  for (const vfio_user::IoFdEntry& entry : fds->entries) {
    constexpr uint32_t kMatch = 1;  // KVM_IOEVENTFD_FLAG_DATAMATCH.
    if (entry.type != vfio_user::kIoFdTypeIoeventfd || entry.fd_index >= fds->fds.size()) continue;
    if (!std::has_single_bit(entry.size) || entry.size > 8 ||
        !InRange(entry.offset, entry.size, bar->size) || bar->doorbells.size() == kMaxDoorbells) {
      return Fail("its doorbell of {} bytes at {:#x} of BAR {} can't be one", entry.size,
                  entry.offset, index);
    }
    UniqueFd copy(fcntl(fds->fds[entry.fd_index].get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return FailWith(errno, "its doorbell: {}", ErrnoText(errno));
    bar->doorbells.push_back({{.address = entry.offset,
                               .size = static_cast<uint32_t>(entry.size),
                               .port = bar->port,
                               .match = (entry.flags & kMatch) != 0,
                               .value = entry.datamatch},
                              std::move(copy),
                              false});
  }
  return {};
}

Result<void> PciProxy::ProbeCapabilities(ConstBytes config) {
  if ((LoadLe<uint16_t>(config.subspan(pci::kStatus)) & pci::kStatusCapabilities) == 0) return {};
  uint32_t at = LoadLe<uint8_t>(config.subspan(pci::kCapabilities)) & ~3u;
  for (uint32_t left = 48; at >= pci::kFirstCapability; --left) {
    if (left == 0) return Fail("its capabilities form a circle");
    const auto id = LoadLe<uint8_t>(config.subspan(at));
    if (id == pci::kCapMsi && at + pci::kMsiSize <= config.size()) msi_ = at;
    if (id == pci::kCapMsix && at + pci::kMsixSize <= config.size()) {
      if (auto probed = ProbeMsix(at, config); !probed) return probed;
    }
    at = LoadLe<uint8_t>(config.subspan(at + 1)) & ~3u;
  }
  return {};
}

Result<void> PciProxy::ProbeMsix(uint32_t offset, ConstBytes config) {
  const auto table = LoadLe<uint32_t>(config.subspan(offset + pci::kMsixTable));
  const auto pba = LoadLe<uint32_t>(config.subspan(offset + pci::kMsixPba));
  MsixLayout layout{
      .count = (LoadLe<uint16_t>(config.subspan(offset + pci::kMsixControl)) & 0x7ffu) + 1,
      .table_bar = table & 7,
      .table_offset = table & ~7u,
      .pba_bar = pba & 7,
      .pba_offset = pba & ~7u};
  const auto inside = [this](uint32_t bar, uint64_t at, uint64_t size) {
    return bar < kBars && !bars_[bar].port && InRange(at, size, bars_[bar].size);
  };
  if (!inside(layout.table_bar, layout.table_offset, layout.table_size()) ||
      !inside(layout.pba_bar, layout.pba_offset, layout.pba_size())) {
    return Fail("its MSI-X table or pending bits lie outside of its BARs");
  }
  const auto info = client_->GetIrqInfo(vfio_user::IrqIndex::kMsix);
  if (!info) return tl::unexpected(info.error());
  if (info->count < layout.count) {
    return Fail("its MSI-X table has {} entries, but it has {} vectors", layout.count, info->count);
  }
  // The table's pages are this side's.
  const auto not_table = [&](uint32_t bar, uint64_t at, uint64_t size) {
    std::erase_if(bars_[bar].mapped, [&](const Mapped& mapped) {
      return Overlap(mapped.area.offset, mapped.area.size, at, size);
    });
  };
  not_table(layout.table_bar, layout.table_offset, layout.table_size());
  not_table(layout.pba_bar, layout.pba_offset, layout.pba_size());
  msix_ = offset;
  irqs_->SetMsixLayout(layout);
  return {};
}

Result<void> PciProxy::MapRam() {
  for (const Bar& bar : bars_) config_.posted &= bar.mapped.empty();
  for (const GuestRam::Block& block : wiring_.ram.blocks()) {
    auto mapped = client_->DmaMap({.iova = block.gpa,
                                   .size = block.size,
                                   .fd = wiring_.ram.fd(),
                                   .offset = block.file_offset});
    if (!mapped) return mapped;
  }
  return {};
}

// Until the device does DMA by message for the first time, nobody reads its socket but who waits
// for a reply: a second reader would be woken by each. So the first such DMA may wait for a while.
void PciProxy::Watch() {
  constexpr int kLookMs = 20;
  constexpr uint64_t kLongNs = 1'000'000'000;
  bool by_message = false;
  const bool vfio_user = config_.protocol == ProxyProtocol::kVfioUser;
  for (;;) {
    std::array<pollfd, 3> fds{{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                               {.fd = hangup_.get(), .events = POLLRDHUP, .revents = 0},
                               {.fd = irqs_->unheard_resample(), .events = POLLIN, .revents = 0}}};
    if (poll(fds.data(), fds.size(), by_message ? 0 : vfio_user ? kLookMs : -1) < 0) continue;
    if (fds[0].revents != 0) return;
    if (fds[2].revents != 0) irqs_->Unmask();
    const bool ended = fds[1].revents != 0;
    int waiting = 0;
    if (!by_message && vfio_user && ioctl(hangup_.get(), FIONREAD, &waiting) == 0 && waiting > 0) {
      const auto woken = client_->WaitReadable(stop_.get(), 0);
      const auto counts = static_cast<vfio_user::VfioUserClient&>(*client_).dma_counts();
      by_message = woken.has_value() && counts.reads + counts.writes != 0;
    }
    if (by_message && !ended) {
      const auto woken = client_->WaitReadable(stop_.get(), kLongNs);
      if (!woken) return Die(woken.error());
    }
    if (ended) {
      (void)client_->WaitReadable(stop_.get(), 0);
      return Die({"the device process closed its channel", EPIPE});
    }
    if (!client_->alive()) return Die({"it broke its protocol or did not answer in time", EPROTO});
  }
}

void PciProxy::Check(const Result<void>& result) {
  if (!result && !client_->alive()) Die(result.error());
}

void PciProxy::Die(const Error& error) {
  if (!dead_.exchange(true)) wiring_.on_dead(config_.id, error);
}

void PciProxy::Detach() {
  SignalEventfd(stop_.get());
  if (watcher_.joinable()) watcher_.join();
  {
    const std::lock_guard lock(config_mutex_);
    for (uint32_t i = 0; i < kBars; ++i) UnmapBar(i);
  }
  irqs_->Detach();
}

void PciProxy::ReadConfig(uint32_t cpu, uint32_t offset, Bytes out) {
  Fill(out, 0xff);
  if (dead_) return;
  if (!InRange(offset, out.size(), config_size_)) return Fill(out, 0);
  const auto read =
      client_->RegionRead({.region = kConfigRegion, .offset = offset, .cpu = cpu}, out);
  if (!read) {
    Fill(out, 0xff);
    return Check(read);
  }
  const std::lock_guard lock(config_mutex_);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto at = static_cast<uint32_t>(offset + i);
    if (at >= pci::kBar0 && at < kBarsEnd) {
      const uint32_t value = BarRegister((at - pci::kBar0) / 4);
      out[i] = static_cast<std::byte>(value >> 8 * (at % 4));
    } else if (at >= pci::kRomAddress && at < pci::kRomAddress + 4) {
      out[i] = std::byte{0};  // No expansion ROM is shown.
    }
  }
}

void PciProxy::WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) {
  if (dead_ || !InRange(offset, in.size(), config_size_)) return;
  const GuestAccess access{.region = kConfigRegion, .offset = offset, .cpu = cpu};
  const auto written = client_->RegionWrite(access, in);
  Check(written);
  const std::lock_guard lock(config_mutex_);
  OnConfigWritten(cpu, offset, in);
}

void PciProxy::OnConfigWritten(uint32_t cpu, uint32_t offset, ConstBytes in) {
  const auto byte = [&](uint32_t at, uint32_t old) {
    return at >= offset && at < offset + in.size() ? static_cast<uint32_t>(in[at - offset]) : old;
  };
  const auto word = [&](uint32_t at, uint16_t old) {
    return static_cast<uint16_t>(byte(at, old & 0xff) | byte(at + 1, old >> 8) << 8);
  };
  if (Overlap(offset, in.size(), pci::kCommand, 2)) {
    command_ = word(pci::kCommand, command_);
    bus_master_->set_enabled((command_ & pci::kCommandBusMaster) != 0);
    PlaceBars();
  }
  if (Overlap(offset, in.size(), pci::kBar0, 4 * kBars)) {
    for (uint32_t i = 0; i < kBars; ++i) {
      const uint32_t at = pci::kBar0 + 4 * i;
      if (!Overlap(offset, in.size(), at, 4)) continue;
      const uint32_t old = BarRegister(i);
      WriteBarRegister(i, uint32_t{word(at, static_cast<uint16_t>(old))} |
                              uint32_t{word(at + 2, static_cast<uint16_t>(old >> 16))} << 16);
    }
    PlaceBars();
  }
  if (msix_ != 0 && Overlap(offset, in.size(), msix_ + pci::kMsixControl + 1, 1)) {
    const uint32_t control = byte(msix_ + pci::kMsixControl + 1, 0) << 8;
    irqs_->SetMsix((control & pci::kMsixEnable) != 0, (control & pci::kMsixFunctionMask) != 0);
  }
  if (msi_ != 0 && Overlap(offset, in.size(), msi_ + pci::kMsiControl, pci::kMsiMask - 2)) {
    UpdateMsi(cpu);
  }
}

uint32_t PciProxy::BarRegister(uint32_t index) const {
  if (index != 0 && bars_[index - 1].wide) {
    return static_cast<uint32_t>(bars_[index - 1].value >> 32);
  }
  const Bar& bar = bars_[index];
  return bar.size == 0 ? 0 : static_cast<uint32_t>(bar.value) | bar.flags;
}

void PciProxy::WriteBarRegister(uint32_t index, uint32_t value) {
  const bool upper = index != 0 && bars_[index - 1].wide;
  Bar& bar = bars_[upper ? index - 1 : index];
  const uint64_t both = upper ? (bar.value & UINT32_MAX) | uint64_t{value} << 32
                              : (bar.value & ~uint64_t{UINT32_MAX}) | value;
  bar.value = bar.size == 0 ? 0 : both & ~(bar.size - 1);
}

void PciProxy::PlaceBars() {
  for (uint32_t i = 0; i < kBars; ++i) {
    Bar& bar = bars_[i];
    const bool decoded =
        (command_ & (bar.port ? pci::kCommandIo : pci::kCommandMemory)) != 0 && bar.size != 0;
    const uint64_t limit = bar.port ? kPciIoEnd : kPciMem64End;
    uint64_t wanted = decoded ? bar.value : 0;
    // Where a guest sizes a BAR with decoding on, it lies nowhere meanwhile.
    if (!InRange(wanted, bar.size, limit)) wanted = 0;
    if (wanted == bar.address) continue;
    UnmapBar(i);
    if (wanted != 0) MapBar(i, wanted);
  }
}

void PciProxy::MapBar(uint32_t index, uint64_t address) {
  Bar& bar = bars_[index];
  AddressMap& map = bar.port ? wiring_.ports : wiring_.memory;
  if (!map.Add(address, bar.size, std::make_shared<BarHandler>(shared_from_this(), index))) {
    LogWarning("vmm-lite", "device {}: at {:#x}, where the guest puts BAR {}, something else is",
               config_.id, address, index);
    return;
  }
  bar.address = address;
  for (Mapped& mapped : bar.mapped) {
    const auto slot = wiring_.vm.AddMemory(address + mapped.area.offset, mapped.area.size,
                                           mapped.mapping.data(), /*read_only=*/false);
    if (slot) mapped.slot = *slot;  // Else each access is a message.
  }
  for (Doorbell& doorbell : bar.doorbells) {
    Vm::IoEvent event = doorbell.event;
    event.address += address;
    doorbell.assigned = wiring_.vm.AssignIoEvent(event, doorbell.fd.get()).has_value();
  }
}

void PciProxy::UnmapBar(uint32_t index) {
  Bar& bar = bars_[index];
  if (bar.address == 0) return;
  for (Mapped& mapped : bar.mapped) {
    if (mapped.slot) wiring_.vm.RemoveMemory(*mapped.slot);
    mapped.slot.reset();
  }
  for (Doorbell& doorbell : bar.doorbells) {
    Vm::IoEvent event = doorbell.event;
    event.address += bar.address;
    if (doorbell.assigned) wiring_.vm.DeassignIoEvent(event, doorbell.fd.get());
    doorbell.assigned = false;
  }
  (bar.port ? wiring_.ports : wiring_.memory).Remove(bar.address);
  bar.address = 0;
}

// The capability as the device has it now.
void PciProxy::UpdateMsi(uint32_t cpu) {
  std::array<std::byte, pci::kMsiSize> capability{};
  const auto read =
      client_->RegionRead({.region = kConfigRegion, .offset = msi_, .cpu = cpu}, capability);
  if (!read) return Check(read);
  const ConstBytes bytes(capability);
  const auto control = LoadLe<uint16_t>(bytes.subspan(pci::kMsiControl));
  if ((control & pci::kMsiEnable) == 0) return irqs_->SetMsi(0, 0, 0);
  const bool wide = (control & pci::kMsi64) != 0;
  const uint64_t address = wide ? LoadLe<uint64_t>(bytes.subspan(pci::kMsiAddress))
                                : LoadLe<uint32_t>(bytes.subspan(pci::kMsiAddress));
  const auto data = LoadLe<uint16_t>(bytes.subspan(wide ? pci::kMsiData : pci::kMsiData - 4));
  irqs_->SetMsi(1u << std::min(control >> 4 & 7, 5), address, data);
}

void PciProxy::ReadBar(uint32_t cpu, uint32_t bar, uint64_t offset, Bytes out) {
  const MsixLayout& msix = irqs_->msix();
  if (msix.count != 0 && bar == msix.table_bar && offset >= msix.table_offset &&
      InRange(offset - msix.table_offset, out.size(), msix.table_size())) {
    return irqs_->ReadTable(offset - msix.table_offset, out);
  }
  Result<void> read = FailWith(EIO, "dead");
  if (!dead_) read = client_->RegionRead({.region = bar, .offset = offset, .cpu = cpu}, out);
  if (!read) {
    Fill(out, 0xff);
    return Check(read);
  }
  if (msix.count != 0 && bar == msix.pba_bar && offset >= msix.pba_offset &&
      InRange(offset - msix.pba_offset, out.size(), msix.pba_size())) {
    irqs_->AddPending(offset - msix.pba_offset, out);
  }
}

void PciProxy::WriteBar(uint32_t cpu, uint32_t bar, uint64_t offset, ConstBytes in) {
  const MsixLayout& msix = irqs_->msix();
  if (msix.count != 0 && bar == msix.table_bar && offset >= msix.table_offset &&
      InRange(offset - msix.table_offset, in.size(), msix.table_size())) {
    return irqs_->WriteTable(offset - msix.table_offset, in);
  }
  if (dead_) return;
  const GuestAccess access{.region = bar, .offset = offset, .cpu = cpu};
  Check(config_.posted ? client_->PostWrite(access, in) : client_->RegionWrite(access, in));
}

void PciProxy::Reset() {
  if (dead_) return;
  irqs_->Reset();
  if (can_reset_) Check(client_->Reset());
  const std::lock_guard lock(config_mutex_);
  command_ = 0;
  bus_master_->set_enabled(false);
  for (Bar& bar : bars_) bar.value = 0;
  PlaceBars();
}

}  // namespace farside::vmm
