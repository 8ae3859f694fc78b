// Where coroutine frames come from: free lists per loop, so that an access costs no allocation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace farside {

// Free lists of 64-byte-grained blocks for one thread. A block returns to the pool it came from,
// which must outlive it. Sanitizer and fuzz builds (FARSIDE_NO_FRAME_POOL) use the heap for every
// block, or they would see nothing.
class FramePool {
 public:
  FramePool() = default;
  FramePool(const FramePool&) = delete;
  FramePool& operator=(const FramePool&) = delete;
  ~FramePool();

  // Makes `pool` the one that new frames of this thread come from, as long as it lives.
  class Scope {
   public:
    explicit Scope(FramePool& pool);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    FramePool* outer_;
  };

  // A block of `size` bytes from this thread's pool, or from the heap where there is none.
  static void* Allocate(size_t size);
  static void Free(void* block) noexcept;

  // Blocks taken from the heap because no free one was left; still when warm.
  uint64_t heap_allocations() const { return heap_allocations_; }

 private:
  struct Header {
    FramePool* pool;
    size_t size_class;
  };
  struct FreeBlock {
    FreeBlock* next;
  };
  static constexpr size_t kGrain = 64;
  static constexpr size_t kClasses = 64;  // Blocks up to 4 KiB; larger ones go to the heap.

  static thread_local FramePool* current_;

  std::array<FreeBlock*, kClasses> free_{};
  uint64_t heap_allocations_ = 0;
};

}  // namespace farside
