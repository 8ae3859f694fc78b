// GuestWrites: what the guest must have written to its memory, and when at the latest, concluded
// from what the recorded device later read there.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "harness/trace/event_file.h"

namespace farside::trace {

// A recording says what the device read, not when the guest wrote it. A device that fetches more at
// once reads earlier; so content is put in place as early as it can have been: before the first
// guest event that comes after the recorded device's last access to those bytes. To know it, a
// second reader runs ahead of the replay, by a bounded number of events and bytes.
class GuestWrites {
 public:
  static constexpr uint32_t kEventsAhead = 20'000;
  static constexpr size_t kBytesAhead = 64 << 20;

  // `device` is its number in the trace. `keeps_accesses`: NextAccess is asked, and everything it
  // gives is taken.
  static Result<std::unique_ptr<GuestWrites>> Open(const std::string& path, uint32_t device,
                                                   bool keeps_accesses = false);

  struct Write {
    uint64_t iova = 0;
    std::vector<std::byte> data;
  };

  // What is due before guest event `ordinal` (0, 1, ...) of the trace, which is its event `number`.
  // Asked in order.
  Result<std::vector<Write>> Before(uint64_t ordinal, uint32_t number);

  // True if the recorded device was refused an access that touches the range.
  bool Refused(uint64_t iova, uint64_t size) const;

  // An access of the recorded device's to memory, and what it was answered.
  struct Access {
    vfio_user::Command command{};
    vfio_user::DmaAccess range;
    int error = 0;             // Or 0.
    bool has_payload = false;  // Of a write: its data are there. A lease that was refused has none.
    std::vector<std::byte> data;  // That were read.
  };
  // The first that was not taken; nullptr behind the last.
  Result<const Access*> NextAccess();
  // What NextAccess gave.
  Access TakeAccess();

 private:
  static constexpr uint64_t kPageSize = 4096;
  // Bytes whose last access is remembered together, until something accesses a part of them.
  static constexpr uint64_t kGranule = 16;

  // Of each granule or, where accesses are smaller, of each byte: the ordinal from which its next
  // content may stand.
  struct Page {
    std::array<uint32_t, kPageSize / kGranule> granules{};
    std::unique_ptr<std::array<uint32_t, kPageSize>> bytes;

    void Split();
  };

  GuestWrites(std::unique_ptr<EventSource> source, uint32_t device, bool keeps_accesses)
      : source_(std::move(source)), device_(device), keeps_accesses_(keeps_accesses) {}

  Result<void> RunAhead(uint32_t number);
  Result<void> ReadEvent();
  void KeepAccess(const Access& asked, const Event& answer);
  void OnEvent(const Event& event);
  void OnRead(uint64_t iova, ConstBytes data);
  // Calls use(offset, size, ordinal) for the parts of an access, in order: the ordinal from which
  // that part's content may stand. Now it is accessed.
  template <typename Use>
  void Touch(uint64_t iova, uint64_t size, Use&& use);
  void Add(uint64_t ordinal, uint64_t iova, ConstBytes data);

  std::unique_ptr<EventSource> source_;
  const uint32_t device_;
  std::unordered_map<uint64_t, Page> next_writable_;
  const bool keeps_accesses_;
  std::unordered_map<uint16_t, Access> asked_;  // By message id.
  std::deque<Access> accesses_;                 // That were answered.
  std::multimap<uint64_t, Write> due_;          // By ordinal.
  std::vector<vfio_user::DmaAccess> refused_;
  size_t bytes_due_ = 0;
  uint64_t ordinal_ = 0;  // Guest events that the reader ahead has passed.
  uint32_t number_ = 0;   // Events that it has passed.
  uint64_t applied_ = 0;  // Guest events that the replay has passed.
  bool at_end_ = false;
};

// True for an event that the guest's side makes: a command to the device.
bool IsGuestEvent(const Event& event);

}  // namespace farside::trace
