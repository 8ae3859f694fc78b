// Differ: gives two devices the same events and compares what comes back, up to the first
// difference.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "harness/diff/comparator.h"
#include "harness/diff/model.h"
#include "harness/diff/side.h"

namespace farside::diff {

struct DiffOptions {
  // How long one side may lag behind the other.
  uint64_t settle_ns = 2'000'000'000;
  // How long both may leave a register undone that is awaited; then they go on as they are. What is
  // awaited in memory comes of a disk: settle_ns.
  uint64_t await_ns = 200'000'000;
};

struct Death {
  uint64_t event = 0;  // The last one that was sent; the cause is there or not long before.
  std::string side;
  std::string how;
};

struct DiffResult {
  uint64_t events = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t settles = 0;      // Quiet points: interrupts and memory were compared.
  uint64_t interrupts = 0;   // Seen on both sides.
  uint64_t unfulfilled = 0;  // Awaited in vain, by both sides.
  uint64_t restless = 0;     // Both sides were still busy when the time was over.
  uint64_t late = 0;         // Reads that were equal only when they were asked for again.
  uint64_t skipped = 0;      // Configuration space that one of the targets can't reach.
  uint64_t restarts_a = 0;
  uint64_t restarts_b = 0;
  std::vector<Death> deaths;  // The first ones.
  std::optional<Difference> difference;
};

class Differ {
 public:
  static constexpr size_t kMaxDeaths = 16;        // That are kept.
  static constexpr uint64_t kMaxRestarts = 1000;  // Then the comparison gives up.

  // All of them outlive the differ.
  Differ(const Model& model, const Lawful& lawful, Side& a, Side& b, DiffOptions options)
      : model_(model),
        lawful_(lawful),
        options_(options),
        a_(a),
        b_(b),
        comparator_(model, lawful) {}

  // Starts both devices.
  Result<void> Start();
  // Gives both the next event. False once there is a difference.
  Result<bool> Step(const Event& event);
  // Looks at both once more, and ends them in good order.
  Result<void> Finish();

  const DiffResult& result() const { return result_; }
  const Comparator& comparator() const { return comparator_; }

 private:
  struct Pending {
    uint64_t event;
    Event read;
    Side::Reading a;
    Side::Reading b;
  };
  // What both sides show at one moment.
  struct Look {
    std::optional<Difference> difference;
    bool busy = false;
  };

  Result<void> Do(const Event& event);
  Result<void> DoRead(const Event& event);
  Result<void> Begin(const Event& read);
  Result<void> Flush();
  Result<std::optional<Difference>> AskBoth(const Event& read);
  Result<void> ReadVolatile(const Event& read);
  Result<void> Await(const Event& event);
  Result<void> Settle(uint32_t rounds);
  Result<Look> LookAtBoth();
  Result<void> ReadStatus(std::vector<uint64_t>* a, std::vector<uint64_t>* b);
  std::optional<Difference> CompareInterrupts(const std::vector<uint64_t>& a,
                                              const std::vector<uint64_t>& b);
  Result<void> UnmaskInterrupts();
  Result<bool> IsFulfilled(const Event& event, bool* by_a, bool* by_b);
  Result<void> HandleDeath(const Error& error);
  Result<void> CopyMemory();
  void Diverge(uint64_t event, Difference difference);
  bool Reaches(const Event& event) const;

  const Model& model_;
  const Lawful& lawful_;
  const DiffOptions options_;
  const MonotonicClock clock_;
  Side& a_;
  Side& b_;
  Comparator comparator_;
  std::vector<Pending> pending_;
  Work owed_ = Work::kNone;      // Of the events since the last quiet point.
  uint64_t current_ = 0;         // The event's number.
  bool in_vain_ = false;         // The last Await was.
  bool memory_in_vain_ = false;  // The last one of memory was.
  uint32_t vectors_ = 0;         // Of MSI-X, on both sides.
  DiffResult result_;
};

}  // namespace farside::diff
