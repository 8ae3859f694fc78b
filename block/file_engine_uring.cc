#include "block/file_engine_uring.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/task.h"

namespace farside::block {
namespace {

constexpr uint8_t kOpcodes[] = {IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
                                IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};

// Everything that registers must do so before the ring is enabled. 0 or a negative errno.
int RestrictAndEnable(int ring_fd, int fd) {
  io_uring_restriction restrictions[std::size(kOpcodes) + 1] = {};
  size_t count = 0;
  for (const uint8_t opcode : kOpcodes) {
    restrictions[count].opcode = IORING_RESTRICTION_SQE_OP;
    restrictions[count++].sqe_op = opcode;
  }
  restrictions[count].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  restrictions[count++].sqe_flags = IOSQE_FIXED_FILE;

  if (int error =
          io_uring_register(static_cast<unsigned>(ring_fd), IORING_REGISTER_FILES, &fd, 1)) {
    return error;
  }
  // liburing's shared library has no function for these two.
  if (int error = io_uring_register(static_cast<unsigned>(ring_fd), IORING_REGISTER_RESTRICTIONS,
                                    restrictions, static_cast<unsigned>(count))) {
    return error;
  }
  return io_uring_register(static_cast<unsigned>(ring_fd), IORING_REGISTER_ENABLE_RINGS, nullptr,
                           0);
}

// What is longer ends short, as the kernel's own transfers do.
unsigned Length(const iovec& iov) {
  return static_cast<unsigned>(std::min<size_t>(iov.iov_len, 0x7fff'f000));
}

void Prepare(io_uring_sqe& sqe, const FileOperation& operation) {
  constexpr int kFile = 0;  // Its index among the registered files.
  const bool one = operation.iov.size() == 1;
  const iovec* iov = operation.iov.data();
  const auto count = static_cast<unsigned>(operation.iov.size());
  switch (operation.kind) {
    case FileOperation::Kind::kRead:
      if (one) {
        io_uring_prep_read(&sqe, kFile, iov->iov_base, Length(*iov), operation.offset);
      } else {
        io_uring_prep_readv(&sqe, kFile, iov, count, operation.offset);
      }
      break;
    case FileOperation::Kind::kWrite:
      if (one) {
        io_uring_prep_write(&sqe, kFile, iov->iov_base, Length(*iov), operation.offset);
      } else {
        io_uring_prep_writev(&sqe, kFile, iov, count, operation.offset);
      }
      sqe.rw_flags = operation.flags;
      break;
    case FileOperation::Kind::kSync:
      io_uring_prep_fsync(&sqe, kFile, IORING_FSYNC_DATASYNC);
      break;
    case FileOperation::Kind::kAllocate:
      io_uring_prep_fallocate(&sqe, kFile, operation.flags, static_cast<off_t>(operation.offset),
                              static_cast<off_t>(operation.size));
      break;
  }
  sqe.flags |= IOSQE_FIXED_FILE;
}

// Operations are submitted and reaped in rounds: all that the tasks of one turn of the loop ask for
// goes to the kernel in one call, and what it could complete at once, from the page cache, is seen
// without another.
class UringEngine final : public FileEngine, private FdWatcher {
 public:
  UringEngine(EpollLoop& loop, std::unique_ptr<RestrictedRing> ring)
      : FileEngine(loop), epoll_(loop), owner_(std::move(ring)), ring_(owner_->get()) {}
  ~UringEngine() override {
    CHECK(in_ring_ == 0 && waiting_.empty());
    if (watching_) epoll_.Unwatch(ring_.ring_fd);
  }

  // The completion queue is twice as long, so neither can be full.
  static constexpr unsigned kEntries = 256;

  Result<void> Watch() {
    auto watched = epoll_.Watch(ring_.ring_fd, EPOLLIN, *this);
    watching_ = watched.has_value();
    return watched;
  }

 private:
  void Submit(Pending& pending) override {
    waiting_.Push(pending);
    if (!std::exchange(submitting_, true)) scope_.Spawn(SubmitRounds());
  }
  void OnReady(uint32_t) override {
    Reap();
    if (room() && !std::exchange(submitting_, true)) scope_.Spawn(SubmitRounds());
  }

  // True when something waits and could go into the ring.
  bool room() const { return !waiting_.empty() && in_ring_ < kEntries; }
  Task<void> SubmitRounds();
  void FillRing();
  void Reap();

  EpollLoop& epoll_;
  std::unique_ptr<RestrictedRing> owner_;
  io_uring& ring_;
  bool watching_ = false;
  Queue waiting_;
  unsigned in_ring_ = 0;  // Prepared and not yet reaped.
  bool submitting_ = false;
  TaskScope scope_;  // At most one task: it runs while submitting_.
};

Task<void> UringEngine::SubmitRounds() {
  struct NextTurn {
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) { loop.Post(task); }
    void await_resume() const noexcept {}
    Loop& loop;
  };
  do {
    co_await NextTurn{loop_};
    FillRing();
    const int submitted = io_uring_submit(&ring_);
    // EAGAIN and EBUSY: the kernel is short of something, and what is prepared stays prepared.
    CHECK(submitted >= 0 || submitted == -EAGAIN || submitted == -EBUSY || submitted == -EINTR);
    Reap();
  } while (io_uring_sq_ready(&ring_) != 0 || room());
  submitting_ = false;
}

void UringEngine::FillRing() {
  while (room()) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    CHECK(sqe != nullptr);
    Pending& pending = waiting_.Pop();
    Prepare(*sqe, pending.operation);
    io_uring_sqe_set_data(sqe, &pending);
    ++in_ring_;
  }
}

void UringEngine::Reap() {
  unsigned head;
  unsigned count = 0;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    static_cast<Pending*>(io_uring_cqe_get_data(cqe))->done.Set(cqe->res);
    ++count;
  }
  io_uring_cq_advance(&ring_, count);
  in_ring_ -= count;
}

}  // namespace

Result<std::unique_ptr<RestrictedRing>> RestrictedRing::Create(int fd, unsigned entries) {
  io_uring ring;
  io_uring_params params{};
  params.flags = IORING_SETUP_R_DISABLED;
  if (const int error = io_uring_queue_init_params(entries, &ring, &params)) {
    return FailWith(-error, "io_uring is refused: {}", ErrnoText(-error));
  }
  std::unique_ptr<RestrictedRing> restricted(new RestrictedRing(ring));
  if (const int error = RestrictAndEnable(restricted->get().ring_fd, fd)) {
    return FailWith(-error, "io_uring cannot be restricted: {}", ErrnoText(-error));
  }
  return restricted;
}

Result<std::unique_ptr<FileEngine>> CreateUringEngine(int fd, EpollLoop& loop) {
  auto ring = RestrictedRing::Create(fd, UringEngine::kEntries);
  if (!ring) return tl::unexpected(ring.error());
  auto engine = std::make_unique<UringEngine>(loop, std::move(*ring));
  if (auto watched = engine->Watch(); !watched) return tl::unexpected(watched.error());
  return engine;
}

}  // namespace farside::block
