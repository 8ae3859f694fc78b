// Where coroutine frames come from: free lists per loop, so that an access costs no allocation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace farside {

// Free lists of 64-byte-grained blocks for one thread. A block returns to the pool it came from,
// which must outlive it. Under AddressSanitizer free blocks are poisoned, and used again late;
// other sanitizers (FARSIDE_NO_FRAME_POOL) see nothing but the heap, which then gives every block.
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
  // The one that was freed last is taken first, for it is in the cache; with kQuarantine the one
  // that was freed first, when so many wait.
  struct FreeList {
    FreeBlock* first = nullptr;
    FreeBlock* last = nullptr;
    size_t size = 0;
  };
#if defined(FARSIDE_POISON_FRAMES)
  static constexpr size_t kQuarantine = 32;
#else
  static constexpr size_t kQuarantine = 0;
#endif
  static constexpr size_t kGrain = 64;
  static constexpr size_t kClasses = 64;  // Blocks up to 4 KiB; larger ones go to the heap.

  static thread_local FramePool* current_;

  void Put(void* block, size_t size_class) noexcept;
  void* Take(size_t size_class);

  std::array<FreeList, kClasses> free_{};
  uint64_t heap_allocations_ = 0;
};

}  // namespace farside
