#include "devices/server/dma_table.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <list>
#include <utility>

#include "base/check.h"

namespace farside {
namespace {

constexpr uint64_t kPageSize = 4096;

// What mappings of a file must be aligned to: huge pages cannot be mapped in part.
uint64_t MapAlignment(int fd) {
  struct statfs status {};
  const bool huge = fstatfs(fd, &status) == 0 && status.f_type == HUGETLBFS_MAGIC;
  return huge ? static_cast<uint64_t>(status.f_bsize) : kPageSize;
}

// `alignment` is a power of two.
constexpr uint64_t RoundUp(uint64_t size, uint64_t alignment) {
  return (size + alignment - 1) & ~(alignment - 1);
}

}  // namespace

struct DmaTable::Window {
  DmaWindowSpec spec;
  Mapping mapping;  // Empty where messages reach it.
  std::optional<GuardedRange> guard;
  uint64_t page_size = kPageSize;
  uint64_t slack = 0;  // Bytes between the mapping's start and the window's.
  bool removed = false;
  bool revoked = false;
  // What leases hold: pointers into the mapping and sizes.
  std::list<std::pair<std::byte*, uint64_t>> leased;

  bool mapped() const { return mapping.data() != nullptr; }
  bool dead() const { return guard && guard->dead(); }
  bool usable() const { return !removed && !dead(); }
  std::byte* at(uint64_t iova) const { return mapping.data() + slack + (iova - spec.iova); }
  void Revoke();
};

// Holds the windows of a Map until the block I/O is done.
class DmaTable::Lease final : public DmaBuffer::Lease {
 public:
  explicit Lease(DmaTable& table) : table_(table) {}

  ~Lease() override {
    for (Hold& hold : holds_) {
      if (writes_) table_.dirty_log_.Mark(hold.segment.iova, hold.segment.size);
      hold.window->leased.erase(hold.position);
      if (hold.window->removed) table_.released_.NotifyAll();
    }
  }

  // Leases a range of a mapped window; where it lies.
  std::byte* Add(const Part& part) {
    std::byte* data = part.window->at(part.iova);
    auto& leased = part.window->leased;
    holds_.push_back({.window = part.window,
                      .position = leased.insert(leased.end(), {data, part.size}),
                      .segment = {part.iova, part.size}});
    return data;
  }

  // Zeroed: whatever the I/O leaves of it untouched is written back all the same.
  Bytes AddBounce(const Part& part) {
    bounces_.push_back({part, AllocateAligned(part.size)});
    const Bytes memory(bounces_.back().memory.get(), part.size);
    Fill(memory, 0);
    return memory;
  }

  bool revoked() const override {
    return std::ranges::any_of(holds_, [](const Hold& hold) { return hold.window->revoked; });
  }

  Task<DmaStatus> WriteBack() override {
    if (std::ranges::any_of(holds_, [](const Hold& hold) { return hold.window->dead(); })) {
      co_return DmaStatus::kFault;
    }
    if (!writes_) co_return DmaStatus::kOk;
    for (const Bounce& bounce : bounces_) {
      // Another window may lie at the same address by now.
      if (!bounce.part.window->usable()) co_return DmaStatus::kCancelled;
      const DmaStatus status =
          co_await table_.Write(bounce.part.iova, {bounce.memory.get(), bounce.part.size});
      if (status != DmaStatus::kOk) co_return status;
    }
    co_return DmaStatus::kOk;
  }

  void set_writes() { writes_ = true; }

 private:
  struct FreeAligned {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  using AlignedMemory = std::unique_ptr<std::byte, FreeAligned>;

  struct Hold {
    std::shared_ptr<Window> window;
    std::list<std::pair<std::byte*, uint64_t>>::iterator position;
    DmaSegment segment;
  };
  struct Bounce {
    Part part;
    AlignedMemory memory;
  };

  // Aligned for O_DIRECT.
  static AlignedMemory AllocateAligned(uint64_t size) {
    void* memory = std::aligned_alloc(kPageSize, RoundUp(size, kPageSize));
    CHECK(memory != nullptr);
    return AlignedMemory(static_cast<std::byte*>(memory));
  }

