#include "block/file_engine_threads.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace farside::block {
namespace {

int Call(int fd, const FileOperation& operation) {
  const auto count = static_cast<int>(operation.iov.size());
  const auto offset = static_cast<off_t>(operation.offset);
  switch (operation.kind) {
    case FileOperation::Kind::kRead:
      return static_cast<int>(preadv(fd, operation.iov.data(), count, offset));
    case FileOperation::Kind::kWrite:
      return static_cast<int>(pwritev2(fd, operation.iov.data(), count, offset, operation.flags));
    case FileOperation::Kind::kSync:
      return fdatasync(fd);
    case FileOperation::Kind::kAllocate:
      return fallocate(fd, operation.flags, offset, static_cast<off_t>(operation.size));
  }
  errno = EINVAL;
  return -1;
}

class ThreadEngine final : public FileEngine {
 public:
  ThreadEngine(int fd, EpollLoop& loop) : FileEngine(loop), fd_(fd) {}
  ~ThreadEngine() override;

  Result<void> Start();

 private:
  static constexpr int kThreads = 4;

  void Submit(Pending& pending) override;
  static void* Work(void* engine);
  void WorkUntilStopped();

  const int fd_;
  std::vector<pthread_t> threads_;
  std::mutex mutex_;  // Guards what follows.
  std::condition_variable changed_;
  Queue waiting_;
  bool stopping_ = false;
};

ThreadEngine::~ThreadEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
}

Result<void> ThreadEngine::Start() {
  // The process's signals are for its loop; faults stay with the thread that makes them.
  sigset_t blocked;
  sigset_t before;
  sigfillset(&blocked);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGSYS}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  int error = 0;
  for (int i = 0; i < kThreads && error == 0; ++i) {
    pthread_t thread;
    error = pthread_create(&thread, nullptr, &Work, this);
    if (error == 0) threads_.push_back(thread);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (threads_.empty()) return FailWith(error, "cannot start a thread: {}", ErrnoText(error));
  return {};
}

void ThreadEngine::Submit(Pending& pending) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.Push(pending);
  }
  changed_.notify_one();
}

void* ThreadEngine::Work(void* engine) {
  static_cast<ThreadEngine*>(engine)->WorkUntilStopped();
  return nullptr;
}

void ThreadEngine::WorkUntilStopped() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Pending& pending = waiting_.Pop();
    lock.unlock();
    const int result = Call(fd_, pending.operation);
    pending.done.SetFromThread(result < 0 ? -errno : result);
    lock.lock();
  }
}

}  // namespace

Result<std::unique_ptr<FileEngine>> CreateThreadEngine(int fd, EpollLoop& loop) {
  auto engine = std::make_unique<ThreadEngine>(fd, loop);
  if (auto started = engine->Start(); !started) return tl::unexpected(started.error());
  return engine;
}

}  // namespace farside::block
