#include "devices/server/sigbus.h"

#include <signal.h>
#include <sys/mman.h>

#include <cerrno>

namespace farside {
namespace {

// A thread inside the lock never touches guarded memory, so the handler may wait for it.
std::atomic_flag list_lock = ATOMIC_FLAG_INIT;
GuardedRange* list_head = nullptr;

class ListLock {
 public:
  ListLock() {
    while (list_lock.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~ListLock() { list_lock.clear(std::memory_order_release); }
};

}  // namespace

struct SigbusHandler {
  // Async-signal-safe: a list walk and mmap.
  static bool Replace(void* address) {
    const ListLock lock;
    const auto* fault = static_cast<std::byte*>(address);
    for (GuardedRange* range = list_head; range != nullptr; range = range->next_) {
      if (fault < range->data_ || fault >= range->data_ + range->size_) continue;
      range->dead_.store(true, std::memory_order_relaxed);
      return mmap(range->data_, range->size_, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
    }
    return false;
  }

  static void Handle(int, siginfo_t* info, void*) {
    const int saved = errno;
    if (!Replace(info->si_addr)) signal(SIGBUS, SIG_DFL);  // The access faults again and ends us.
    errno = saved;
  }
};

GuardedRange::GuardedRange(std::byte* data, size_t size) : data_(data), size_(size) {
  const ListLock lock;
  next_ = list_head;
  if (next_ != nullptr) next_->previous_ = this;
  list_head = this;
}

GuardedRange::~GuardedRange() {
  const ListLock lock;
  (previous_ != nullptr ? previous_->next_ : list_head) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

Result<void> InstallSigbusHandler() {
  struct sigaction action {};
  action.sa_sigaction = SigbusHandler::Handle;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGBUS, &action, nullptr) != 0) {
    return FailWith(errno, "cannot install a SIGBUS handler: {}", ErrnoText(errno));
  }
  return {};
}

}  // namespace farside