  DmaTable& table_;
  bool writes_ = false;
  std::vector<Hold> holds_;
  std::vector<Bounce> bounces_;
};

DmaTable::~DmaTable() { RemoveAll(); }

Result<void> DmaTable::Add(const DmaWindowSpec& spec, const UniqueFd& fd, size_t max_windows) {
  const auto next = windows_.lower_bound(spec.iova);
  const bool hits_next = next != windows_.end() && next->first - spec.iova < spec.size;
  bool hits_previous = false;
  if (next != windows_.begin()) {
    const auto previous = std::prev(next);
    hits_previous = spec.iova - previous->first < previous->second->spec.size;
  }
  if (hits_next || hits_previous) {
    return FailWith(EEXIST, "DMA window {:#x}+{:#x} overlaps one that is mapped: unmap that first",
                    spec.iova, spec.size);
  }
  if (windows_.size() >= max_windows) {
    return FailWith(ENOSPC, "{} DMA windows are mapped: no more were negotiated", max_windows);
  }
  auto window = std::make_shared<Window>();
  window->spec = spec;
  if (fd) {
    if (const auto mapped = MapFile(*window, fd.get()); !mapped) return mapped;
  }
  windows_.emplace(spec.iova, std::move(window));
  return {};
}

Result<void> DmaTable::MapFile(Window& window, int fd) {
  const DmaWindowSpec& spec = window.spec;
  struct stat status {};
  if (fstat(fd, &status) != 0) return FailWith(errno, "DMA window fd: {}", ErrnoText(errno));
  if (S_ISREG(status.st_mode) &&
      !InRange(spec.offset, spec.size, static_cast<uint64_t>(status.st_size))) {
    return FailWith(EINVAL, "DMA window {:#x}+{:#x} lies at {:#x} of a file of {:#x} bytes",
                    spec.iova, spec.size, spec.offset, status.st_size);
  }
  window.page_size = MapAlignment(fd);
  window.slack = spec.offset % window.page_size;
  const int prot = (spec.readable ? PROT_READ : 0) | (spec.writable ? PROT_WRITE : 0);
  auto mapping = Mapping::Map(fd, spec.offset - window.slack,
                              RoundUp(spec.size + window.slack, window.page_size), prot);
  if (!mapping) return tl::unexpected(mapping.error());
  window.mapping = std::move(*mapping);
  window.guard.emplace(window.mapping.data(), window.mapping.size());
  return {};
}

void DmaTable::Retire(std::shared_ptr<Window> window) {
  std::erase_if(removed_, [](const auto& weak) { return weak.expired(); });
  window->removed = true;
  if (!window->leased.empty()) removed_.push_back(window);
}

Result<void> DmaTable::Remove(uint64_t iova, uint64_t size) {
  auto first = windows_.lower_bound(iova);
  if (first != windows_.begin()) {
    const auto& previous = std::prev(first)->second->spec;
    if (iova - previous.iova < previous.size) {
      return FailWith(EINVAL, "DMA_UNMAP {:#x}+{:#x} would cut window {:#x}+{:#x} in two", iova,
                      size, previous.iova, previous.size);
    }
  }
  auto last = first;
  for (; last != windows_.end() && last->first - iova < size; ++last) {
    const DmaWindowSpec& spec = last->second->spec;
    if (!InRange(spec.iova - iova, spec.size, size)) {
      return FailWith(EINVAL, "DMA_UNMAP {:#x}+{:#x} would cut window {:#x}+{:#x} in two", iova,
                      size, spec.iova, spec.size);
    }
  }
  for (auto window = first; window != last; ++window) Retire(std::move(window->second));
  windows_.erase(first, last);
  return {};
}

void DmaTable::RemoveAll() {
  for (auto& [iova, window] : windows_) Retire(std::move(window));
  windows_.clear();
}

void DmaTable::Clear() {
  RemoveAll();
  RevokeRemoved();
  dirty_log_.Stop();
  released_.NotifyAll();
}

size_t DmaTable::leases_in_removed() const {
  size_t count = 0;
  for (const auto& weak : removed_) {
    if (const auto window = weak.lock()) count += window->revoked ? 0 : window->leased.size();
  }
  return count;
}

void DmaTable::RevokeRemoved() {
  for (const auto& weak : removed_) {
    if (const auto window = weak.lock()) window->Revoke();
  }
  removed_.clear();
}

void DmaTable::Window::Revoke() {
  revoked = true;
  for (const auto& [data, size] : leased) {
    const uint64_t lead = static_cast<uint64_t>(data - mapping.data()) % page_size;
    const uint64_t span = RoundUp(lead + size, page_size);
    std::byte* const pages = data - lead;
    void* const copy =
        mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(copy != MAP_FAILED);
    if (spec.readable) std::memcpy(copy, pages, span);
    // In one step: I/O in flight finds either the old page or its copy.
    CHECK(mremap(copy, span, span, MREMAP_MAYMOVE | MREMAP_FIXED, pages) == pages);
  }
}

const std::shared_ptr<DmaTable::Window>* DmaTable::Find(uint64_t iova, DmaAccess access) const {
  auto found = windows_.upper_bound(iova);
  if (found == windows_.begin()) return nullptr;
  --found;
  const Window& window = *found->second;
  if (iova - window.spec.iova >= window.spec.size || !window.usable()) return nullptr;
  const bool allowed = access == DmaAccess::kRead ? window.spec.readable : window.spec.writable;
  return allowed ? &found->second : nullptr;
}

std::byte* DmaTable::Direct(uint64_t iova, uint64_t size, DmaAccess access) const {
  const auto* window = Find(iova, access);
  if (window == nullptr || !(*window)->mapped()) return nullptr;
  if (!InRange(iova - (*window)->spec.iova, size, (*window)->spec.size)) return nullptr;
  return (*window)->at(iova);
}

bool DmaTable::Split(uint64_t iova, uint64_t size, DmaAccess access, std::vector<Part>* out) const {
  while (size != 0) {
    const auto* window = Find(iova, access);
    if (window == nullptr) return false;
    const DmaWindowSpec& spec = (*window)->spec;
    const uint64_t here = std::min(size, spec.size - (iova - spec.iova));
    out->push_back({*window, iova, here});
    size -= here;
    // The window at the end of the address space has no successor.
    if (size != 0 && iova > UINT64_MAX - here) return false;
    iova += here;
  }
  return true;
}

Task<DmaStatus> DmaTable::Read(uint64_t iova, Bytes out) {
  const std::byte* direct = Direct(iova, out.size(), DmaAccess::kRead);
  if (direct == nullptr) co_return co_await ReadParts(iova, out);
  Copy(out, {direct, out.size()});
  // A file that shrank under the copy gave zeroes and died.
  co_return Direct(iova, out.size(), DmaAccess::kRead) != nullptr ? DmaStatus::kOk
                                                                  : DmaStatus::kFault;
}

Task<DmaStatus> DmaTable::Write(uint64_t iova, ConstBytes in) {
  std::byte* direct = Direct(iova, in.size(), DmaAccess::kWrite);
  if (direct == nullptr) co_return co_await WriteParts(iova, in);
  Copy({direct, in.size()}, in);
  dirty_log_.Mark(iova, in.size());
  co_return Direct(iova, in.size(), DmaAccess::kWrite) != nullptr ? DmaStatus::kOk
                                                                  : DmaStatus::kFault;
}

Task<DmaStatus> DmaTable::ReadParts(uint64_t iova, Bytes out) {
  std::vector<Part> parts;
  if (!Split(iova, out.size(), DmaAccess::kRead, &parts)) co_return DmaStatus::kFault;
  size_t done = 0;
  for (const Part& part : parts) {
    const Bytes to = out.subspan(done, part.size);
    done += part.size;
    DmaStatus status = DmaStatus::kOk;
    if (!part.window->usable()) co_return DmaStatus::kCancelled;
    if (part.window->mapped()) {
      Copy(to, {part.window->at(part.iova), part.size});
      if (!part.window->usable()) status = DmaStatus::kFault;
    } else {
      if (messenger_ == nullptr) co_return DmaStatus::kFault;
      status = co_await messenger_->ReadByMessage(part.iova, to);
    }
    if (status != DmaStatus::kOk) co_return status;
  }
  co_return DmaStatus::kOk;
}

Task<DmaStatus> DmaTable::WriteParts(uint64_t iova, ConstBytes in) {
  std::vector<Part> parts;
  if (!Split(iova, in.size(), DmaAccess::kWrite, &parts)) co_return DmaStatus::kFault;
  size_t done = 0;
  for (const Part& part : parts) {
    const ConstBytes from = in.subspan(done, part.size);
    done += part.size;
    DmaStatus status = DmaStatus::kOk;
    if (!part.window->usable()) co_return DmaStatus::kCancelled;
    if (part.window->mapped()) {
      Copy({part.window->at(part.iova), part.size}, from);
      dirty_log_.Mark(part.iova, part.size);
      if (!part.window->usable()) status = DmaStatus::kFault;
    } else {
      if (messenger_ == nullptr) co_return DmaStatus::kFault;
      status = co_await messenger_->WriteByMessage(part.iova, from);
    }
    if (status != DmaStatus::kOk) co_return status;
  }
  co_return DmaStatus::kOk;
}

Task<DmaStatus> DmaTable::Map(std::span<const DmaSegment> segments, DmaAccess access,
                              DmaBuffer* buffer) {
  std::vector<Part> parts;
  for (const DmaSegment& segment : segments) {
    if (!Split(segment.iova, segment.size, access, &parts)) co_return DmaStatus::kFault;
  }
  auto lease = std::make_unique<Lease>(*this);
  if (access == DmaAccess::kWrite) lease->set_writes();
  std::vector<std::byte*> bounces;
  for (const Part& part : parts) {
    if (part.window->mapped()) continue;
    const Bytes bounce = lease->AddBounce(part);
    bounces.push_back(bounce.data());
    if (access == DmaAccess::kWrite) continue;
    const DmaStatus status = co_await Read(part.iova, bounce);
    if (status != DmaStatus::kOk) co_return status;
  }
  // Windows are leased last, so that no lease is held across a message.
  std::vector<iovec> iovecs;
  auto bounce = bounces.begin();
  for (const Part& part : parts) {
    if (!part.window->usable()) co_return DmaStatus::kCancelled;
    std::byte* const data = part.window->mapped() ? lease->Add(part) : *bounce++;
    if (!iovecs.empty() &&
        static_cast<std::byte*>(iovecs.back().iov_base) + iovecs.back().iov_len == data) {
      iovecs.back().iov_len += part.size;
    } else {
      iovecs.push_back({data, part.size});
    }
  }
  *buffer = DmaBuffer(std::move(iovecs), std::move(lease));
  co_return DmaStatus::kOk;
}

}  // namespace farside
