#include "block/null.h"

#include "block/iovec_cursor.h"

namespace farside::block {

Task<IoStatus> NullNode::Read(uint64_t offset, std::span<const iovec> iov) {
  const uint64_t bytes = IovecSize(iov);
  const int error = CheckRead(offset, bytes);
  if (error == 0 && read_zeroes_) IovecCursor(iov).ScatterZeroes(bytes);
  co_return IoStatus{error};
}

Task<IoStatus> NullNode::Write(uint64_t offset, std::span<const iovec> iov, bool) {
  co_return IoStatus{CheckWrite(offset, IovecSize(iov))};
}

Task<IoStatus> NullNode::Flush() { co_return IoStatus{}; }

Task<IoStatus> NullNode::WriteZeroes(uint64_t offset, uint64_t size, bool) {
  co_return IoStatus{CheckWrite(offset, size)};
}

Task<IoStatus> NullNode::Discard(uint64_t offset, uint64_t size) {
  co_return IoStatus{CheckWrite(offset, size)};
}

}  // namespace farside::block
