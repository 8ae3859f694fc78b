// The arrays that KVM takes behind a count: kvm_cpuid2 and kvm_irq_routing. linux/kvm.h declares
// some of them by a macro that C++ gives another layout, and so another ioctl number.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace farside::vmm {

template <typename Entry>
class KvmTable {
 public:
  // Of the structure without its entries: the ioctl's number has it.
  struct Head {
    uint32_t count = 0;
    uint32_t flags = 0;
  };

  explicit KvmTable(size_t capacity) : bytes_(sizeof(Head) + capacity * sizeof(Entry)) {}

  // For the ioctl, which reads `count` entries, or writes up to `count` and says how many.
  void* SetCount(size_t count) {
    const Head head{.count = static_cast<uint32_t>(count)};
    std::memcpy(bytes_.data(), &head, sizeof head);
    return bytes_.data();
  }
  void Set(size_t index, const Entry& entry) {
    std::memcpy(&bytes_[sizeof(Head) + index * sizeof entry], &entry, sizeof entry);
  }
  std::vector<Entry> entries() const {
    Head head;
    std::memcpy(&head, bytes_.data(), sizeof head);
    std::vector<Entry> out(head.count);
    std::memcpy(out.data(), &bytes_[sizeof head], head.count * sizeof(Entry));
    return out;
  }

 private:
  std::vector<std::byte> bytes_;
};

using CpuidTable = KvmTable<kvm_cpuid_entry2>;
using RoutingTable = KvmTable<kvm_irq_routing_entry>;

inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidTable::Head);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, CpuidTable::Head);
inline constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, RoutingTable::Head);

}  // namespace farside::vmm
