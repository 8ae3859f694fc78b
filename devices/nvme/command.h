// A command in flight, and the fixed number of places for them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "devices/core/dma_space.h"
#include "devices/nvme/commands.h"

namespace farside::nvme {

// How a command ended: what its completion entry will say.
struct Outcome {
  Status status = Status::kSuccess;
  uint32_t dw0 = 0;
};

// Its task holds a reference to it from the fetch until the completion entry is written. All that
// is architectural is here, none of it in a coroutine frame: a saved command starts afresh from its
// SQE, or, once its outcome is decided, writes the same entry to the same place again.
struct Command {
  enum class State : uint8_t { kFree, kExecuting, kPosting };

  State state = State::kFree;
  // The controller was reset or died: the task ends without touching anything of the controller's.
  // Checked after every await.
  bool cancelled = false;
  uint16_t sqid = 0;
  uint64_t sequence = 0;  // Of its submission queue; see SubmissionQueue::fetched.
  uint64_t order = 0;     // Of taking, over all queues.
  uint64_t turn = 0;      // Of its queue's commands that are executed: from 1 on. Not saved.
  Sqe sqe;
  // kPosting only.
  Cqe cqe;
  uint32_t cq_index = 0;

  // Of the transfer. Kept between commands for their memory.
  std::vector<DmaSegment> segments;
  std::vector<uint64_t> prps;
};

// Bounds what is in flight. A place is promised before an entry is fetched and taken when it has
// arrived.
class CommandPool {
 public:
  explicit CommandPool(uint32_t count) : commands_(count), available_(count) {}
  CommandPool(const CommandPool&) = delete;
  CommandPool& operator=(const CommandPool&) = delete;

  uint32_t available() const { return available_; }
  uint32_t in_use() const { return in_use_; }

  void Reserve(uint32_t count) {
    CHECK(count <= available_);
    available_ -= count;
  }
  void Unreserve(uint32_t count) { available_ += count; }

  // Uses up a reservation. `order` is the command's.
  Command& Take(uint64_t order) {
    for (Command& command : commands_) {
      if (command.state != Command::State::kFree) continue;
      command.state = Command::State::kExecuting;
      command.cancelled = false;
      command.order = order;
      ++in_use_;
      return command;
    }
    CheckFailed(__FILE__, __LINE__, "a command was taken without a reservation");
  }
  void Release(Command& command) {
    command.state = Command::State::kFree;
    ++available_;
    --in_use_;
  }
  void CancelAll() {
    for (Command& command : commands_) command.cancelled = true;
  }

  const std::vector<Command>& commands() const { return commands_; }

 private:
  std::vector<Command> commands_;
  uint32_t available_;
  uint32_t in_use_ = 0;
};

}  // namespace farside::nvme
