#include "block/file.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "block/file_engine_threads.h"
#include "block/file_lock.h"

namespace farside::block {
namespace {

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

// How often in a row an operation may be interrupted before that counts as an error.
constexpr int kMaxRetries = 100;

bool IsTransient(int error) { return error == EINTR || error == EAGAIN; }

// The source of zeroes where the file system cannot make them: 1 MiB a write of 64 KiB memory.
constexpr size_t kZeroBufferSize = 64 << 10;
alignas(4096) constexpr std::byte kZeroes[kZeroBufferSize] = {};

constexpr iovec ZeroIovec(size_t size) { return {const_cast<std::byte*>(kZeroes), size}; }

constexpr auto kZeroIovecs = [] {
  std::array<iovec, 16> all{};
  for (iovec& part : all) part = ZeroIovec(kZeroBufferSize);
  return all;
}();

// A request's memory, taken in parts as the kernel's transfers end.
class Progress {
 public:
  explicit Progress(std::span<const iovec> iov) : iov_(iov) {}

  // What is left, or a part of it.
  std::span<const iovec> Next() {
    if (used_ == 0) return iov_.first(std::min<size_t>(iov_.size(), IOV_MAX));
    rest_ = {static_cast<std::byte*>(iov_.front().iov_base) + used_, iov_.front().iov_len - used_};
    return {&rest_, 1};
  }
  void Advance(size_t count) {
    used_ += count;
    while (!iov_.empty() && used_ >= iov_.front().iov_len) {
      used_ -= iov_.front().iov_len;
      iov_ = iov_.subspan(1);
    }
  }

 private:
  std::span<const iovec> iov_;
  size_t used_ = 0;  // Bytes of iov_.front().
  iovec rest_{};
};

std::string_view OpenRemedy(int error, bool read_only) {
  switch (error) {
    case ENOENT:
      return "; check the path, or make an image there with 'qemu-img create -f raw'";
    case EACCES:
    case EPERM:
      return read_only ? "; run as a user who may read it"
                       : "; run as a user who may write it, or use read-only=on";
    case EROFS:
      return "; use read-only=on";
    case EISDIR:
      return "; name a regular file or a block device";
    case EINVAL:
      return "; if its file system cannot do direct I/O, use cache.direct=off";
    default:
      return "";
  }
}

Result<UniqueFd> OpenFd(const FileOptions& options, bool read_only) {
  const char* filename = options.filename.c_str();
  // O_NONBLOCK, so that a FIFO does not hold us up before it is seen to be one.
  const int flags = (read_only ? O_RDONLY : O_RDWR) | (options.direct ? O_DIRECT : 0) | O_CLOEXEC |
                    O_NOCTTY | O_NONBLOCK;
  UniqueFd fd(open(filename, flags));
  if (!fd) {
    return FailWith(errno, "cannot open '{}': {}{}", filename, ErrnoText(errno),
                    OpenRemedy(errno, read_only));
  }
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) {
    return FailWith(errno, "cannot look at '{}': {}", filename, ErrnoText(errno));
  }
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return FailWith(EINVAL,
                    "'{}' is a directory, a character device or the like: name a regular file or "
                    "a block device",
                    filename);
  }
  // io_uring would take it as a wish for EAGAIN.
  if (fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0) {
    return FailWith(errno, "cannot make '{}' blocking: {}", filename, ErrnoText(errno));
  }
  return fd;
}

// The smallest alignments that direct I/O on `fd` takes, found by reading: not every kernel and
// file system tells them.
Result<void> ProbeAlignment(int fd, const std::string& filename, BlockLimits& limits) {
  constexpr uint32_t kLargest = 4096;
  struct Free {
    void operator()(void* memory) const { free(memory); }
  };
  const std::unique_ptr<void, Free> memory(aligned_alloc(kLargest, 2 * kLargest));
  CHECK(memory != nullptr);
  const auto reads = [&](uint32_t memory_offset, uint32_t size) {
    return pread(fd, static_cast<std::byte*>(memory.get()) + memory_offset, size, 0) >= 0;
  };
  uint32_t request = kSectorSize;
  while (request < kLargest && !reads(0, request)) request *= 2;
  uint32_t address = kSectorSize;
  while (address < kLargest && !reads(address, kLargest)) address *= 2;
  if (!reads(0, kLargest)) {
    return FailWith(errno, "cannot read '{}' directly: {}; use cache.direct=off", filename,
                    ErrnoText(errno));
  }
  limits.request_alignment = request;
  limits.memory_alignment = address;
  return {};
}

Result<uint64_t> SizeOf(int fd, const std::string& filename, uint64_t multiple) {
  const off_t end = lseek(fd, 0, SEEK_END);
  if (end < 0) {
    return FailWith(errno, "cannot tell the size of '{}': {}", filename, ErrnoText(errno));
  }
  const auto size = static_cast<uint64_t>(end);
  if (size == 0) {
    return FailWith(EINVAL, "'{}' is empty: give it a size, as with 'truncate -s 1G'", filename);
  }
  if (size % multiple != 0) {
    return FailWith(EINVAL,
                    "'{}' has {} bytes, which is no multiple of {}: round it up with 'truncate -s "
                    "%{}'",
                    filename, size, multiple, multiple);
  }
  return size;
}

