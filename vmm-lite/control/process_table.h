// The device processes that a control process has started.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "vmm-lite/control/options.h"

namespace farside::vmm {

// How a child ended: its status, or the signal that killed it.
struct ChildEnd {
  bool signalled = false;
  int code = 0;
  std::string Text() const;  // "exited with status 1"
};

// A program that was started in a session of its own, so that no signal meant for control reaches
// it and it outlives control. It inherits the standard error, which is its standard output too,
// and the descriptors it was given under the same numbers; nothing else.
struct StartedChild {
  static Result<StartedChild> Start(const std::string& path, const std::vector<std::string>& argv,
                                    const std::vector<int>& inherit);
  // Takes the status of a child that has ended.
  ChildEnd Reap();

  pid_t pid = -1;
  UniqueFd pidfd;  // Readable when it has ended.
};

// A channel that a process is started with.
struct ChannelWish {
  std::string rid;  // The device in that process.
  Protocol protocol = Protocol::kVfioUser;
};

class ProcessTable {
 public:
  // A process has ended: `id`, pid and how.
  using OnEnd = std::function<void(const std::string& id, pid_t pid, const ChildEnd& end)>;

  ProcessTable(EpollLoop& loop, OnEnd on_end);
  ~ProcessTable();

  // Starts a process, with one channel for each of `wishes`. An id can be used again when its
  // process has ended.
  Result<pid_t> Add(ProcessOptions options, std::vector<ChannelWish> wishes);

  // Our end of the channel to device `wish.rid` of process `id`. A process that has ended is
  // started again first, with the channels it had.
  Result<UniqueFd> TakeChannel(const std::string& id, const ChannelWish& wish);

  // [{"id", "pid", "running"}...]
  nlohmann::json Query() const;

 private:
  struct Process;
  Result<void> Start(Process& process);
  Process* Find(const std::string& id);

  EpollLoop& loop_;
  OnEnd on_end_;
  std::vector<std::unique_ptr<Process>> processes_;
};

}  // namespace farside::vmm
