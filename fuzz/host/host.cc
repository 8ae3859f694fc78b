#include "fuzz/host/host.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/range.h"
#include "devices/core/pci_registers.h"
#include "devices/testing/yield.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
// Memory for block I/O: in place, or where memory is reached by message bounce memory of just the
// size, so that a sanitizer sees who goes past it.
class Host::Lease final : public DmaBuffer::Lease {
 public:
  Lease(Host& host, DmaAccess access) : host_(host), access_(access) {}

  std::vector<iovec> iovecs;
  std::vector<std::shared_ptr<Window>> windows;
  struct Bounce {
    uint64_t iova;
    std::vector<std::byte> bytes;
  };
  std::vector<Bounce> bounces;

  Task<DmaStatus> WriteBack() override {
    if (access_ == DmaAccess::kRead) co_return DmaStatus::kOk;
    if (bounces.empty()) ++host_.counts_.completed;
    for (const Bounce& bounce : bounces) {
      const bool continues = &bounce != &bounces.front();
      const DmaStatus status = co_await host_.WritePart(bounce.iova, bounce.bytes, continues);
      if (status != DmaStatus::kOk) co_return status;
    }
    co_return DmaStatus::kOk;
  }
  bool revoked() const override {
    return std::ranges::any_of(windows, [](const auto& window) { return window->removed; });
  }

 private:
  Host& host_;
  const DmaAccess access_;
};

Host::~Host() { CHECK(!waiting()); }

void Host::Attach(Device& device) {
  device_ = &device;
  uint64_t capability = Config16(pci::kCapabilities) & 0xff;
  while (capability != 0) {
    const uint16_t word = Config16(capability);
    if ((word & 0xff) == pci::kCapMsi) msi_ = capability;
    if ((word & 0xff) == pci::kCapMsix) msix_ = capability;
    capability = word >> 8;
  }
  for (const auto& [iova, size] : {std::pair(kBase, kSize), std::pair(kHighBase, kHighSize)}) {
    static_assert(kSize / kPage <= 64);
    auto window = std::make_shared<Window>();
    window->iova = iova;
    window->bytes.resize(size);
    windows_.push_back(std::move(window));
  }
}

void Host::Begin(bool by_message, bool own_table) {
  CHECK(!waiting());
  for (size_t i = 2; i < windows_.size(); ++i) windows_[i]->removed = true;
  windows_.resize(2);
  for (const auto& window : windows_) {
    window->readable = window->writable = true;
    window->removed = false;
    for (uint64_t page = 0; window->dirty != 0; ++page, window->dirty >>= 1) {
      if ((window->dirty & 1) != 0) Fill(Bytes(window->bytes).subspan(page * kPage, kPage), 0);
    }
  }
  by_message_ = by_message;
  own_table_ = own_table;
  held_ = false;
  counts_ = {};
  intx_ = false;
}

uint16_t Host::Config16(uint64_t offset) const {
  uint16_t value;
  device_->ReadRegion(Region::kConfig, offset, AsWritableBytes(value));
  return value;
}

uint32_t Host::Config32(uint64_t offset) const {
  uint32_t value;
  device_->ReadRegion(Region::kConfig, offset, AsWritableBytes(value));
  return value;
}

Host::Header Host::ReadHeader() const {
  Header header;
  device_->ReadRegion(Region::kConfig, 0, header);
  return header;
}

// Where a BAR lies, 0 if nowhere.
uint64_t Host::AddressIn(const Header& header, uint32_t bar) {
  const ConstBytes field = ConstBytes(header).subspan(pci::kBar0 + bar * 4);
  const auto low = LoadLe<uint32_t>(field);
  if ((low & pci::kBarIo) != 0) return low & ~pci::kBarIoFlags;
  uint64_t address = low & ~pci::kBarMemoryFlags;
  if ((low & pci::kBar64) != 0) address |= uint64_t{LoadLe<uint32_t>(field.subspan(4))} << 32;
  return address;
}

uint64_t Host::BarAddress(uint32_t bar) const {
  if (bar >= kBarCount || device_->info().regions[bar].size == 0) return 0;
  return AddressIn(ReadHeader(), bar);
}

