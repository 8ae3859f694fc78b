// MemoryImage: guest memory during a replay, twice: as the recording has it and as the device under
// test makes it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "base/bytes.h"

namespace farside::replay {

// Sparse; untouched memory is zero on both sides.
class MemoryImage {
 public:
  static constexpr uint64_t kPageSize = 4096;

  struct Difference {
    uint64_t iova = 0;
    uint8_t expected = 0;
    uint8_t actual = 0;
  };

  // What the guest wrote: both sides have it.
  void GuestWrites(uint64_t iova, ConstBytes data);
  // What the recorded device wrote.
  void RecordedWrites(uint64_t iova, ConstBytes data);
  // What the device under test wrote.
  void DeviceWrites(uint64_t iova, ConstBytes data);
  // What the device under test reads.
  void DeviceReads(uint64_t iova, Bytes out) const;

  // The first byte of the range in which the sides differ.
  std::optional<Difference> FindDifference(uint64_t iova, uint64_t size) const;
  // The same over all that was written since the sides were last seen equal there.
  std::optional<Difference> FindAnyDifference();

 private:
  struct Page {
    std::array<std::byte, kPageSize> recorded{};
    std::array<std::byte, kPageSize> actual{};
  };

  Page& PageAt(uint64_t number);
  // Calls use(page number, offset in the page, offset in the range, size) for each page of a range.
  template <typename Use>
  static void ForPages(uint64_t iova, uint64_t size, Use&& use);

  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::unordered_set<uint64_t> suspects_;  // Pages in which the sides may differ.
};

}  // namespace farside::replay
