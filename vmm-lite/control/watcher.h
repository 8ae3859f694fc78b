// Watcher: calls a member function of its owner when a descriptor is ready.
#pragma once

#include <sys/epoll.h>

#include "base/epoll_loop.h"

namespace farside::vmm {

// Behind what it watches in its owner: it stops first.
template <typename Owner>
class Watcher final : public FdWatcher {
 public:
  Watcher(Owner& owner, void (Owner::*call)()) : owner_(owner), call_(call) {}
  Result<void> Start(EpollLoop& loop, int fd) { return watch_.Start(loop, fd, EPOLLIN, *this); }
  void Stop() { watch_.Stop(); }

 private:
  void OnReady(uint32_t) override { (owner_.*call_)(); }

  Owner& owner_;
  void (Owner::*const call_)();
  FdWatch watch_;
};

}  // namespace farside::vmm
