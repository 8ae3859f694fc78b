// Loop: what runs tasks and timers on one thread. Always an argument, never a singleton.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/frame_pool.h"
#include "base/random.h"

namespace farside {

class Timer;

// The ready queue and the timers. As it stands it is the loop of simulation, tests and fuzzing: its
// owner runs it by hand and moves its clock. EpollLoop adds file descriptors and waiting.
class Loop {
 public:
  explicit Loop(const Clock& clock) : clock_(clock) {}
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  virtual ~Loop();

  const Clock& clock() const { return clock_; }
  FramePool& frames() { return frames_; }

  // Resumes `task` later, from the loop's top level, in the order of posting.
  void Post(std::coroutine_handle<> task);

  // The same from any thread; the loop is woken.
  void PostFromThread(std::coroutine_handle<> task);

  // Resumes up to `quantum` ready tasks. True if more are ready. Never call it inside a task.
  bool RunReady(size_t quantum);

  // Resumes ready tasks and fires due timers until none is left or `limit` resumptions were made.
  // True if it became idle.
  bool RunUntilIdle(size_t limit = 1'000'000);

  // Tasks resumed since the loop began: where in the work of its tasks a loop is.
  uint64_t resumptions() const { return resumptions_; }

  // Fires the timers that are due.
  void FireTimers();

  // When the next timer is due, on this loop's clock.
  std::optional<uint64_t> NextDeadline() const;

  // From now on picks ready tasks in an order drawn from `seed`: for tests of what must not depend
  // on the order.
  void Shuffle(uint64_t seed) { shuffle_.emplace(seed); }

 protected:
  virtual void Wake() {}
  // Moves what other threads posted to the ready queue.
  void TakePosted();
  bool ready() const { return ready_count_ != 0; }

 private:
  friend Timer;
  std::coroutine_handle<> PopReady();

  const Clock& clock_;
  FramePool frames_;
  // A ring: ready_count_ handles from ready_head_ on. Its size is a power of two.
  std::vector<std::coroutine_handle<>> ready_ = std::vector<std::coroutine_handle<>>(64);
  size_t ready_head_ = 0;
  size_t ready_count_ = 0;
  bool running_ = false;
  uint64_t resumptions_ = 0;
  std::vector<Timer*> timers_;  // Armed ones, in no order: there are few.
  std::optional<Random> shuffle_;

  std::mutex posted_mutex_;
  std::vector<std::coroutine_handle<>> posted_;
  std::atomic<bool> has_posted_ = false;
};

// Calls `fire` once, from the loop's top level, when its deadline has come.
class Timer {
 public:
  Timer(Loop& loop, std::function<void()> fire) : loop_(loop), fire_(std::move(fire)) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { Disarm(); }

  // Replaces an earlier deadline. `deadline_ns` is on the loop's clock.
  void Arm(uint64_t deadline_ns);
  void Disarm();
  bool armed() const { return armed_; }

 private:
  friend Loop;
  Loop& loop_;
  std::function<void()> fire_;
  uint64_t deadline_ns_ = 0;
  bool armed_ = false;
};

// A place where tasks wait until somebody says that something has changed. Who wakes looks again:
// while (!condition) co_await wakeup.Wait();
class Wakeup {
 public:
  explicit Wakeup(Loop& loop) : loop_(loop) {}
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;
  ~Wakeup() { CHECK(head_ == nullptr); }

  struct Waiter {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) noexcept {
      task_ = task;
      next_ = nullptr;
      *wakeup_.tail_ = this;
      wakeup_.tail_ = &next_;
    }
    void await_resume() const noexcept {}

    Wakeup& wakeup_;
    std::coroutine_handle<> task_;
    Waiter* next_;
  };

  Waiter Wait() { return Waiter{*this, nullptr, nullptr}; }
  void NotifyAll();
  bool has_waiters() const { return head_ != nullptr; }

 private:
  Loop& loop_;
  Waiter* head_ = nullptr;
  Waiter** tail_ = &head_;
};

// A value that is set once and awaited by one task. Lives in the frame of the task that awaits it.
template <typename T>
class Completion {
 public:
  explicit Completion(Loop& loop) : loop_(loop) {}
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  void Set(T value) {
    value_.emplace(std::move(value));
    if (waiter_) loop_.Post(waiter_);
  }
  // The same from any thread, after which `this` may be gone. The value is awaited already, or the
  // caller sees to it that it will be before the loop runs.
  void SetFromThread(T value) {
    value_.emplace(std::move(value));
    loop_.PostFromThread(waiter_);
  }

  bool await_ready() const noexcept { return value_.has_value(); }
  void await_suspend(std::coroutine_handle<> waiter) noexcept { waiter_ = waiter; }
  T await_resume() { return std::move(*value_); }

 private:
  Loop& loop_;
  std::coroutine_handle<> waiter_;
  std::optional<T> value_;
};

}  // namespace farside
