#include "base/epoll_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/check.h"

namespace farside {
namespace {

epoll_event MakeEvent(int fd, uint32_t events, uint32_t generation) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
  return event;
}

}  // namespace

Result<std::unique_ptr<EpollLoop>> EpollLoop::Create(const Clock& clock) {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return FailWith(errno, "cannot make an epoll instance: {}", ErrnoText(errno));
  auto wake = MakeEventfd();
  if (!wake) return tl::unexpected(wake.error());
  epoll_event event = MakeEvent(wake->get(), EPOLLIN, 0);
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake->get(), &event) != 0) {
    return FailWith(errno, "cannot watch an eventfd: {}", ErrnoText(errno));
  }
  return std::unique_ptr<EpollLoop>(new EpollLoop(clock, std::move(epoll), std::move(*wake)));
}

EpollLoop::EpollLoop(const Clock& clock, UniqueFd epoll, UniqueFd wake)
    : Loop(clock), epoll_(std::move(epoll)), wake_(std::move(wake)) {}

EpollLoop::~EpollLoop() = default;

void EpollLoop::Wake() { SignalEventfd(wake_.get()); }

Result<void> EpollLoop::Watch(int fd, uint32_t events, FdWatcher& watcher) {
  const auto index = static_cast<size_t>(fd);
  if (watched_.size() <= index) watched_.resize(index + 1);
  Watched& slot = watched_[index];
  CHECK(slot.watcher == nullptr);
  epoll_event event = MakeEvent(fd, events, ++slot.generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return FailWith(errno, "cannot wait for fd {}: {}", fd, ErrnoText(errno));
  }
  slot.watcher = &watcher;
  return {};
}

void EpollLoop::Rewatch(int fd, uint32_t events, FdWatcher& watcher) {
  Watched& slot = watched_[static_cast<size_t>(fd)];
  CHECK(slot.watcher == &watcher);
  epoll_event event = MakeEvent(fd, events, slot.generation);
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0);
}

void EpollLoop::Unwatch(int fd) {
  Watched& slot = watched_[static_cast<size_t>(fd)];
  CHECK(slot.watcher != nullptr);
  CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) == 0);
  slot.watcher = nullptr;
}

void EpollLoop::TellWaitObservers() {
  for (WaitObserver* observer : wait_observers_) observer->BeforeWait();
}

bool EpollLoop::Dispatch(int timeout_ms) {
  std::array<epoll_event, 64> events;
  const int count =
      epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (count <= 0) {
    CHECK(count == 0 || errno == EINTR);
    return false;
  }
  const FramePool::Scope scope(frames());
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    const auto fd = static_cast<uint32_t>(event.data.u64);
    if (static_cast<int>(fd) == wake_.get()) {
      DrainEventfd(wake_.get());
      continue;
    }
    const Watched slot = watched_[fd];
    // A watcher called earlier in this round may have ended this watch, and begun another.
    if (slot.watcher == nullptr || slot.generation != event.data.u64 >> 32) continue;
    slot.watcher->OnReady(event.events);
  }
  return true;
}

int EpollLoop::WaitTime() const {
  const auto deadline = NextDeadline();
  if (!deadline) return -1;
  const uint64_t now = clock().now_ns();
  if (*deadline <= now) return 0;
  // Rounded up: a timer never fires early, and waiting 0 ms for its last fraction would spin.
  return static_cast<int>(std::min<uint64_t>((*deadline - now + 999'999) / 1'000'000, 60'000));
}

void EpollLoop::Run() {
  stopped_ = false;
  while (!stopped_) {
    FireTimers();
    const bool more = RunReady(kQuantum);
    if (stopped_) return;
    TellWaitObservers();
    int timeout_ms = more || ready() ? 0 : WaitTime();
    if (spin_ns_ != 0 && timeout_ms != 0) {
      if (clock().now_ns() - last_event_ns_ < spin_ns_) timeout_ms = 0;
      if (Dispatch(timeout_ms)) last_event_ns_ = clock().now_ns();
    } else {
      Dispatch(timeout_ms);
    }
  }
}

void EpollLoop::RunOnce(int timeout_ms) {
  FireTimers();
  const bool more = RunReady(kQuantum);
  TellWaitObservers();
  Dispatch(more ? 0 : timeout_ms);
  FireTimers();
  RunReady(kQuantum);
}

Result<void> FdWatch::Start(EpollLoop& loop, int fd, uint32_t events, FdWatcher& watcher) {
  Stop();
  if (auto watched = loop.Watch(fd, events, watcher); !watched) return watched;
  loop_ = &loop;
  watcher_ = &watcher;
  fd_ = fd;
  events_ = events;
  return {};
}

void FdWatch::SetEvents(uint32_t events) {
  CHECK(loop_ != nullptr);
  if (std::exchange(events_, events) != events) loop_->Rewatch(fd_, events, *watcher_);
}

void FdWatch::Stop() {
  if (loop_ != nullptr) std::exchange(loop_, nullptr)->Unwatch(fd_);
}

}  // namespace farside
