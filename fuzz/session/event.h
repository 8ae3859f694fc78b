// Event: one thing of a fuzz session, as bytes of an input. A session is one input: a header byte
// and up to kMaxEvents events (fuzz/session/format.md). Every prefix of an input is an input.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace farside::fuzz {

inline constexpr size_t kMaxEvents = 512;
inline constexpr size_t kMaxData = 4096;  // Bytes that one event carries.
inline constexpr size_t kMaxInput = 64 << 10;

// The order is the encoding's: new kinds come last.
enum class Kind : uint8_t {
  // What a guest and its VMM do.
  kRead,       // Of a region.
  kWrite,      // Of a region, up to 8 bytes.
  kWriteData,  // Of a region, any number of bytes.
  kMemory,     // The guest writes its memory.
  kMap,        // A DMA window comes.
  kUnmap,
  kIrqs,  // DEVICE_SET_IRQS: `what` is the index, `size` flags, `at` start, `value` count.
  kReset,
  kSaveLoad,   // The state is saved, loaded again, and compared.
  kClock,      // Time passes.
  kReconnect,  // The client goes and comes again.
  kFrame,      // Bytes on the wire as they are.

  // What the device meets when it reaches out.
  kAnswer,   // The next DMA read is answered with this; what is missing comes from memory.
  kFault,    // The next DMA access is refused.
  kHold,     // From now on a DMA access waits until an answer or a fault comes for it.
  kReflect,  // A pointer in the next answer is the device's own BAR.
  kDisk,     // `what` is a DiskAction.

  // What a hostile device process does to its client.
  kReply,        // The next reply is spoiled: `what` is a Spoiling.
  kDeviceRead,   // DMA_READ from the device.
  kDeviceWrite,  // DMA_WRITE.
  kDeviceFrame,  // Bytes from the device as they are.
  kHangUp,
  kCount
};
inline constexpr size_t kKindCount = static_cast<size_t>(Kind::kCount);

enum class DiskAction : uint8_t {
  kFailNext,  // The next request ends with the errno in `value`.
  kHold,      // Requests wait.
  kRelease,   // The `value`-th that waits, counted round, goes on.
  kResume,    // All go on, and no more wait.
  kCount
};

enum class Spoiling : uint8_t {
  kError,    // An error reply with the errno in `value`.
  kShort,    // `value` bytes of payload less.
  kLong,     // `data` behind it.
  kWrongId,  // Another message id: the right one plus `value`.
  kTwice,
  kNever,
  kLate,     // Behind the next reply.
  kOther,    // `data` over the payload from byte `value` on.
  kFds,      // With `value` fds too many.
  kCommand,  // Of the command `value`.
  kSize,     // The header says `value` for its size.
  kFlags,    // The header's flags are `value`.
  kCount
};

// What an event has besides its kind. Fields that a kind does not have are 0 and are not encoded.
struct Event {
  Kind kind = Kind::kRead;
  uint8_t what = 0;      // A region, an interrupt index, an action.
  uint8_t size = 0;      // Of an access, in bytes; flags of a window or an interrupt set-up.
  uint64_t at = 0;       // An offset in a region, an IOVA, the first of several.
  uint64_t value = 0;    // What is written, a size in bytes, a time in ns, a count.
  ConstBytes data = {};  // Somebody else's.
};
bool operator==(const Event& a, const Event& b);

// Which fields the events of a kind have, and what they are called in text.
struct KindDef {
  Kind kind;
  std::string_view name;
  std::string_view what = {};  // Empty: not there. So below.
  std::string_view size = {};
  std::string_view at = {};
  std::string_view value = {};
  bool data = false;
};
const KindDef& Definition(Kind kind);

// Bits of a session's header byte.
inline constexpr uint8_t kByMessage = 1 << 0;  // DMA suspends the device; else it is done at once.
inline constexpr uint8_t kOwnTable = 1 << 1;   // The device keeps its MSI-X table itself.
inline constexpr uint8_t kReady = 1 << 2;      // It begins with a driver's set-up done.

struct Session {
  uint8_t flags = 0;
  std::vector<Event> events;

  bool by_message() const { return (flags & kByMessage) != 0; }
  bool own_table() const { return (flags & kOwnTable) != 0; }
  bool ready() const { return (flags & kReady) != 0; }
};

// Replaces `*session` by what `input` says: any bytes say something, and what is cut off or too
// much is left out. Data of events points into `input`.
void Decode(ConstBytes input, Session* session);
std::vector<std::byte> Encode(const Session& session);

// Bytes that events made up by a program point to. They live as long as it does.
class Store {
 public:
  Bytes Add(size_t size) {
    blocks_.emplace_back(size);
    return blocks_.back();
  }
  ConstBytes Add(ConstBytes bytes) {
    const Bytes copy = Add(bytes.size());
    Copy(copy, bytes);
    return copy;
  }

 private:
  std::deque<std::vector<std::byte>> blocks_;
};

}  // namespace farside::fuzz
