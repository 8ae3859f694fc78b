// Vcpu: one CPU of a Vm.
#pragma once

#include <linux/kvm.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "vmm-lite/boot/boot.h"
#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/machine/address_map.h"

namespace farside::vmm {

class Vcpu {
 public:
  // CPU `id` of `count`. CPU 0 starts the machine; the others wait for its start-up interrupts.
  static Result<std::unique_ptr<Vcpu>> Create(Vm& vm, uint32_t id, uint32_t count);

  // Where CPU 0 begins. Before Run.
  Result<void> Enter(const CpuEntry& entry);

  // Registers and local interrupt controller as they were after Create.
  Result<void> Reset();

  // Runs the guest in the calling thread, until Kick (true), or until the guest shuts the CPU down
  // by a triple fault (false). An Error is KVM's.
  Result<bool> Run(const AddressMap& memory, const AddressMap& ports);

  // Makes Run return as soon as its present access is done. Any thread, at any time.
  void Kick();
  // Lets Run run again.
  void Unkick() { kicked_ = false; }

  // The signal that wakes a vCPU's thread. InstallWake before threads are started.
  static void InstallWake();

 private:
  struct State {
    kvm_regs regs{};
    kvm_sregs sregs{};
    kvm_lapic_state lapic{};
    kvm_mp_state mp{};
    kvm_vcpu_events events{};
  };

  Vcpu(UniqueFd fd, uint32_t id) : fd_(std::move(fd)), id_(id) {}
  Result<void> Call(unsigned long request, void* argument, const char* what) const;
  Result<void> SetCpuid(const std::vector<kvm_cpuid_entry2>& supported, uint32_t count);
  void HandlePort(const AddressMap& ports) const;
  void HandleMemory(const AddressMap& memory) const;
  Error Describe(const char* what) const;

  UniqueFd fd_;
  const uint32_t id_;
  Mapping mapping_;
  kvm_run* run_ = nullptr;
  State initial_;
  std::atomic<bool> kicked_ = false;
  std::atomic<int> thread_ = 0;  // Its kernel id while Run runs.
};

}  // namespace farside::vmm