// True if holes can be made in a regular file; asked beyond its end, where there is nothing to
// lose.
bool CanPunchHoles(int fd, uint64_t size) {
  return fallocate(fd, kPunchHole, static_cast<off_t>(size), 4096) == 0;
}

Result<BlockLimits> LimitsOf(int fd, const NodeOptions& node, const FileOptions& options) {
  BlockLimits limits;
  if (options.direct) {
    if (auto probed = ProbeAlignment(fd, options.filename, limits); !probed) {
      return tl::unexpected(probed.error());
    }
  }
  if (!node.unmap || node.read_only) return limits;
  struct stat status {};
  if (fstat(fd, &status) != 0) {
    return FailWith(errno, "cannot look at '{}': {}", options.filename, ErrnoText(errno));
  }
  const auto granularity = std::bit_ceil(static_cast<uint64_t>(status.st_blksize));
  if (S_ISBLK(status.st_mode)) {
    limits.discard_granularity = granularity;
  } else if (CanPunchHoles(fd, static_cast<uint64_t>(status.st_size))) {
    limits.discard_granularity = granularity;
    limits.discard_zeroes = true;
    limits.fast_zeroes = true;
  } else {
    LogInfo(node.name, "discard=unmap has no effect: the file system of '{}' makes no holes",
            options.filename);
  }
  return limits;
}

Result<void> Lock(int fd, const NodeOptions& node, const FileOptions& options) {
  if (options.locking == FileOptions::Locking::kOff) return {};
  auto locked = LockFile(fd, options.filename, node.read_only);
  if (locked || options.locking == FileOptions::Locking::kOn || locked.error().code == EAGAIN) {
    return locked;
  }
  LogInfo(node.name, "going on without locks: {}", locked.error().message);
  return {};
}

Result<std::unique_ptr<FileEngine>> MakeEngine(int fd, const NodeOptions& node,
                                               const FileOptions& options, EpollLoop& loop) {
  if (options.aio == FileOptions::Aio::kThreads) return CreateThreadEngine(fd, loop);
  auto engine = options.make_uring(fd, loop);
  if (engine) return engine;
  if (options.aio == FileOptions::Aio::kIoUring) {
    return FailWith(engine.error().code,
                    "{}; use aio=threads, or allow it (sysctl kernel.io_uring_disabled=0, or the "
                    "container's seccomp profile)",
                    engine.error().message);
  }
  LogInfo(node.name, "{}; using threads instead", engine.error().message);
  return CreateThreadEngine(fd, loop);
}

}  // namespace

Result<std::unique_ptr<FileNode>> FileNode::Open(const NodeOptions& node,
                                                 const FileOptions& options, EpollLoop& loop) {
  auto fd = OpenFd(options, node.read_only);
  if (!fd) return tl::unexpected(fd.error());
  if (auto locked = Lock(fd->get(), node, options); !locked) return tl::unexpected(locked.error());
  const auto limits = LimitsOf(fd->get(), node, options);
  if (!limits) return tl::unexpected(limits.error());
  const uint64_t multiple = std::max<uint64_t>(kSectorSize, limits->request_alignment);
  const auto size = SizeOf(fd->get(), options.filename, multiple);
  if (!size) return tl::unexpected(size.error());
  auto engine = MakeEngine(fd->get(), node, options, loop);
  if (!engine) return tl::unexpected(engine.error());
  return std::unique_ptr<FileNode>(
      new FileNode(node, *size, *limits, std::move(*fd), std::move(*engine)));
}

FileNode::FileNode(const NodeOptions& node, uint64_t size, const BlockLimits& limits, UniqueFd fd,
                   std::unique_ptr<FileEngine> engine)
    : Node(node, size, limits), fd_(std::move(fd)), engine_(std::move(engine)) {}

FileNode::~FileNode() { UnlockFile(fd_.get()); }

int FileNode::CheckTransfer(FileOperation::Kind kind, uint64_t offset,
                            std::span<const iovec> iov) const {
  const uint64_t size = IovecSize(iov);
  const bool write = kind == FileOperation::Kind::kWrite;
  if (const int error = write ? CheckWrite(offset, size) : CheckRead(offset, size)) return error;
  const uintptr_t mask = limits().memory_alignment - 1;
  if (mask == 0) return 0;
  uintptr_t bits = 0;
  for (const iovec& part : iov) bits |= reinterpret_cast<uintptr_t>(part.iov_base) | part.iov_len;
  return bits & mask ? EINVAL : 0;
}

