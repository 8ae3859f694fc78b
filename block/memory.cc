#include "block/memory.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "block/iovec_cursor.h"

namespace farside::block {

Result<std::unique_ptr<MemoryNode>> MemoryNode::Create(const NodeOptions& options, uint64_t size) {
  auto file = MakeMemfd(options.name.c_str(), size);
  if (!file) return tl::unexpected(file.error());
  auto memory = Mapping::Map(file->get(), 0, size, PROT_READ | PROT_WRITE);
  if (!memory) return tl::unexpected(memory.error());
  return std::unique_ptr<MemoryNode>(
      new MemoryNode(options, size, std::move(*file), std::move(*memory)));
}

MemoryNode::MemoryNode(const NodeOptions& options, uint64_t size, UniqueFd file, Mapping memory)
    : Node(options, size, InMemoryLimits(options)),
      file_(std::move(file)),
      memory_(std::move(memory)) {}

int MemoryNode::Punch(uint64_t offset, uint64_t size) {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (size == 0) return 0;
  const int result =
      fallocate(file_.get(), kPunch, static_cast<off_t>(offset), static_cast<off_t>(size));
  return result == 0 ? 0 : EIO;
}

Task<IoStatus> MemoryNode::Read(uint64_t offset, std::span<const iovec> iov) {
  const uint64_t bytes = IovecSize(iov);
  const int error = CheckRead(offset, bytes);
  if (error == 0) IovecCursor(iov).Scatter({memory_.data() + offset, bytes});
  co_return IoStatus{error};
}

Task<IoStatus> MemoryNode::Write(uint64_t offset, std::span<const iovec> iov, bool) {
  const uint64_t bytes = IovecSize(iov);
  const int error = CheckWrite(offset, bytes);
  if (error == 0) IovecCursor(iov).Gather({memory_.data() + offset, bytes});
  co_return IoStatus{error};
}

Task<IoStatus> MemoryNode::Flush() { co_return IoStatus{}; }

Task<IoStatus> MemoryNode::WriteZeroes(uint64_t offset, uint64_t size, bool) {
  const int error = CheckWrite(offset, size);
  co_return IoStatus{error != 0 ? error : Punch(offset, size)};
}

Task<IoStatus> MemoryNode::Discard(uint64_t offset, uint64_t size) {
  const int error = CheckWrite(offset, size);
  co_return IoStatus{error != 0 || !unmap() ? error : Punch(offset, size)};
}

}  // namespace farside::block
