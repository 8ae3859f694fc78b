// FileEngine: how the node `file` has the kernel work on its file without blocking the loop.
#pragma once

#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/loop.h"

namespace farside::block {

// One operation of the kernel on the file.
struct FileOperation {
  enum class Kind : uint8_t {
    kRead,      // preadv(iov, offset)
    kWrite,     // pwritev2(iov, offset, flags): RWF_*
    kSync,      // fdatasync()
    kAllocate,  // fallocate(flags, offset, size): FALLOC_FL_*
  };

  Kind kind;
  int flags = 0;
  uint64_t offset = 0;
  uint64_t size = 0;
  std::span<const iovec> iov = {};  // At most IOV_MAX of them.
};

class FileEngine {
 public:
  // An operation from its submission to its result. It lives in the frame of the task that awaits
  // it.
  struct Pending {
    FileOperation operation;
    Completion<int> done;
    Pending* next = nullptr;  // In an engine's queue.
  };

  class Awaiter {
   public:
    Awaiter(FileEngine& engine, const FileOperation& operation)
        : engine_(engine), pending_{operation, Completion<int>(engine.loop_)} {}

    bool await_ready() const noexcept { return false; }
    // The waiter is set before the operation begins: a thread may complete it at once.
    void await_suspend(std::coroutine_handle<> waiter) {
      pending_.done.await_suspend(waiter);
      engine_.Submit(pending_);
    }
    int await_resume() { return pending_.done.await_resume(); }

   private:
    FileEngine& engine_;
    Pending pending_;
  };

  FileEngine(const FileEngine&) = delete;
  FileEngine& operator=(const FileEngine&) = delete;
  // Nothing is pending.
  virtual ~FileEngine() = default;

  // co_await engine.Run(operation) gives the bytes transferred, which may be fewer than asked for,
  // or a negative errno. There may be any number at a time; what the kernel has no room for waits.
  Awaiter Run(const FileOperation& operation) { return Awaiter(*this, operation); }

 protected:
  explicit FileEngine(Loop& loop) : loop_(loop) {}

  // Begins an operation; its `done` is set later, on the loop or from a thread.
  virtual void Submit(Pending& pending) = 0;

  // Operations in order of arrival.
  class Queue {
   public:
    bool empty() const { return head_ == nullptr; }
    void Push(Pending& pending) {
      *tail_ = &pending;
      tail_ = &pending.next;
    }
    Pending& Pop() {
      Pending& first = *head_;
      head_ = first.next;
      if (head_ == nullptr) tail_ = &head_;
      return first;
    }

   private:
    Pending* head_ = nullptr;
    Pending** tail_ = &head_;
  };

  Loop& loop_;
};

// Makes an engine for `fd`, which stays the caller's and outlives the engine.
using FileEngineFactory =
    std::function<Result<std::unique_ptr<FileEngine>>(int fd, EpollLoop& loop)>;

}  // namespace farside::block