IoStatus FileNode::Failed(const char* what, uint64_t offset, int error) {
  if (error == EFAULT) return IoStatus{EFAULT};
  if (std::has_single_bit(++errors_)) {
    LogWarning(name(), "{} at offset {:#x} failed: {} (error {} of this node)", what, offset,
               error == 0 ? "the file has become shorter" : ErrnoText(error), errors_);
  }
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return IoStatus{full ? ENOSPC : EIO};
}

Task<IoStatus> FileNode::Transfer(FileOperation::Kind kind, uint64_t offset,
                                  std::span<const iovec> iov, int flags) {
  const InFlight counted(*this);
  if (const int error = CheckTransfer(kind, offset, iov)) co_return IoStatus{error};
  uint64_t left = IovecSize(iov);
  Progress progress(iov);
  int retries = 0;
  while (left != 0) {
    const int result = co_await engine_->Run(
        {.kind = kind, .flags = flags, .offset = offset, .iov = progress.Next()});
    if (result > 0) {
      offset += static_cast<uint64_t>(result);
      left -= static_cast<uint64_t>(result);
      progress.Advance(static_cast<size_t>(result));
      retries = 0;
    } else if (!IsTransient(-result) || ++retries == kMaxRetries) {
      // What could not be synchronised here is lost to a later Flush.
      if (flags != 0 && result == -EIO) flush_failed_ = true;
      co_return Failed(kind == FileOperation::Kind::kRead ? "read" : "write", offset, -result);
    }
  }
  co_return IoStatus{};
}

Task<IoStatus> FileNode::Read(uint64_t offset, std::span<const iovec> iov) {
  return Transfer(FileOperation::Kind::kRead, offset, iov, 0);
}

Task<IoStatus> FileNode::Write(uint64_t offset, std::span<const iovec> iov, bool fua) {
  return Transfer(FileOperation::Kind::kWrite, offset, iov, fua ? RWF_DSYNC : 0);
}

Task<IoStatus> FileNode::Flush() {
  const InFlight counted(*this);
  int result = flush_failed_ ? -EIO : -EINTR;
  for (int retries = 0; IsTransient(-result) && retries < kMaxRetries; ++retries) {
    result = co_await engine_->Run({.kind = FileOperation::Kind::kSync});
  }
  if (result >= 0) co_return IoStatus{};
  if (result == -EIO) flush_failed_ = true;
  co_return Failed("flush", 0, -result);
}

Task<int> FileNode::Allocate(int mode, bool& possible, uint64_t offset, uint64_t size) {
  if (!possible) co_return EOPNOTSUPP;
  int result = -EINTR;
  for (int retries = 0; IsTransient(-result) && retries < kMaxRetries; ++retries) {
    result = co_await engine_->Run(
        {.kind = FileOperation::Kind::kAllocate, .flags = mode, .offset = offset, .size = size});
  }
  if (result == -EOPNOTSUPP) possible = false;
  // EINVAL is a block device's answer to a range off its own alignment.
  co_return result == -EINVAL ? EOPNOTSUPP : result < 0 ? -result : 0;
}

Task<IoStatus> FileNode::WriteZeroBuffers(uint64_t offset, uint64_t size) {
  while (size != 0) {
    const size_t whole = std::min<size_t>(size / kZeroBufferSize, kZeroIovecs.size());
    const iovec part = ZeroIovec(size);
    const std::span<const iovec> iov =
        whole != 0 ? std::span(kZeroIovecs).first(whole) : std::span<const iovec>(&part, 1);
    const uint64_t count = IovecSize(iov);
    const IoStatus status = co_await Transfer(FileOperation::Kind::kWrite, offset, iov, 0);
    if (!status.ok()) co_return status;
    offset += count;
    size -= count;
  }
  co_return IoStatus{};
}

Task<IoStatus> FileNode::WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) {
  const InFlight counted(*this);
  const int refused = CheckWrite(offset, size);
  if (refused != 0 || size == 0) co_return IoStatus{refused};
  // The cheapest way first.
  int error = EOPNOTSUPP;
  if (may_unmap && unmap()) error = co_await Allocate(kPunchHole, can_punch_hole_, offset, size);
  if (error == EOPNOTSUPP) error = co_await Allocate(kZeroRange, can_zero_range_, offset, size);
  if (error == EOPNOTSUPP) co_return co_await WriteZeroBuffers(offset, size);
  co_return error == 0 ? IoStatus{} : Failed("write of zeroes", offset, error);
}

Task<IoStatus> FileNode::Discard(uint64_t offset, uint64_t size) {
  const InFlight counted(*this);
  const int refused = CheckWrite(offset, size);
  if (refused != 0 || size == 0 || !unmap()) co_return IoStatus{refused};
  const int error = co_await Allocate(kPunchHole, can_punch_hole_, offset, size);
  if (error == 0 || error == EOPNOTSUPP) co_return IoStatus{};
  co_return Failed("discard", offset, error);
}

}  // namespace farside::block
