// The node `file`: a disk that is a regular file or a block device.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "block/file_engine.h"
#include "block/file_engine_uring.h"
#include "block/node.h"

namespace farside::block {

struct FileOptions {
  enum class Aio { kDefault, kIoUring, kThreads };
  enum class Locking { kAuto, kOn, kOff };

  std::string filename = {};
  bool direct = false;      // O_DIRECT: past the host's page cache.
  Aio aio = Aio::kDefault;  // kDefault: io_uring, or threads with a log line where refused.
  Locking locking = Locking::kAuto;  // kAuto: without, with a log line, where there are no locks.
  FileEngineFactory make_uring = &CreateUringEngine;
};

// How requests end:
//   - what the guest's memory does to them is EFAULT; a full file system, quota or size limit is
//     ENOSPC; all else that the kernel says is EIO;
//   - a file that became shorter than it was at the start gives EIO for what is missing;
//   - a Flush that failed with EIO stays failed: the kernel may have dropped the pages it could not
//     write, and would report success the next time.
// Errors but EFAULT are counted, and logged when their count is a power of two.
//
// With `direct`, limits() has alignments for requests and memory that are not bounced here.
class FileNode final : public Node {
 public:
  // Opens and locks the file. Its size must be whole sectors, and stays what it is now.
  static Result<std::unique_ptr<FileNode>> Open(const NodeOptions& node, const FileOptions& options,
                                                EpollLoop& loop);
  ~FileNode() override;

  Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<IoStatus> Flush() override;
  Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<IoStatus> Discard(uint64_t offset, uint64_t size) override;

  uint64_t errors() const { return errors_; }

 private:
  FileNode(const NodeOptions& node, uint64_t size, const BlockLimits& limits, UniqueFd fd,
           std::unique_ptr<FileEngine> engine);

  Task<IoStatus> Transfer(FileOperation::Kind kind, uint64_t offset, std::span<const iovec> iov,
                          int flags);
  Task<IoStatus> WriteZeroBuffers(uint64_t offset, uint64_t size);
  // fallocate(): 0 or a positive errno; EOPNOTSUPP where another way must be found, for good when
  // it clears `possible`.
  Task<int> Allocate(int mode, bool& possible, uint64_t offset, uint64_t size);

  int CheckTransfer(FileOperation::Kind kind, uint64_t offset, std::span<const iovec> iov) const;
  IoStatus Failed(const char* what, uint64_t offset, int error);

  UniqueFd fd_;
  std::unique_ptr<FileEngine> engine_;
  // What the file system has refused once is not asked for again.
  bool can_punch_hole_ = true;
  bool can_zero_range_ = true;
  bool flush_failed_ = false;
  uint64_t errors_ = 0;
};

}  // namespace farside::block
