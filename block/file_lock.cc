#include "block/file_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace farside::block {
namespace {

// The permissions of QEMU's block layer, by bit: offsets from the two bases below.
constexpr off_t kConsistentRead = 0;
constexpr off_t kWrite = 1;
constexpr off_t kResize = 3;

constexpr off_t kHeldBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr off_t kEnd = 300;

struct flock Range(short type, off_t start, off_t size) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = size;
  return range;
}

tl::unexpected<Error> InUse(const std::string& filename) {
  return FailWith(
      EAGAIN,
      "'{}' is in use by another process, such as QEMU or another disk-proc: end it, use "
      "a copy of the image, or have every user open it with read-only=on",
      filename);
}

Result<void> Lock(int fd, const std::string& filename, off_t byte) {
  struct flock range = Range(F_RDLCK, byte, 1);
  if (fcntl(fd, F_OFD_SETLK, &range) == 0) return {};
  // Somebody's exclusive lock is not QEMU's way, but the file is in use all the same.
  if (errno == EAGAIN || errno == EACCES) return InUse(filename);
  return FailWith(errno, "cannot lock '{}': {}; if its file system has no locks, use locking=off",
                  filename, ErrnoText(errno));
}

// True when another open file has locked `byte`.
bool IsLockedByAnother(int fd, off_t byte) {
  struct flock range = Range(F_WRLCK, byte, 1);
  return fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

}  // namespace

Result<void> LockFile(int fd, const std::string& filename, bool read_only) {
  for (const off_t byte :
       {kHeldBase + kConsistentRead, kUnsharedBase + kWrite, kUnsharedBase + kResize}) {
    if (auto locked = Lock(fd, filename, byte); !locked) return locked;
  }
  if (!read_only) {
    if (auto locked = Lock(fd, filename, kHeldBase + kWrite); !locked) return locked;
  }
  const bool they_object = IsLockedByAnother(fd, kUnsharedBase + kConsistentRead) ||
                           (!read_only && IsLockedByAnother(fd, kUnsharedBase + kWrite));
  const bool we_object =
      IsLockedByAnother(fd, kHeldBase + kWrite) || IsLockedByAnother(fd, kHeldBase + kResize);
  if (!they_object && !we_object) return {};
  UnlockFile(fd);
  return InUse(filename);
}

void UnlockFile(int fd) {
  struct flock range = Range(F_UNLCK, kHeldBase, kEnd - kHeldBase);
  fcntl(fd, F_OFD_SETLK, &range);
}

}  // namespace farside::block
