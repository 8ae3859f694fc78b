// GuestMemory: the memory of the guest that the harness plays.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"

namespace farside {

// How a device reaches memory. A scenario runs with both and ends the same.
enum class Reach {
  kFd,       // It maps a memory file.
  kMessage,  // It asks with DMA_READ and DMA_WRITE.
};

struct MemoryRange {
  uint64_t iova = 0;
  uint64_t size = 0;     // In bytes; pages of 4 KiB, like iova.
  bool writable = true;  // For the device. The guest writes everywhere.
};

// A few ranges of zeroes. Reads and writes are those of the guest's CPUs: they may cross ranges
// that touch, and an Error says which address has no memory. Any thread may call.
class GuestMemory final : public DmaHandler {
 public:
  static constexpr uint64_t kPageSize = 4096;

  // Ranges do not overlap.
  static Result<std::unique_ptr<GuestMemory>> Create(std::span<const MemoryRange> ranges,
                                                     Reach reach);

  Reach reach() const { return reach_; }
  std::vector<MemoryRange> ranges() const;

  // DMA_MAPs every range, or takes them back. `client` was made with this memory as its DmaHandler.
  Result<void> MapTo(DeviceClient& client) const;
  Result<void> UnmapFrom(DeviceClient& client) const;
  // What to DMA_MAP for a part of one range; its fd stays the memory's.
  Result<DmaWindow> Window(uint64_t iova, uint64_t size) const;

  Result<void> Read(uint64_t iova, Bytes out) const;
  Result<void> Write(uint64_t iova, ConstBytes in);
  Result<void> Fill(uint64_t iova, uint64_t size, uint8_t value);
  // The offset of the first byte that differs from `expected`, if one does.
  Result<std::optional<uint64_t>> Compare(uint64_t iova, ConstBytes expected) const;
  // The lowest IOVA from `from` on where `other`, which has the same ranges, has another byte.
  std::optional<uint64_t> FindDifference(const GuestMemory& other, uint64_t from) const;
  // A number that differs with the content. The same on every machine; not cryptographic.
  Result<uint64_t> Digest(uint64_t iova, uint64_t size) const;
  uint64_t DigestAll() const;

  // Single loads and stores that the device sees whole and in order. Aligned to their size.
  template <std::unsigned_integral T>
  Result<T> Load(uint64_t iova) const {
    const auto at = Find(iova, sizeof(T));
    if (at.size() != sizeof(T) || iova % sizeof(T) != 0) return Nowhere(iova, sizeof(T));
    return __atomic_load_n(reinterpret_cast<const T*>(at.data()), __ATOMIC_ACQUIRE);
  }
  template <std::unsigned_integral T>
  Result<void> Store(uint64_t iova, T value) {
    const auto at = Find(iova, sizeof(T));
    if (at.size() != sizeof(T) || iova % sizeof(T) != 0) return Nowhere(iova, sizeof(T));
    __atomic_store_n(reinterpret_cast<T*>(at.data()), value, __ATOMIC_RELEASE);
    return {};
  }

  // Takes zeroed pages for `size` bytes, one behind the other within one writable range, for a
  // driver's queues and buffers; the lowest that are free.
  Result<uint64_t> Allocate(uint64_t size);
  // Gives them back; `size` as it was allocated.
  void Free(uint64_t iova, uint64_t size);
  // Keeps a range away from Allocate: whoever names addresses by hand.
  void Reserve(uint64_t iova, uint64_t size);

  int OnDmaRead(uint64_t iova, Bytes out) override;
  int OnDmaWrite(uint64_t iova, ConstBytes in) override;

 private:
  struct Range {
    MemoryRange range;
    UniqueFd file;
    Mapping memory;
  };

  explicit GuestMemory(Reach reach) : reach_(reach) {}
  // The bytes at `iova` up to `size` or the end of their range; none where there is no memory.
  Bytes Find(uint64_t iova, uint64_t size) const;
  // Calls visit(bytes, offset) for each piece of a range; an Error if a byte of it is missing, and
  // then nothing was visited.
  template <typename Visit>
  Result<void> ForEachPiece(uint64_t iova, uint64_t size, const Visit& visit) const;
  static tl::unexpected<Error> Nowhere(uint64_t iova, uint64_t size);

  const Reach reach_;
  std::vector<Range> ranges_;          // By iova.
  std::mutex mutex_;                   // Of what follows.
  std::map<uint64_t, uint64_t> free_;  // Sizes by iova; neighbours are merged.
};

// Pages of guest memory, given back at their end. The memory outlives them.
class GuestPages {
 public:
  static Result<GuestPages> Take(GuestMemory& memory, uint64_t size) {
    const auto iova = memory.Allocate(size);
    if (!iova) return tl::unexpected(iova.error());
    return GuestPages(memory, *iova, size);
  }
  GuestPages() = default;
  GuestPages(GuestPages&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), iova_(other.iova_), size_(other.size_) {}
  GuestPages& operator=(GuestPages&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(iova_, other.iova_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~GuestPages() {
    if (memory_ != nullptr) memory_->Free(iova_, size_);
  }

  uint64_t iova() const { return iova_; }
  uint64_t size() const { return size_; }

 private:
  GuestPages(GuestMemory& memory, uint64_t iova, uint64_t size)
      : memory_(&memory), iova_(iova), size_(size) {}

  GuestMemory* memory_ = nullptr;
  uint64_t iova_ = 0;
  uint64_t size_ = 0;
};

}  // namespace farside