std::optional<uint32_t> Host::OwnBar(uint64_t iova, uint64_t size) const {
  return OwnBar(ReadHeader(), iova, size);
}

std::optional<uint32_t> Host::OwnBar(const Header& header, uint64_t iova, uint64_t size) const {
  const auto command = LoadLe<uint16_t>(ConstBytes(header).subspan(pci::kCommand));
  if ((command & pci::kCommandMemory) == 0) return std::nullopt;
  for (uint32_t bar = 0; bar < kBarCount; ++bar) {
    const uint64_t length = device_->info().regions[bar].size;
    const bool io = (header[pci::kBar0 + bar * 4] & std::byte{pci::kBarIo}) != std::byte{0};
    if (length == 0 || io) continue;
    const uint64_t at = AddressIn(header, bar);
    if (at != 0 && size != 0 && Overlap(at, length, iova, size)) return bar;
  }
  return std::nullopt;
}

void Host::Watch(const char* what, uint64_t iova, uint64_t size, bool continues) {
  ++counts_.accesses;
  if (std::exchange(turn_, loop_.resumptions()) != turn_) in_turn_ = 0;
  if (++in_turn_ > max_in_turn_) {
    Violation("bounded-work", "the device makes more than {} accesses to memory in one turn",
              max_in_turn_);
  }
  if (referee_ != nullptr && !continues) referee_->BeginDma(what, iova);
  const Header header = ReadHeader();
  const auto command = LoadLe<uint16_t>(ConstBytes(header).subspan(pci::kCommand));
  if ((command & pci::kCommandBusMaster) == 0 && !continues) {
    Violation("bus-master", "the device {} memory at {:#x} with bus mastering off", what, iova);
  }
  if (const auto bar = OwnBar(header, iova, size)) {
    Violation("self-access", "the device {} {} bytes at {:#x}, which is its own BAR {}", what, size,
              iova, *bar);
  }
}

const std::shared_ptr<Host::Window>* Host::Find(uint64_t iova, uint64_t size,
                                                DmaAccess access) const {
  for (const auto& window : windows_) {
    if (window->removed || iova < window->iova) continue;
    if (!InRange(iova - window->iova, size, window->bytes.size())) continue;
    const bool allowed = access == DmaAccess::kRead ? window->readable : window->writable;
    return allowed ? &window : nullptr;
  }
  return nullptr;
}

Bytes Host::Touch(Window& window, uint64_t iova, uint64_t size) {
  const uint64_t offset = iova - window.iova;
  for (uint64_t page = offset / kPage; size != 0 && page <= (offset + size - 1) / kPage; ++page) {
    window.dirty |= uint64_t{1} << page;
  }
  return Bytes(window.bytes).subspan(offset, size);
}

Task<bool> Host::Wait(DmaAccess access, std::optional<Answer>* answer) {
  const uint64_t cancellations = cancellations_;
  if (held_) {
    const uint64_t ticket = next_waiting_++;
    const auto my_turn = [&] { return ticket == first_waiting_ && release_; };
    while (held_ && !my_turn() && cancellations == cancellations_) co_await released_.Wait();
    if (my_turn()) *answer = std::exchange(release_, std::nullopt);
    // Those that go on together keep their order.
    ++first_waiting_;
    co_return cancellations == cancellations_;
  }
  co_await Yield{loop_};
  *answer = source_.TakeAnswer(access);
  co_return cancellations == cancellations_;
}

void Host::Release(Answer answer) {
  if (!waiting()) return;
  release_ = answer;
  released_.NotifyAll();
  // It goes on before the next event does, or another answer would take this one's place.
  while (release_ && loop_.RunReady(1)) {
  }
  release_.reset();
}

void Host::ReleaseAll() {
  held_ = false;
  release_.reset();
  released_.NotifyAll();
}

bool Host::Faults(const std::optional<Answer>& answer) {
  if (!answer || !answer->fault) return false;
  ++counts_.faults;
  return true;
}

