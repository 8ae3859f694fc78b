#include "base/frame_pool.h"

#include <new>

#if defined(FARSIDE_POISON_FRAMES)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace farside {

thread_local FramePool* FramePool::current_ = nullptr;

FramePool::~FramePool() {
  for (const FreeList& list : free_) {
    for (FreeBlock* block = list.first; block != nullptr;) {
      FreeBlock* next = block->next;
      ::operator delete(block);
      block = next;
    }
  }
}

FramePool::Scope::Scope(FramePool& pool) : outer_(current_) { current_ = &pool; }
FramePool::Scope::~Scope() { current_ = outer_; }

// Their first bytes stay ours.
void FramePool::Put(void* block, size_t size_class) noexcept {
  FreeList& list = free_[size_class];
  auto* const freed = new (block) FreeBlock{nullptr};
  ++list.size;
  if (list.first == nullptr) {
    list.first = list.last = freed;
  } else if (kQuarantine != 0) {
    list.last->next = freed;
    list.last = freed;
  } else {
    freed->next = list.first;
    list.first = freed;
  }
  ASAN_POISON_MEMORY_REGION(freed + 1, (size_class + 1) * kGrain - sizeof(FreeBlock));
}

void* FramePool::Take(size_t size_class) {
  FreeList& list = free_[size_class];
  if (list.size <= kQuarantine) return nullptr;
  FreeBlock* const block = list.first;
  list.first = block->next;
  --list.size;
  return block;
}

void* FramePool::Allocate(size_t size) {
#ifdef FARSIDE_NO_FRAME_POOL
  return ::operator new(size);
#else
  static_assert(sizeof(Header) == __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  const size_t total = size + sizeof(Header);
  const size_t size_class = (total - 1) / kGrain;
  FramePool* pool = size_class < kClasses ? current_ : nullptr;
  void* block = pool != nullptr ? pool->Take(size_class) : nullptr;
  if (block == nullptr) {
    block = ::operator new((size_class + 1) * kGrain);
    if (pool != nullptr) ++pool->heap_allocations_;
  }
  ASAN_UNPOISON_MEMORY_REGION(block, total);
  ASAN_POISON_MEMORY_REGION(static_cast<std::byte*>(block) + total,
                            (size_class + 1) * kGrain - total);
  return new (block) Header{pool, size_class} + 1;
#endif
}

void FramePool::Free(void* block) noexcept {
#ifdef FARSIDE_NO_FRAME_POOL
  ::operator delete(block);
#else
  Header* header = static_cast<Header*>(block) - 1;
  FramePool* pool = header->pool;
  if (pool == nullptr) {
    ::operator delete(header);
    return;
  }
  pool->Put(header, header->size_class);
#endif
}

}  // namespace farside
