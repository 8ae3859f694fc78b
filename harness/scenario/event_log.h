// EventLog: what crossed the boundary between guest and device, each event as the raw verb that
// would do it.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "harness/host/guest_memory.h"

namespace farside::scenario {

// For one thread, like the session it belongs to.
class EventLog {
 public:
  // Events that a failure shows.
  static constexpr size_t kRecent = 12;

  // With `flat` the guest's events are kept, all of them and whole, for --expand.
  explicit EventLog(bool flat) : flat_(flat) {}

  bool flat() const { return flat_; }
  // Whether events are part of a driver's work, and so of the flat list. A raw verb's are not: its
  // own step is.
  void set_driving(bool driving) { driving_ = driving; }
  bool keeps_events() const { return flat_ && driving_; }

  // An event of the guest's. `params` are those of `verb`, and "device".
  void AddGuestEvent(std::string_view verb, nlohmann::json params);
  // An event of the device's.
  void AddDeviceEvent(std::string text);
  // A step that is a flat event as it stands.
  void AddStep(nlohmann::json step);

  // Bytes for `params`: all of them where they are kept, else their beginning.
  std::string Hex(ConstBytes bytes) const;

  const std::deque<std::string>& recent() const { return recent_; }
  const std::vector<nlohmann::json>& steps() const { return steps_; }

 private:
  void AddRecent(std::string text);

  const bool flat_;
  bool driving_ = false;
  std::deque<std::string> recent_;
  std::vector<nlohmann::json> steps_;
};

// Guest memory as devices reach it by message: notes what they do. With a flat log it finds out
// what the guest's driver wrote, too, by comparing memory with how it was.
class TappedMemory final : public DmaHandler {
 public:
  TappedMemory(GuestMemory& memory, EventLog& log);

  int OnDmaRead(uint64_t iova, Bytes out) override;
  int OnDmaWrite(uint64_t iova, ConstBytes in) override;

  // Adds what happened to the memory since the last call: a memory.check that waits for the last
  // write of a device, and a memory.write for each that was not a device's doing.
  void LogChanges();
  // Forgets it instead.
  void SkipChanges();

 private:
  struct Shadow {
    uint64_t iova;
    std::vector<std::byte> bytes;
  };
  template <typename Visit>
  void ForEachChange(const Visit& visit);

  GuestMemory& memory_;
  EventLog& log_;
  std::vector<Shadow> shadows_;  // Of every range; empty unless the log is flat.
  uint64_t last_iova_ = 0;       // Of the last write of a device that was not logged yet.
  std::vector<std::byte> last_write_;
};

}  // namespace farside::scenario
