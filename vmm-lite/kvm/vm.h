// Vm: a KVM virtual machine as the kernel offers it (Documentation/virt/kvm/api.rst).
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/fd.h"

namespace farside::vmm {

// The VM belongs to the address space that made it: its descriptors are of no use to any other
// process, and never leave this one. Any thread may call anything.
class Vm {
 public:
  // Pins of the interrupt controllers: global system interrupts 0 to 23.
  static constexpr uint32_t kPins = 24;

  // Opens /dev/kvm and makes a VM with PIC, IOAPIC, LAPICs and PIT in the kernel.
  static Result<std::unique_ptr<Vm>> Create();

  Result<UniqueFd> CreateVcpu(uint32_t id);
  // Of the structure that a vCPU's descriptor maps, in bytes.
  uint64_t run_size() const { return run_size_; }
  // What the host can show its guests.
  const std::vector<kvm_cpuid_entry2>& supported_cpuid() const { return cpuid_; }

  // Shows `size` bytes at `host` to the guest. Returns the slot, for RemoveMemory. Addresses and
  // size are multiples of 4 KiB; the memory outlives the slot.
  Result<uint32_t> AddMemory(uint64_t gpa, uint64_t size, void* host, bool read_only);
  void RemoveMemory(uint32_t slot);

  // `fd`, an eventfd, raises `gsi`: an edge, or, where `resample` is not -1, a level that stays up
  // until the guest's end of interrupt, which lowers it and signals `resample`.
  Result<void> AssignIrqfd(int fd, uint32_t gsi, int resample);
  void DeassignIrqfd(int fd, uint32_t gsi);

  // Writes of `size` bytes (0: of any) to `address` signal `fd` and do nothing else.
  struct IoEvent {
    uint64_t address = 0;
    uint32_t size = 0;
    bool port = false;
    bool match = false;  // Only writes of `value`.
    uint64_t value = 0;
  };
  Result<void> AssignIoEvent(const IoEvent& event, int fd);
  void DeassignIoEvent(const IoEvent& event, int fd);

  // The level of a pin, as a device in this process drives it.
  void SetPin(uint32_t gsi, bool level);
  // A message-signalled interrupt, at once.
  void SignalMsi(uint64_t address, uint32_t data);

  // Global system interrupts that stand for messages, for AssignIrqfd.
  Result<uint32_t> AddMsiRoute(uint64_t address, uint32_t data);
  Result<void> ChangeMsiRoute(uint32_t gsi, uint64_t address, uint32_t data);
  void RemoveMsiRoute(uint32_t gsi);

 private:
  struct Message {
    uint64_t address = 0;
    uint32_t data = 0;
  };

  Vm(UniqueFd kvm, UniqueFd vm) : kvm_(std::move(kvm)), vm_(std::move(vm)) {}
  Result<void> SetUp();
  Result<void> WriteRoutes();
  // An ioctl on the VM. `what` begins the Error.
  Result<void> Call(unsigned long request, void* argument, const char* what) const;

  UniqueFd kvm_;
  UniqueFd vm_;
  uint64_t run_size_ = 0;
  uint32_t max_slots_ = 0;
  uint32_t max_routes_ = 0;
  std::vector<kvm_cpuid_entry2> cpuid_;

  std::mutex mutex_;  // Of what follows.
  std::vector<bool> slots_;
  std::map<uint32_t, Message> messages_;  // By GSI.
};

}  // namespace farside::vmm
