// Replayer: gives a recorded guest's events to a device, and compares what the device does.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "harness/replay/memory_image.h"
#include "harness/replay/target.h"

namespace farside::replay {

// What is compared. Each guest event waits for the outputs that preceded it in the recording.
enum class Level {
  kExact,   // All outputs, in their one order, reads included. In process.
  kMemory,  // Replies, interrupts per vector, and what the device wrote to memory.
  kGuest,   // Replies.
};

struct ReplayOptions {
  Level level = Level::kMemory;
  // Whose events are replayed: its number in the trace's first block.
  uint32_t device = 0;
  // Recorded time is divided by this; 0 is as fast as it goes.
  double speed = 0;
  // How long an output may be missing.
  uint64_t timeout_ns = 2'000'000'000;
  // Called now and then with the events done.
  std::function<void(uint32_t)> on_progress;
};

struct Divergence {
  uint32_t event = 0;    // Number in the trace.
  uint64_t time_ns = 0;  // In the trace.
  std::string what;      // "the data of the reply".
  std::string expected;
  std::string got;
};

struct ReplayResult {
  uint64_t events = 0;
  uint64_t guest_events = 0;
  uint64_t dma_bytes = 0;
  uint64_t interrupts = 0;
  uint64_t polls = 0;  // Runs of reads that found the device earlier or later in its work.
  uint64_t elapsed_ns = 0;
  uint64_t recorded_ns = 0;
  bool truncated = false;  // The trace ends early; what there is was replayed.
  std::optional<Divergence> divergence;
};

// Replays the trace at `path` against `target`. An Error when that can't be done; a device that
// behaves otherwise is a divergence.
Result<ReplayResult> Replay(const std::string& path, Target& target, const ReplayOptions& options);

// What the trace at `path` says around event `number`: a line each, the event's own marked.
Result<std::vector<std::string>> DescribeAround(const std::string& path, uint32_t number);

}  // namespace farside::replay
