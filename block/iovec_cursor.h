// IovecCursor: copies between a request's iovecs and a node's own memory.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/bytes.h"

namespace farside::block {

// Walks `iov` from its start; together the calls take no more than its bytes.
class IovecCursor {
 public:
  explicit IovecCursor(std::span<const iovec> iov) : iov_(iov) {}

  // Fills the next bytes of the request's memory.
  void Scatter(ConstBytes from) {
    Walk(from.size(), [&](std::byte* memory, uint64_t at, size_t size) {
      std::memcpy(memory, from.data() + at, size);
    });
  }
  void ScatterZeroes(uint64_t size) {
    Walk(size, [](std::byte* memory, uint64_t, size_t part) { std::memset(memory, 0, part); });
  }
  // Takes the next bytes out of the request's memory.
  void Gather(Bytes to) {
    Walk(to.size(), [&](const std::byte* memory, uint64_t at, size_t size) {
      std::memcpy(to.data() + at, memory, size);
    });
  }

 private:
  template <typename CopyPart>
  void Walk(uint64_t size, CopyPart copy) {
    for (uint64_t at = 0; at < size;) {
      const iovec& part = iov_[index_];
      const size_t count = static_cast<size_t>(std::min<uint64_t>(size - at, part.iov_len - used_));
      if (count != 0) copy(static_cast<std::byte*>(part.iov_base) + used_, at, count);
      at += count;
      used_ += count;
      if (used_ == part.iov_len) {
        ++index_;
        used_ = 0;
      }
    }
  }

  std::span<const iovec> iov_;
  size_t index_ = 0;
  size_t used_ = 0;  // Bytes of iov_[index_].
};

}  // namespace farside::block