Task<DmaStatus> Host::ReadPart(uint64_t iova, Bytes out, bool continues) {
  Watch("reads", iova, out.size(), continues);
  std::optional<Answer> answer;
  if (held_ || by_message_) {
    const bool goes_on = co_await Wait(DmaAccess::kRead, &answer);
    if (!goes_on) co_return DmaStatus::kCancelled;
  } else {
    answer = source_.TakeAnswer(DmaAccess::kRead);
  }
  const auto* window = Find(iova, out.size(), DmaAccess::kRead);
  if (Faults(answer) || window == nullptr) co_return DmaStatus::kFault;
  Copy(out, ConstBytes((*window)->bytes).subspan(iova - (*window)->iova, out.size()));
  if (answer) {
    const size_t size = std::min(out.size(), answer->data.size());
    Copy(out.first(size), answer->data.first(size));
  }
  ++counts_.completed;
  if (referee_ != nullptr) referee_->OnDmaRead(iova, out);
  co_return DmaStatus::kOk;
}

Task<DmaStatus> Host::WritePart(uint64_t iova, ConstBytes in, bool continues) {
  Watch("writes", iova, in.size(), continues);
  std::optional<Answer> answer;
  if (held_ || by_message_) {
    const bool goes_on = co_await Wait(DmaAccess::kWrite, &answer);
    if (!goes_on) co_return DmaStatus::kCancelled;
  } else {
    answer = source_.TakeAnswer(DmaAccess::kWrite);
  }
  const auto* window = Find(iova, in.size(), DmaAccess::kWrite);
  if (Faults(answer) || window == nullptr) co_return DmaStatus::kFault;
  Copy(Touch(**window, iova, in.size()), in);
  ++counts_.completed;
  if (referee_ != nullptr) referee_->OnDmaWrite(iova, in);
  co_return DmaStatus::kOk;
}

Task<DmaStatus> Host::Map(std::span<const DmaSegment> segments, DmaAccess access,
                          DmaBuffer* buffer) {
  auto lease = std::make_unique<Lease>(*this, access);
  for (const DmaSegment& segment : segments) {
    const auto* window = Find(segment.iova, segment.size, access);
    if (window == nullptr) {
      Watch("maps", segment.iova, segment.size);
      co_return DmaStatus::kFault;
    }
    Bytes bytes;
    if (by_message_) {
      lease->bounces.push_back({segment.iova, std::vector<std::byte>(segment.size)});
      bytes = lease->bounces.back().bytes;
    } else {
      Watch("maps", segment.iova, segment.size);
      lease->windows.push_back(*window);
      bytes = access == DmaAccess::kWrite
                  ? Touch(**window, segment.iova, segment.size)
                  : Bytes((*window)->bytes).subspan(segment.iova - (*window)->iova, segment.size);
    }
    lease->iovecs.push_back({.iov_base = bytes.data(), .iov_len = bytes.size()});
  }
  if (access == DmaAccess::kRead) {
    if (!by_message_) ++counts_.completed;
    for (Lease::Bounce& bounce : lease->bounces) {
      const bool continues = &bounce != &lease->bounces.front();
      const DmaStatus status = co_await ReadPart(bounce.iova, bounce.bytes, continues);
      if (status != DmaStatus::kOk) co_return status;
    }
  }
  std::vector<iovec> iovecs = lease->iovecs;
  *buffer = DmaBuffer(std::move(iovecs), std::move(lease));
  co_return DmaStatus::kOk;
}

bool Host::AddWindow(uint64_t iova, uint64_t size, bool readable, bool writable) {
  if (size == 0 || size > kMaxWindowSize || windows_.size() >= kMaxWindows) return false;
  if (Wraps(iova, size)) return false;
  const bool overlaps = std::ranges::any_of(windows_, [&](const auto& window) {
    return !window->removed && Overlap(iova, size, window->iova, window->bytes.size());
  });
  if (overlaps) return false;
  auto window = std::make_shared<Window>();
  window->iova = iova;
  window->readable = readable;
  window->writable = writable;
  window->bytes.resize(size);
  windows_.push_back(std::move(window));
  return true;
}

