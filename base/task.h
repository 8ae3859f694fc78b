// Task: a coroutine that devices and block nodes write their work as (DESIGN section 4).
//
// A task starts when it is awaited and resumes its awaiter itself when it ends, so the stack is as
// deep as the awaits are nested and an await that can finish at once never suspends. A task is
// never destroyed before it has finished: cancelling means that its waits return early and say so.
// Buffers over 256 bytes are not locals of a task, and a capturing lambda is never one.
#pragma once

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/frame_pool.h"

namespace farside {

template <typename T = void>
class Task;

namespace internal {

struct PromiseBase {
  struct Final {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    void await_suspend(std::coroutine_handle<Promise> self) noexcept {
      if (const auto awaiting = self.promise().waiter) awaiting.resume();
    }
    void await_resume() noexcept {}
  };

  static void* operator new(size_t size) { return FramePool::Allocate(size); }
  static void operator delete(void* frame) noexcept { FramePool::Free(frame); }

  std::suspend_always initial_suspend() noexcept { return {}; }
  Final final_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }

  std::coroutine_handle<> waiter;
};

template <typename T>
struct Promise : PromiseBase {
  Task<T> get_return_object();
  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T Take() { return std::move(*value); }

  std::optional<T> value;
};

template <>
struct Promise<void> : PromiseBase {
  Task<void> get_return_object();
  void return_void() noexcept {}
  void Take() noexcept {}
};

}  // namespace internal

template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = internal::Promise<T>;

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (!handle_) return;
    CHECK(!started_ || handle_.done());
    handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  // Runs the child first and suspends only if the child did.
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    started_ = true;
    handle_.resume();
    if (handle_.done()) return false;
    handle_.promise().waiter = waiter;
    return true;
  }
  T await_resume() { return handle_.promise().Take(); }

 private:
  friend promise_type;
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}

  std::coroutine_handle<promise_type> handle_;
  bool started_ = false;
};

namespace internal {

template <typename T>
Task<T> Promise<T>::get_return_object() {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}

inline Task<void> Promise<void>::get_return_object() {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

}  // namespace internal

// Owns tasks that nobody awaits. They end by themselves; the scope only counts them, and must not
// be destroyed before all have ended.
class TaskScope {
 public:
  TaskScope() = default;
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;
  ~TaskScope() { CHECK(active_ == 0); }

  // Runs `task` until it first suspends; it goes on whenever what it awaits happens.
  void Spawn(Task<void> task) { Run(std::move(task), *this); }

  size_t active() const { return active_; }

 private:
  // A coroutine that frees itself when it ends.
  struct Root {
    struct promise_type {
      static void* operator new(size_t size) { return FramePool::Allocate(size); }
      static void operator delete(void* frame) noexcept { FramePool::Free(frame); }
      Root get_return_object() noexcept { return {}; }
      std::suspend_never initial_suspend() noexcept { return {}; }
      std::suspend_never final_suspend() noexcept { return {}; }
      void unhandled_exception() noexcept { std::terminate(); }
      void return_void() noexcept {}
    };
  };

  static Root Run(Task<void> task, TaskScope& scope) {
    ++scope.active_;
    co_await task;
    --scope.active_;
  }

  size_t active_ = 0;
};

}  // namespace farside
