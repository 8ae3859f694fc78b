// The loop of a process: epoll, with an optional spin before it blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/loop.h"

namespace farside {

// Told when a file descriptor is ready. Watchers outlive their watch.
class FdWatcher {
 public:
  virtual ~FdWatcher() = default;
  // `events` is a set of EPOLL*. Called from the loop's top level.
  virtual void OnReady(uint32_t events) = 0;
};

// Told before the loop waits, when all that ran may have changed what is to be done at which time.
class WaitObserver {
 public:
  virtual ~WaitObserver() = default;
  // The last moment to arm a timer for this wait.
  virtual void BeforeWait() = 0;
};

class EpollLoop final : public Loop {
 public:
  // Between two looks at the file descriptors the loop resumes at most this many tasks.
  static constexpr size_t kQuantum = 64;

  static Result<std::unique_ptr<EpollLoop>> Create(const Clock& clock);
  ~EpollLoop() override;

  // Watches `fd`, which stays the caller's, for the EPOLL* set `events`, level-triggered.
  Result<void> Watch(int fd, uint32_t events, FdWatcher& watcher);
  void Rewatch(int fd, uint32_t events, FdWatcher& watcher);
  // From here on `watcher` is not called for `fd`, not even for events already collected.
  void Unwatch(int fd);

  // Tells `observer` before each wait, and before each look without waiting, until it is removed.
  void AddWaitObserver(WaitObserver& observer) { wait_observers_.push_back(&observer); }
  void RemoveWaitObserver(WaitObserver& observer) { std::erase(wait_observers_, &observer); }

  // Before blocking, looks at the file descriptors again and again for this long after the last
  // event; 0 (the default) blocks at once. Costs a core: for both ends pinned and idle cores.
  void set_spin_ns(uint64_t spin_ns) { spin_ns_ = spin_ns; }

  // Runs until Stop().
  void Run();
  // Runs until nothing is ready, without waiting, or waits up to `timeout_ms` for something to be.
  void RunOnce(int timeout_ms);
  void Stop() { stopped_ = true; }

 private:
  EpollLoop(const Clock& clock, UniqueFd epoll, UniqueFd wake);
  void Wake() override;
  void TellWaitObservers();
  int WaitTime() const;
  bool Dispatch(int timeout_ms);

  struct Watched {
    FdWatcher* watcher = nullptr;
    uint32_t generation = 0;
  };

  UniqueFd epoll_;
  UniqueFd wake_;
  std::vector<Watched> watched_;  // By file descriptor.
  std::vector<WaitObserver*> wait_observers_;
  uint64_t spin_ns_ = 0;
  uint64_t last_event_ns_ = 0;
  bool stopped_ = false;
};

// A watch that ends with its owner.
class FdWatch {
 public:
  FdWatch() = default;
  FdWatch(const FdWatch&) = delete;
  FdWatch& operator=(const FdWatch&) = delete;
  ~FdWatch() { Stop(); }

  // Arguments as for EpollLoop::Watch; ends an earlier watch.
  Result<void> Start(EpollLoop& loop, int fd, uint32_t events, FdWatcher& watcher);
  // Changes what is waited for; it must be started.
  void SetEvents(uint32_t events);
  void Stop();

 private:
  EpollLoop* loop_ = nullptr;
  FdWatcher* watcher_ = nullptr;
  int fd_ = -1;
  uint32_t events_ = 0;
};

}  // namespace farside
