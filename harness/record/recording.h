// Recording: the trace that a wire tap writes, and what it counts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/trace/event.h"
#include "protocol/trace/trace_writer.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::record {

struct Counts {
  uint64_t clients = 0;
  uint64_t messages = 0;  // Both ways, replies too; without interrupts.
  uint64_t interrupts = 0;
  uint64_t dma_read_bytes = 0;  // By message.
  uint64_t dma_written_bytes = 0;
};

// Events are written in the order of the calls, with the time that has passed since Create. What
// was written is in the file after a second at the latest, even if farside is killed.
//
// An error of the file stops the loop; Finish returns it.
class Recording {
 public:
  static constexpr uint64_t kFlushNs = 1'000'000'000;

  // Makes the file `path`, or empties it.
  static Result<std::unique_ptr<Recording>> Create(const std::string& path,
                                                   const trace::TraceInfo& info, EpollLoop& loop);

  void Attach();
  void Detach();
  // A message and, if there are any, the fds that came with it.
  void Message(trace::Direction direction, const vfio_user::Header& header, ConstBytes payload,
               std::span<const UniqueFd> fds = {});
  void Interrupt(const vfio_user::Interrupt& interrupt);
  // Bytes that the device moved by message.
  void CountDma(bool read, uint64_t size);

  // Ends the file with its index.
  Result<void> Finish();

  const Counts& counts() const { return counts_; }
  uint64_t elapsed_ns() const { return loop_.clock().now_ns() - start_ns_; }

 private:
  Recording(std::unique_ptr<trace::TraceWriter> writer, EpollLoop& loop);
  void Write(trace::EventKind kind, trace::Direction direction);
  void Keep(const Result<void>& written);

  std::unique_ptr<trace::TraceWriter> writer_;
  EpollLoop& loop_;
  const uint64_t start_ns_;
  Timer flush_;
  trace::Event event_;  // Kept for its memory.
  Counts counts_;
  std::optional<Error> error_;
};

// What can be told of an fd.
trace::FdSpec DescribeFd(int fd);

}  // namespace farside::record
