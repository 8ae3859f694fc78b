#include "vmm-lite/pci/proxy_irqs.h"

#include <poll.h>

#include <array>

#include "base/log.h"
#include "devices/core/pci_registers.h"

namespace farside::vmm {
namespace {

using vfio_user::IrqIndex;

// Guests may ask for vectors as often as they like: what can't be had is said once per attempt, and
// the vector stays silent.
void Complain(const Error& error) { LogWarning("vmm-lite", "interrupt: {}", error.message); }

bool IsSignalled(int fd) {
  pollfd look{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&look, 1, 0) == 1;
}

}  // namespace

void ProxyIrqs::SetMsixLayout(const MsixLayout& layout) {
  layout_ = layout;
  msix_ = std::vector<Vector>(layout.count);
}

Result<void> ProxyIrqs::StartIntx(uint32_t pirq) {
  auto interrupt = MakeEventfd();
  auto resample = MakeEventfd();
  if (!interrupt) return tl::unexpected(interrupt.error());
  if (!resample) return tl::unexpected(resample.error());
  interrupt_ = std::move(*interrupt);
  resample_ = std::move(*resample);
  const std::array<int, 1> fds = {interrupt_.get()};
  if (auto armed = client_.ArmIrqs(IrqIndex::kIntx, 0, fds); !armed) return armed;
  const std::array<int, 1> resample_fds = {resample_.get()};
  vfio_user::SetIrqs unmask;
  unmask.flags = vfio_user::kIrqDataEventfd | vfio_user::kIrqActionUnmask;
  unmask.index = static_cast<uint32_t>(IrqIndex::kIntx);
  unmask.count = 1;
  hears_resample_ = client_.SetIrqs(unmask, {}, resample_fds).has_value();
  const IntxLine line{.pirq = pirq, .interrupt = interrupt_.get(), .resample = resample_.get()};
  auto added = router_.Add(line);
  if (added) line_ = line;
  return added;
}

void ProxyIrqs::Unmask() {
  if (DrainEventfd(resample_.get()) != 0) (void)client_.UnmaskIrq(IrqIndex::kIntx, 0);
}

void ProxyIrqs::Lower(Vector& vector) {
  if (vector.attached) vm_.DeassignIrqfd(vector.eventfd.get(), *vector.gsi);
  vector.attached = false;
}

Result<void> ProxyIrqs::Raise(uint32_t number) {
  Vector& vector = msix_[number];
  if (!vector.eventfd) {
    auto eventfd = MakeEventfd();
    if (!eventfd) return tl::unexpected(eventfd.error());
    vector.eventfd = std::move(*eventfd);
  }
  const Entry& entry = vector.entry;
  if (!vector.gsi) {
    const auto gsi = vm_.AddMsiRoute(entry.address, entry.data);
    if (!gsi) return tl::unexpected(gsi.error());
    vector.gsi = *gsi;
  } else if (auto set = vm_.ChangeMsiRoute(*vector.gsi, entry.address, entry.data); !set) {
    return set;
  }
  if (!vector.attached) {
    if (auto set = vm_.AssignIrqfd(vector.eventfd.get(), *vector.gsi, -1); !set) return set;
    vector.attached = true;
  }
  if (vector.armed) return {};
  const std::array<int, 1> fds = {vector.eventfd.get()};
  auto armed = client_.ArmIrqs(IrqIndex::kMsix, number, fds);
  vector.armed = armed.has_value();
  return armed;
}

void ProxyIrqs::Update(uint32_t number) {
  Vector& vector = msix_[number];
  const bool masked = (vector.entry.control & pci::kMsixEntryMasked) != 0;
  if (!msix_enabled_ || msix_masked_ || masked) return Lower(vector);
  if (auto raised = Raise(number); !raised) Complain(raised.error());
}

void ProxyIrqs::MsixOff() {
  bool armed = false;
  for (Vector& vector : msix_) {
    Lower(vector);
    if (vector.gsi) vm_.RemoveMsiRoute(*vector.gsi);
    armed |= vector.armed;
    vector = Vector{.entry = vector.entry, .eventfd = {}, .gsi = {}};
  }
  if (armed && client_.alive()) (void)client_.DisableIrqs(IrqIndex::kMsix);
}

void ProxyIrqs::SetMsix(bool enabled, bool masked) {
  const std::lock_guard lock(mutex_);
  if (enabled == msix_enabled_ && masked == msix_masked_) return;
  const bool off = msix_enabled_ && !enabled;
  msix_enabled_ = enabled;
  msix_masked_ = masked;
  if (off) return MsixOff();
  for (uint32_t i = 0; i < layout_.count; ++i) Update(i);
}

void ProxyIrqs::ReadTable(uint64_t offset, Bytes out) const {
  const std::lock_guard lock(mutex_);
  const Entry& entry = msix_[offset / 16].entry;
  std::array<std::byte, 16 + 8> bytes{};
  StoreLe<uint64_t>(bytes, entry.address);
  StoreLe<uint32_t>(Bytes(bytes).subspan(8), entry.data);
  StoreLe<uint32_t>(Bytes(bytes).subspan(12), entry.control);
  Copy(out, ConstBytes(bytes).subspan(offset % 16, out.size()));
}

// Software writes whole double or quad words (PCI 3.0, section 6.8.2); others are ignored.
void ProxyIrqs::WriteTable(uint64_t offset, ConstBytes in) {
  if (in.size() == 8 && offset % 8 == 0) {
    WriteTable(offset, in.first(4));
    return WriteTable(offset + 4, in.last(4));
  }
  if (in.size() != 4 || offset % 4 != 0) return;
  const std::lock_guard lock(mutex_);
  Entry& entry = msix_[offset / 16].entry;
  const auto value = LoadLe<uint32_t>(in);
  switch (offset % 16) {
    case 0:
      entry.address = (entry.address & ~uint64_t{UINT32_MAX}) | (value & ~3u);
      break;
    case 4:
      entry.address = (entry.address & UINT32_MAX) | uint64_t{value} << 32;
      break;
    case 8:
      entry.data = value;
      break;
    default:
      entry.control = value & pci::kMsixEntryMasked;
      break;
  }
  Update(static_cast<uint32_t>(offset / 16));
}

void ProxyIrqs::AddPending(uint64_t offset, Bytes out) const {
  const std::lock_guard lock(mutex_);
  for (uint64_t i = 0; i < out.size() * 8; ++i) {
    const uint64_t number = offset * 8 + i;
    if (number >= msix_.size()) break;
    const Vector& vector = msix_[number];
    if (vector.armed && !vector.attached && IsSignalled(vector.eventfd.get())) {
      out[i / 8] |= static_cast<std::byte>(1 << i % 8);
    }
  }
}

void ProxyIrqs::MsiOff() {
  const bool armed = !msi_.empty();
  for (Vector& vector : msi_) {
    Lower(vector);
    if (vector.gsi) vm_.RemoveMsiRoute(*vector.gsi);
  }
  msi_.clear();
  if (armed && client_.alive()) (void)client_.DisableIrqs(IrqIndex::kMsi);
}

// Several messages differ in the low bits of their data (PCI 3.0, section 6.8.1.6).
Result<void> ProxyIrqs::MsiOn(uint32_t count, uint64_t address, uint16_t data) {
  std::vector<int> fds;
  for (uint32_t i = 0; i < count; ++i) {
    auto eventfd = MakeEventfd();
    if (!eventfd) return tl::unexpected(eventfd.error());
    Vector& vector = msi_.emplace_back();
    vector.eventfd = std::move(*eventfd);
    const auto gsi = vm_.AddMsiRoute(address, (data & ~(count - 1)) | i);
    if (!gsi) return tl::unexpected(gsi.error());
    vector.gsi = *gsi;
    if (auto set = vm_.AssignIrqfd(vector.eventfd.get(), *gsi, -1); !set) return set;
    vector.attached = true;
    fds.push_back(vector.eventfd.get());
  }
  return client_.ArmIrqs(IrqIndex::kMsi, 0, fds);
}

void ProxyIrqs::SetMsi(uint32_t count, uint64_t address, uint16_t data) {
  const std::lock_guard lock(mutex_);
  MsiOff();
  if (count == 0) return;
  if (auto set = MsiOn(count, address, data); !set) Complain(set.error());
}

void ProxyIrqs::Reset() {
  const std::lock_guard lock(mutex_);
  MsixOff();
  MsiOff();
  msix_enabled_ = msix_masked_ = false;
  for (Vector& vector : msix_) vector.entry = Entry();
}

void ProxyIrqs::Detach() {
  Reset();
  if (line_) router_.Remove(*line_);
  line_.reset();
}

}  // namespace farside::vmm
