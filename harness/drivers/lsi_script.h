// The SCRIPTS of LsiDriver, and the control blocks they work on. LSI53C895A Technical Manual,
// chapter 5.
#pragma once

#include <cstdint>
#include <vector>

namespace farside {

// A control block, which DSA points to while its command has the bus. Entries of tables are a count
// and an address.
namespace lsi_block {
inline constexpr uint32_t kSize = 256;
inline constexpr uint32_t kCount = 256;  // By tag; block kUntagged + target has none.
inline constexpr uint32_t kUntagged = 0xf0;
inline constexpr uint32_t kSelect = 0;
inline constexpr uint32_t kMessageOut = 4;
inline constexpr uint32_t kCommand = 12;
inline constexpr uint32_t kStatusEntry = 20;
inline constexpr uint32_t kMessageInEntry = 28;
inline constexpr uint32_t kResume = 36;    // Where the script moves data from here on.
inline constexpr uint32_t kFinished = 40;  // What it puts there when the table is done.
inline constexpr uint32_t kStatus = 44;    // u8
inline constexpr uint32_t kMessage = 45;   // u8: the last message; COMMAND COMPLETE: it is over.
inline constexpr uint32_t kMessageBytes = 48;
inline constexpr uint32_t kCdb = 64;
inline constexpr uint32_t kCdbSize = 16;
inline constexpr uint32_t kSegments = 80;
inline constexpr uint32_t kMaxSegments = 22;  // A command's are the last ones.
static_assert(kSegments + 8 * kMaxSegments == kSize);
}  // namespace lsi_block

// An entry of the ring of commands to start: what to do, the block, the next entry.
namespace lsi_ring {
inline constexpr uint32_t kEntrySize = 16;
inline constexpr uint32_t kEntries = lsi_block::kCount;  // As many as can be in flight.
inline constexpr uint32_t kDo = 0;                       // u8: one of the following.
inline constexpr uint32_t kBlock = 4;
inline constexpr uint32_t kNext = 8;
inline constexpr uint8_t kNothing = 0;
inline constexpr uint8_t kStart = 1;
inline constexpr uint8_t kSend = 2;  // A message after which the target goes.
}  // namespace lsi_ring

// Codes of the INT instructions.
enum class LsiEvent : uint32_t {
  kOtherMessage = 0x115,
  kBadPhase = 0xbad,
  kOverrun = 0x0f4,
};

// Bus addresses that the script knows.
struct LsiPlaces {
  uint32_t script = 0;
  uint32_t blocks = 0;  // Of 64 KiB.
  uint32_t ring_pointer = 0;
  uint32_t blocks_pointer = 0;
  uint32_t scratch = 0;  // 4 bytes.
};

struct LsiScript {
  std::vector<uint32_t> words;
  // Bus addresses of labels.
  uint32_t next = 0;      // Starts what the ring has, then waits.
  uint32_t dispatch = 0;  // Goes on by the phase.
  uint32_t acknowledge = 0;
  uint32_t data_in = 0;  // kMaxSegments moves of 8 bytes.
  uint32_t data_out = 0;
  uint32_t no_data = 0;
  uint32_t overrun = 0;
};

LsiScript AssembleLsiScript(const LsiPlaces& places);

}  // namespace farside
