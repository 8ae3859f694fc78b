// AddressMap: which device answers which guest address.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "base/bytes.h"
#include "base/error.h"

namespace farside::vmm {

// A range of addresses that a device answers. Called by any vCPU thread; `cpu` is its number.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  // `offset` is from the start of the range, 1 to 8 bytes lie wholly inside it.
  virtual void Read(uint32_t cpu, uint64_t offset, Bytes out) = 0;
  virtual void Write(uint32_t cpu, uint64_t offset, ConstBytes in) = 0;
};

// Memory-mapped or port addresses. What nobody answers reads as ones and ignores writes. A handler
// lives on while an access that found it is under way; nothing is locked meanwhile.
class AddressMap {
 public:
  // False if it would overlap another range: then nothing changes.
  bool Add(uint64_t start, uint64_t size, std::shared_ptr<IoHandler> handler) {
    const std::unique_lock lock(mutex_);
    const auto next = ranges_.lower_bound(start);
    if (size == 0 || start + (size - 1) < start) return false;
    if (next != ranges_.end() && next->first <= start + (size - 1)) return false;
    if (next != ranges_.begin()) {
      const auto before = std::prev(next);
      if (start - before->first < before->second.size) return false;
    }
    ranges_[start] = {size, std::move(handler)};
    return true;
  }
  // Of a range that was added.
  void Remove(uint64_t start) {
    const std::unique_lock lock(mutex_);
    ranges_.erase(start);
  }

  void Read(uint32_t cpu, uint64_t address, Bytes out) const {
    const Found found = Find(address, out.size());
    if (!found.handler) return Fill(out, 0xff);
    found.handler->Read(cpu, found.offset, out);
  }
  void Write(uint32_t cpu, uint64_t address, ConstBytes in) const {
    const Found found = Find(address, in.size());
    if (found.handler) found.handler->Write(cpu, found.offset, in);
  }

 private:
  struct Range {
    uint64_t size = 0;
    std::shared_ptr<IoHandler> handler;
  };
  struct Found {
    std::shared_ptr<IoHandler> handler;
    uint64_t offset = 0;
  };

  Found Find(uint64_t address, uint64_t size) const {
    const std::shared_lock lock(mutex_);
    auto found = ranges_.upper_bound(address);
    if (found == ranges_.begin()) return {};
    --found;
    const uint64_t offset = address - found->first;
    if (!InRange(offset, size, found->second.size)) return {};
    return {found->second.handler, offset};
  }

  mutable std::shared_mutex mutex_;
  std::map<uint64_t, Range> ranges_;  // By start.
};

}  // namespace farside::vmm
