// Event: one thing that the guest does to both devices of a comparison, or waits for.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace farside::diff {

inline constexpr uint32_t kConfigRegion = 7;
inline constexpr uint32_t kMaxAccess = 8;  // Bytes of one access.

struct Event {
  enum class Kind : uint8_t {
    kRead,
    kWrite,
    kMemory,       // The guest writes `data` to its memory at `offset`.
    kReset,        // DEVICE_RESET.
    kAwait,        // Until a register has a value, which is asked again and again.
    kAwaitMemory,  // The same of memory at `offset`.
    kSettle,       // Until nothing moves any more.
  };
  Kind kind = Kind::kSettle;
  bool differs = false;  // kAwait, kAwaitMemory: until (value & mask) is not `value`.
  uint32_t region = 0;   // 0..5 BARs, 7 configuration space.
  uint32_t size = 0;     // In bytes: 1, 2, 4 or 8.
  uint64_t offset = 0;   // In bytes, within the region; of memory the IOVA.
  uint64_t value = 0;
  uint64_t mask = 0;
  std::vector<std::byte> data;

  friend bool operator==(const Event&, const Event&) = default;

  bool is_access() const { return kind == Kind::kRead || kind == Kind::kWrite; }
  // It touches a byte of [begin, begin + count) of `in`.
  bool Touches(uint32_t in, uint64_t begin, uint64_t count) const {
    return region == in && offset < begin + count && begin < offset + size;
  }
  bool Fulfils(uint64_t found) const { return ((found & mask) == value) != differs; }
};

Event Read(uint32_t region, uint64_t offset, uint32_t size);
Event Write(uint32_t region, uint64_t offset, uint32_t size, uint64_t value);
Event WriteMemory(uint64_t iova, ConstBytes data);

// An event in the words of scenarios' raw verbs: {"bar.write": {"bar": 0, "offset": "0x14", ...}}.
nlohmann::json ToJson(const Event& event);
// Verbs of scenarios that only expect something are taken for "settle". Errors say what is wrong.
Result<Event> FromJson(const nlohmann::json& json);

}  // namespace farside::diff
