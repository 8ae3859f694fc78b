#include "harness/host/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/random.h"

namespace farside {
namespace {

constexpr uint64_t RoundUp(uint64_t size) {
  return (size + GuestMemory::kPageSize - 1) / GuestMemory::kPageSize * GuestMemory::kPageSize;
}

// Mixes bytes into a digest, eight at a time.
uint64_t MixBytes(uint64_t digest, ConstBytes bytes) {
  while (!bytes.empty()) {
    const size_t size = std::min<size_t>(bytes.size(), 8);
    digest = Mix64(digest ^ LoadLePartial(bytes.first(size)) ^ size << 60);
    bytes = bytes.subspan(size);
  }
  return digest;
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::Create(std::span<const MemoryRange> ranges,
                                                         Reach reach) {
  std::unique_ptr<GuestMemory> out(new GuestMemory(reach));
  std::vector<MemoryRange> sorted(ranges.begin(), ranges.end());
  std::ranges::sort(sorted, {}, &MemoryRange::iova);
  uint64_t end = 0;
  for (const MemoryRange& range : sorted) {
    if (range.size == 0 || range.iova % kPageSize != 0 || range.size % kPageSize != 0 ||
        range.size - 1 > UINT64_MAX - range.iova || range.iova < end) {
      return FailWith(EINVAL,
                      "guest memory at {:#x} of {:#x} bytes is empty, overlaps another range or is "
                      "not made of pages of {} bytes",
                      range.iova, range.size, kPageSize);
    }
    end = range.iova + range.size;
    auto file = MakeMemfd("guest-memory", range.size);
    if (!file) return tl::unexpected(file.error());
    auto memory = Mapping::Map(file->get(), 0, range.size, PROT_READ | PROT_WRITE);
    if (!memory) return tl::unexpected(memory.error());
    out->ranges_.push_back({range, std::move(*file), std::move(*memory)});
    if (range.writable) out->free_[range.iova] = range.size;
  }
  return out;
}

std::vector<MemoryRange> GuestMemory::ranges() const {
  std::vector<MemoryRange> out;
  for (const Range& range : ranges_) out.push_back(range.range);
  return out;
}

Result<DmaWindow> GuestMemory::Window(uint64_t iova, uint64_t size) const {
  for (const Range& range : ranges_) {
    const uint64_t offset = iova - range.range.iova;
    if (iova < range.range.iova || !InRange(offset, size, range.range.size)) continue;
    return DmaWindow{
        .iova = iova,
        .size = size,
        .flags = vfio_user::kDmaMapRead | (range.range.writable ? vfio_user::kDmaMapWrite : 0),
        .fd = reach_ == Reach::kFd ? range.file.get() : -1,
        .offset = reach_ == Reach::kFd ? offset : 0};
  }
  return Nowhere(iova, size);
}

Result<void> GuestMemory::MapTo(DeviceClient& client) const {
  for (const Range& range : ranges_) {
    const auto window = Window(range.range.iova, range.range.size);
    if (!window) return tl::unexpected(window.error());
    if (const auto mapped = client.DmaMap(*window); !mapped) return mapped;
  }
  return {};
}

Result<void> GuestMemory::UnmapFrom(DeviceClient& client) const {
  for (const Range& range : ranges_) {
    if (const auto unmapped = client.DmaUnmap(range.range.iova, range.range.size); !unmapped) {
      return unmapped;
    }
  }
  return {};
}

Bytes GuestMemory::Find(uint64_t iova, uint64_t size) const {
  for (const Range& range : ranges_) {
    const uint64_t offset = iova - range.range.iova;
    if (iova < range.range.iova || offset >= range.range.size) continue;
    return {range.memory.data() + offset, std::min(size, range.range.size - offset)};
  }
  return {};
}

template <typename Visit>
Result<void> GuestMemory::ForEachPiece(uint64_t iova, uint64_t size, const Visit& visit) const {
  for (uint64_t done = 0; done < size;) {
    const Bytes piece = Find(iova + done, size - done);
    if (piece.empty() || done > UINT64_MAX - iova) return Nowhere(iova, size);
    done += piece.size();
  }
  for (uint64_t done = 0; done < size;) {
    const Bytes piece = Find(iova + done, size - done);
    visit(piece, done);
    done += piece.size();
  }
  return {};
}

tl::unexpected<Error> GuestMemory::Nowhere(uint64_t iova, uint64_t size) {
  return FailWith(EFAULT, "the guest has no memory for {} bytes at {:#x}", size, iova);
}

Result<void> GuestMemory::Read(uint64_t iova, Bytes out) const {
  return ForEachPiece(iova, out.size(), [&](Bytes piece, uint64_t offset) {
    Copy(out.subspan(offset, piece.size()), piece);
  });
}

Result<void> GuestMemory::Write(uint64_t iova, ConstBytes in) {
  return ForEachPiece(iova, in.size(), [&](Bytes piece, uint64_t offset) {
    Copy(piece, in.subspan(offset, piece.size()));
  });
}

Result<void> GuestMemory::Fill(uint64_t iova, uint64_t size, uint8_t value) {
  return ForEachPiece(iova, size, [&](Bytes piece, uint64_t) { farside::Fill(piece, value); });
}

Result<std::optional<uint64_t>> GuestMemory::Compare(uint64_t iova, ConstBytes expected) const {
  std::optional<uint64_t> first;
  const auto done = ForEachPiece(iova, expected.size(), [&](Bytes piece, uint64_t offset) {
    if (first) return;
    const ConstBytes wanted = expected.subspan(offset, piece.size());
    const auto [at, other] = std::ranges::mismatch(piece, wanted);
    if (at != piece.end()) first = offset + static_cast<uint64_t>(at - piece.begin());
  });
  if (!done) return tl::unexpected(done.error());
  return first;
}

std::optional<uint64_t> GuestMemory::FindDifference(const GuestMemory& other, uint64_t from) const {
  for (size_t i = 0; i < std::min(ranges_.size(), other.ranges_.size()); ++i) {
    const auto& [iova, size, writable] = ranges_[i].range;
    const std::byte* const mine = ranges_[i].memory.data();
    const std::byte* const theirs = other.ranges_[i].memory.data();
    uint64_t at = from > iova ? std::min(from - iova, size) : 0;
    while (at < size) {
      const uint64_t end = std::min(size, (at / kPageSize + 1) * kPageSize);
      if (std::memcmp(mine + at, theirs + at, end - at) != 0) {
        for (uint64_t byte = at; byte < end; ++byte) {
          if (mine[byte] != theirs[byte]) return iova + byte;
        }
      }
      at = end;
    }
  }
  return std::nullopt;
}

Result<uint64_t> GuestMemory::Digest(uint64_t iova, uint64_t size) const {
  uint64_t digest = size;
  const auto done =
      ForEachPiece(iova, size, [&](Bytes piece, uint64_t) { digest = MixBytes(digest, piece); });
  if (!done) return tl::unexpected(done.error());
  return digest;
}

uint64_t GuestMemory::DigestAll() const {
  uint64_t digest = 0;
  for (const Range& range : ranges_) {
    digest = Mix64(digest ^ range.range.iova);
    digest = MixBytes(digest, {range.memory.data(), range.range.size});
  }
  return digest;
}

Result<uint64_t> GuestMemory::Allocate(uint64_t size) {
  const std::lock_guard lock(mutex_);
  const uint64_t wanted = RoundUp(std::max<uint64_t>(size, 1));
  for (auto& [iova, room] : free_) {
    if (room < wanted || wanted < size) continue;
    // A merged piece may span two ranges; what is allocated does not.
    const Bytes memory = Find(iova, wanted);
    if (memory.size() != wanted) continue;
    const uint64_t at = iova;
    const uint64_t rest = room - wanted;
    free_.erase(at);
    if (rest != 0) free_[at + wanted] = rest;
    farside::Fill(memory, 0);
    return at;
  }
  return FailWith(ENOMEM, "the guest has no {} bytes of memory left: give it more", size);
}

void GuestMemory::Free(uint64_t iova, uint64_t size) {
  const std::lock_guard lock(mutex_);
  uint64_t begin = iova;
  uint64_t room = RoundUp(std::max<uint64_t>(size, 1));
  auto next = free_.lower_bound(begin);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == begin) {
      begin = before->first;
      room += before->second;
      next = free_.erase(before);
    }
  }
  if (next != free_.end() && begin + room == next->first) {
    room += next->second;
    free_.erase(next);
  }
  free_[begin] = room;
}

void GuestMemory::Reserve(uint64_t iova, uint64_t size) {
  const std::lock_guard lock(mutex_);
  const uint64_t begin = iova / kPageSize * kPageSize;
  const uint64_t end = begin + RoundUp(size + (iova - begin));
  std::map<uint64_t, uint64_t> left;
  for (const auto& [at, room] : free_) {
    const uint64_t at_end = at + room;
    if (at < begin) left[at] = std::min(at_end, begin) - at;
    if (at_end > end) left[std::max(at, end)] = at_end - std::max(at, end);
  }
  free_ = std::move(left);
}

int GuestMemory::OnDmaRead(uint64_t iova, Bytes out) { return Read(iova, out) ? 0 : EFAULT; }

int GuestMemory::OnDmaWrite(uint64_t iova, ConstBytes in) { return Write(iova, in) ? 0 : EFAULT; }

}  // namespace farside
