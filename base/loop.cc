#include "base/loop.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace farside {

Loop::~Loop() { CHECK(timers_.empty()); }

void Loop::Post(std::coroutine_handle<> task) {
  const size_t size = ready_.size();
  if (ready_count_ == size) {
    std::vector<std::coroutine_handle<>> larger(size * 2);
    for (size_t i = 0; i < size; ++i) larger[i] = ready_[(ready_head_ + i) % size];
    ready_ = std::move(larger);
    ready_head_ = 0;
  }
  ready_[(ready_head_ + ready_count_) % ready_.size()] = task;
  ++ready_count_;
}

void Loop::PostFromThread(std::coroutine_handle<> task) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(task);
    has_posted_.store(true, std::memory_order_release);
  }
  Wake();
}

void Loop::TakePosted() {
  if (!has_posted_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(posted_mutex_);
  for (const auto task : posted_) Post(task);
  posted_.clear();
  has_posted_.store(false, std::memory_order_relaxed);
}

std::coroutine_handle<> Loop::PopReady() {
  const size_t mask = ready_.size() - 1;
  if (shuffle_ && ready_count_ > 1) {
    const size_t pick = (ready_head_ + shuffle_->Below(ready_count_)) & mask;
    std::swap(ready_[ready_head_], ready_[pick]);
  }
  const auto task = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) & mask;
  --ready_count_;
  return task;
}

bool Loop::RunReady(size_t quantum) {
  CHECK(!running_);
  TakePosted();
  if (ready_count_ == 0) return false;
  running_ = true;
  const FramePool::Scope scope(frames_);
  while (ready_count_ != 0 && quantum-- != 0) {
    ++resumptions_;
    PopReady().resume();
  }
  running_ = false;
  return ready_count_ != 0;
}

bool Loop::RunUntilIdle(size_t limit) {
  constexpr size_t kStep = 64;
  for (size_t done = 0; done < limit; done += kStep) {
    FireTimers();
    if (RunReady(kStep)) continue;
    const auto deadline = NextDeadline();
    if (!deadline || *deadline > clock_.now_ns()) return true;
  }
  return false;
}

void Loop::FireTimers() {
  if (timers_.empty()) return;
  const uint64_t now = clock_.now_ns();
  const FramePool::Scope scope(frames_);
  // A timer that fires may arm or disarm others: look afresh each time, but fire only those that
  // were due when we came.
  for (size_t bound = timers_.size(); bound != 0; --bound) {
    const auto due = std::min_element(
        timers_.begin(), timers_.end(),
        [](const Timer* a, const Timer* b) { return a->deadline_ns_ < b->deadline_ns_; });
    if (due == timers_.end() || (*due)->deadline_ns_ > now) return;
    Timer* timer = *due;
    timer->Disarm();
    timer->fire_();
  }
}

std::optional<uint64_t> Loop::NextDeadline() const {
  std::optional<uint64_t> next;
  for (const Timer* timer : timers_) {
    next = std::min(next.value_or(UINT64_MAX), timer->deadline_ns_);
  }
  return next;
}

void Timer::Arm(uint64_t deadline_ns) {
  deadline_ns_ = deadline_ns;
  if (!std::exchange(armed_, true)) loop_.timers_.push_back(this);
}

void Timer::Disarm() {
  if (std::exchange(armed_, false)) std::erase(loop_.timers_, this);
}

void Wakeup::NotifyAll() {
  Waiter* waiter = std::exchange(head_, nullptr);
  tail_ = &head_;
  while (waiter != nullptr) {
    Waiter* next = waiter->next_;
    loop_.Post(waiter->task_);
    waiter = next;
  }
}

}  // namespace farside