bool Host::RemoveWindow(uint64_t iova, uint64_t size) {
  bool any = false;
  for (const auto& window : windows_) {
    if (window->removed || window->iova < iova) continue;
    if (!InRange(window->iova - iova, window->bytes.size(), size)) continue;
    window->removed = true;
    any = true;
  }
  return any;
}

void Host::WriteMemory(uint64_t iova, ConstBytes data) {
  for (const auto& window : windows_) {
    if (window->removed || iova < window->iova || iova - window->iova >= window->bytes.size()) {
      continue;
    }
    const uint64_t size =
        std::min<uint64_t>(data.size(), window->bytes.size() - (iova - window->iova));
    Copy(Touch(*window, iova, size), data.first(size));
    return;
  }
}

ConstBytes Host::Peek(uint64_t iova, uint64_t size, DmaAccess access) const {
  const auto* window = Find(iova, size, access);
  if (window == nullptr) return {};
  return ConstBytes((*window)->bytes).subspan(iova - (*window)->iova, size);
}

bool Host::bus_master() const { return (Config16(pci::kCommand) & pci::kCommandBusMaster) != 0; }

bool Host::msi_enabled() const {
  return msi_ != 0 && (Config16(msi_ + pci::kMsiControl) & pci::kMsiEnable) != 0;
}

bool Host::msix_enabled() const {
  return msix_ != 0 && (Config16(msix_ + pci::kMsixControl) & pci::kMsixEnable) != 0;
}

bool Host::intx_mode() const {
  return (Config16(pci::kCommand) & pci::kCommandIntxDisable) == 0 && !msi_enabled() &&
         !msix_enabled();
}

bool Host::MsixMasked(uint32_t vector) const {
  if (!own_table_) return false;
  if ((Config16(msix_ + pci::kMsixControl) & pci::kMsixFunctionMask) != 0) return true;
  const uint32_t table = Config32(msix_ + pci::kMsixTable);
  uint32_t entry;
  device_->ReadRegion(
      Region{table & 7},
      (table & ~7u) + uint64_t{vector} * pci::kMsixEntrySize + pci::kMsixEntryControl,
      AsWritableBytes(entry));
  return (entry & pci::kMsixEntryMasked) != 0;
}

void Host::SetIntx(bool asserted) {
  if (asserted && !intx_) CountInterrupt();
  intx_ = asserted;
  if (!asserted) return;
  if ((Config16(pci::kCommand) & pci::kCommandIntxDisable) != 0) {
    Violation("interrupt-unarmed", "INTx rises while the Command register disables it");
  }
  if (!intx_mode()) Violation("interrupt-unarmed", "INTx rises while MSI or MSI-X is enabled");
}

// A message is a write to memory.
void Host::CountMessage(const char* kind, uint32_t vector) {
  CountInterrupt();
  if (bus_master()) return;
  Violation("bus-master", "{} vector {} is signalled with bus mastering off", kind, vector);
}

void Host::SignalMsi(uint32_t vector) {
  CountMessage("MSI", vector);
  const uint16_t control = msi_ == 0 ? uint16_t{0} : Config16(msi_ + pci::kMsiControl);
  const uint32_t allotted = 1u << (control >> 4 & 7);
  if (!msi_enabled() || vector >= allotted) {
    Violation("interrupt-unarmed", "MSI vector {} is signalled, of {} that are enabled", vector,
              msi_enabled() ? allotted : 0);
  }
  if ((Config32(msi_ + pci::kMsiMask) >> vector & 1) != 0) {
    Violation("interrupt-unarmed", "MSI vector {} is signalled while it is masked", vector);
  }
}

void Host::SignalMsix(uint32_t vector) {
  CountMessage("MSI-X", vector);
  if (!msix_enabled() || vector >= device_->info().msix_count) {
    Violation("interrupt-unarmed", "MSI-X vector {} is signalled; MSI-X has {} and is {}", vector,
              device_->info().msix_count, msix_enabled() ? "enabled" : "disabled");
  }
  if (MsixMasked(vector)) {
    Violation("interrupt-unarmed", "MSI-X vector {} is signalled while it is masked", vector);
  }
  if (referee_ != nullptr) referee_->OnMsix(vector);
}

}  // namespace farside::fuzz
