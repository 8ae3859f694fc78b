// The format node `raw`: another node, or a window of it, as it is.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/loop.h"
#include "block/node.h"

namespace farside::block {

// Takes memory of any alignment: what its file cannot use goes through a bounce buffer. There are
// kBuffers of those; requests beyond wait for one.
class RawNode final : public Node {
 public:
  struct Window {
    uint64_t offset = 0;                // Where in the file the disk begins.
    std::optional<uint64_t> size = {};  // Up to the file's end by default.
  };

  // `file` outlives the node, which is its only user.
  static Result<std::unique_ptr<RawNode>> Create(const NodeOptions& options, BlockDevice& file,
                                                 const Window& window, Loop& loop);

  uint32_t in_flight() const override { return Node::in_flight() + file_.in_flight(); }

  Task<IoStatus> Read(uint64_t offset, std::span<const iovec> iov) override;
  Task<IoStatus> Write(uint64_t offset, std::span<const iovec> iov, bool fua) override;
  Task<IoStatus> Flush() override;
  Task<IoStatus> WriteZeroes(uint64_t offset, uint64_t size, bool may_unmap) override;
  Task<IoStatus> Discard(uint64_t offset, uint64_t size) override;

 private:
  static constexpr size_t kBuffers = 8;
  static constexpr size_t kBufferSize = 128 << 10;
  struct FreeMemory {
    void operator()(std::byte* memory) const;
  };

  RawNode(const NodeOptions& options, BlockDevice& file, uint64_t size, uint64_t offset,
          Loop& loop);

  bool NeedsBounce(std::span<const iovec> iov) const;
  Task<IoStatus> ReadBounced(uint64_t offset, std::span<const iovec> iov);
  Task<IoStatus> WriteBounced(uint64_t offset, std::span<const iovec> iov, bool fua);
  Task<std::byte*> TakeBuffer();
  void ReturnBuffer(std::byte* buffer);

  BlockDevice& file_;
  const uint64_t offset_;
  const uint32_t memory_alignment_;  // The file's.
  std::unique_ptr<std::byte, FreeMemory> buffers_;
  std::array<std::byte*, kBuffers> free_buffers_{};
  size_t free_count_ = 0;
  Wakeup buffer_returned_;
};

}  // namespace farside::block
