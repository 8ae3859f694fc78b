// Recorder: a wire tap. It listens where clients expect the server, connects to the server for each
// of them, and records what passes.
#pragma once

#include <memory>
#include <string>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "harness/record/recording.h"
#include "harness/record/session.h"

namespace farside::record {

struct RecorderOptions {
  std::string listen;   // Where clients connect; a socket file of nobody's is replaced.
  std::string connect;  // Where the server listens, when a client comes.
  std::string id;       // Of the device, in log lines.
  DmaMode dma = DmaMode::kMessage;
};

// One client at a time, as vfio-user has it; another one meanwhile is refused. Where the server
// cannot be reached the client is refused with a sentence on standard error.
class Recorder final : private FdWatcher {
 public:
  // Listens from here on. `recording` outlives the recorder.
  static Result<std::unique_ptr<Recorder>> Create(EpollLoop& loop, Recording& recording,
                                                  RecorderOptions options);
  // Ends the session, if there is one. From the loop's top level, or after it.
  ~Recorder() override;

 private:
  Recorder(EpollLoop& loop, Recording& recording, RecorderOptions options, UniqueFd socket);
  void OnReady(uint32_t events) override;
  Result<void> Begin(UniqueFd client);

  // Where a client can't be accepted for want of descriptors, it is tried again after this.
  static constexpr uint64_t kRetryNs = 1'000'000'000;

  EpollLoop& loop_;
  Recording& recording_;
  const RecorderOptions options_;
  UniqueFd socket_;
  FdWatch watch_;
  std::unique_ptr<Session> session_;
  Timer reap_;
  Timer retry_;
};

}  // namespace farside::record
