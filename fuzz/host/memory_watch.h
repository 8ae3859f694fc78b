// MemoryWatch: what a server does to the guest's memory by its mappings, which no message tells of.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace farside::fuzz {

// The guest's memory, as its owner sees it.
class GuestMemory {
 public:
  virtual ~GuestMemory() = default;
  // As much of the range as is memory.
  virtual ConstBytes Peek(uint64_t iova, uint64_t size) const = 0;
  // The device has nothing to do, and nothing holds it up.
  virtual bool quiet() const = 0;
};

// Oracles: "dma-window" (memory is written that no window shows any more), "dirty-log" (a page that
// the device has written is not in the report).
class MemoryWatch {
 public:
  // `memory` outlives this.
  explicit MemoryWatch(const GuestMemory& memory) : memory_(memory) {}

  void Forget();
  void OnGuestWrite(uint64_t iova, ConstBytes data);

  // No window shows memory: from now on it stays as it is. Nothing changes where that was so.
  void Seal();
  // Whether it did so far.
  void CheckSealed() const;
  // It may change again.
  void Unseal() { is_sealed_ = false; }

  // [iova, iova + size) is logged. Only as long as memory is seen through windows at the places
  // where the guest has it.
  void BeginLog(uint64_t iova, uint64_t size);
  void EndLog() { logged_.clear(); }
  // A report is asked for: what has changed by now has to be in it.
  void BeginReport(uint64_t iova, uint64_t size);
  // And has come: a bit a page.
  void EndReport(uint64_t page_size, ConstBytes bitmap);

 private:
  struct Copy {
    uint64_t iova = 0;
    std::vector<std::byte> bytes;
  };
  struct Report {
    uint64_t iova = 0;
    uint64_t size = 0;
    std::vector<uint64_t> changed = {};  // IOVAs of pages.
  };
  static constexpr uint64_t kPage = 4096;

  // `copy` becomes what is there; a place that it has is used again.
  void Take(uint64_t iova, uint64_t size, Copy* copy) const;
  static void Write(Copy& copy, uint64_t iova, ConstBytes data);
  // The pages of [iova, iova + size) of which the copy differs from memory.
  void FindChanges(const Copy& copy, uint64_t iova, uint64_t size,
                   std::vector<uint64_t>* out) const;

  const GuestMemory& memory_;
  bool is_sealed_ = false;
  std::array<Copy, 2> sealed_;
  std::vector<Copy> logged_;
  std::optional<Report> report_;
};

}  // namespace farside::fuzz
