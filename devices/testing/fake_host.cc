#include "devices/testing/fake_host.h"

#include <algorithm>
#include <utility>

#include "devices/testing/yield.h"

namespace farside {
class FakeHost::Lease final : public DmaBuffer::Lease {
 public:
  explicit Lease(FakeHost& host) : host_(host) { ++host_.leases_; }
  ~Lease() override { --host_.leases_; }

  void Add(std::shared_ptr<Window> window) { windows_.push_back(std::move(window)); }
  Bytes AddBounce(const DmaSegment& segment) {
    bounces_.push_back({segment, std::vector<std::byte>(segment.size, std::byte{0xa5})});
    return bounces_.back().bytes;
  }
  void set_writes() { writes_ = true; }

  Task<DmaStatus> WriteBack() override {
    if (!writes_) co_return DmaStatus::kOk;
    for (const Bounce& bounce : bounces_) {
      const DmaStatus status = co_await host_.Write(bounce.segment.iova, bounce.bytes);
      if (status != DmaStatus::kOk) co_return status;
    }
    co_return DmaStatus::kOk;
  }
  bool revoked() const override {
    return std::ranges::any_of(windows_, [](const auto& window) { return window->removed; });
  }

 private:
  struct Bounce {
    DmaSegment segment;
    std::vector<std::byte> bytes;
  };

  FakeHost& host_;
  std::vector<std::shared_ptr<Window>> windows_;
  std::vector<Bounce> bounces_;
  bool writes_ = false;
};

void FakeHost::AddMemory(uint64_t iova, uint64_t size, bool writable) {
  auto window = std::make_shared<Window>();
  window->bytes.resize(size);
  window->writable = writable;
  CHECK(windows_.emplace(iova, std::move(window)).second);
}

void FakeHost::RemoveMemory(uint64_t iova) {
  const auto window = windows_.find(iova);
  CHECK(window != windows_.end());
  window->second->removed = true;
  windows_.erase(window);
  CancelWaits();
}

std::vector<FakeHost::Part> FakeHost::Find(uint64_t iova, uint64_t size, DmaAccess access) const {
  std::vector<Part> parts;
  while (size != 0) {
    auto found = windows_.upper_bound(iova);
    if (found == windows_.begin()) return {};
    --found;
    const auto& window = found->second;
    const uint64_t offset = iova - found->first;
    if (offset >= window->bytes.size()) return {};
    if (access == DmaAccess::kWrite && !window->writable) return {};
    const uint64_t part = std::min(size, window->bytes.size() - offset);
    parts.push_back({window, Bytes(window->bytes).subspan(offset, part)});
    size -= part;
    if (size != 0 && part > UINT64_MAX - iova) return {};  // Past the end of the address space.
    iova += part;
  }
  return parts;
}

Bytes FakeHost::At(uint64_t iova, uint64_t size) {
  const auto parts = Find(iova, size, DmaAccess::kRead);
  CHECK(parts.size() == 1);
  return parts[0].bytes;
}

Task<bool> FakeHost::Wait() {
  if (mode_ == DmaMode::kByFd) co_return true;
  const uint64_t generation = cancel_generation_;
  ++waits_;
  co_await Yield{loop_};
  while (held_ && generation == cancel_generation_) co_await released_.Wait();
  if (during_wait_) during_wait_();
  --waits_;
  co_return generation == cancel_generation_;
}

Task<DmaStatus> FakeHost::Read(uint64_t iova, Bytes out) {
  accesses_.push_back({DmaAccess::kRead, iova, out.size()});
  if (!co_await Wait()) co_return DmaStatus::kCancelled;
  const auto parts = Find(iova, out.size(), DmaAccess::kRead);
  if (parts.empty()) co_return DmaStatus::kFault;
  for (const Part& part : parts) {
    Copy(out.first(part.bytes.size()), part.bytes);
    out = out.subspan(part.bytes.size());
  }
  co_return DmaStatus::kOk;
}

Task<DmaStatus> FakeHost::Write(uint64_t iova, ConstBytes in) {
  accesses_.push_back({DmaAccess::kWrite, iova, in.size()});
  if (!co_await Wait()) co_return DmaStatus::kCancelled;
  const auto parts = Find(iova, in.size(), DmaAccess::kWrite);
  if (parts.empty()) co_return DmaStatus::kFault;
  for (const Part& part : parts) {
    Copy(part.bytes, in.first(part.bytes.size()));
    in = in.subspan(part.bytes.size());
  }
  co_return DmaStatus::kOk;
}

Task<DmaStatus> FakeHost::Map(std::span<const DmaSegment> segments, DmaAccess access,
                              DmaBuffer* buffer) {
  auto lease = std::make_unique<Lease>(*this);
  if (access == DmaAccess::kWrite) lease->set_writes();
  std::vector<iovec> iovecs;
  const auto add = [&](Bytes bytes) {
    iovecs.push_back({.iov_base = bytes.data(), .iov_len = bytes.size()});
  };
  for (const DmaSegment& segment : segments) {
    if (mode_ == DmaMode::kByFd) {
      accesses_.push_back({access, segment.iova, segment.size});
      const auto parts = Find(segment.iova, segment.size, access);
      if (parts.empty()) co_return DmaStatus::kFault;
      for (const Part& part : parts) {
        lease->Add(part.window);
        add(part.bytes);
      }
      continue;
    }
    if (Find(segment.iova, segment.size, access).empty()) co_return DmaStatus::kFault;
    const Bytes bounce = lease->AddBounce(segment);
    if (access == DmaAccess::kRead) {
      const DmaStatus status = co_await Read(segment.iova, bounce);
      if (status != DmaStatus::kOk) co_return status;
    }
    add(bounce);
  }
  *buffer = DmaBuffer(std::move(iovecs), std::move(lease));
  co_return DmaStatus::kOk;
}

void IrqRecorder::SetIntx(bool asserted) {
  if (asserted && !intx_) ++intx_edges_;
  intx_ = asserted;
}

}  // namespace farside
