#include "base/frame_pool.h"

#include <new>

namespace farside {

thread_local FramePool* FramePool::current_ = nullptr;

FramePool::~FramePool() {
  for (FreeBlock* block : free_) {
    while (block != nullptr) {
      FreeBlock* next = block->next;
      ::operator delete(block);
      block = next;
    }
  }
}

FramePool::Scope::Scope(FramePool& pool) : outer_(current_) { current_ = &pool; }
FramePool::Scope::~Scope() { current_ = outer_; }

void* FramePool::Allocate(size_t size) {
#ifdef FARSIDE_NO_FRAME_POOL
  return ::operator new(size);
#else
  static_assert(sizeof(Header) == __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  const size_t total = size + sizeof(Header);
  const size_t size_class = (total - 1) / kGrain;
  FramePool* pool = size_class < kClasses ? current_ : nullptr;
  void* block;
  if (pool != nullptr && pool->free_[size_class] != nullptr) {
    FreeBlock* head = pool->free_[size_class];
    pool->free_[size_class] = head->next;
    block = head;
  } else {
    block = ::operator new((size_class + 1) * kGrain);
    if (pool != nullptr) ++pool->heap_allocations_;
  }
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
  const size_t size_class = header->size_class;
  pool->free_[size_class] = new (header) FreeBlock{pool->free_[size_class]};
#endif
}

}  // namespace farside
