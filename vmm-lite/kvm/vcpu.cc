#include "vmm-lite/kvm/vcpu.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "vmm-lite/boot/formats.h"
#include "vmm-lite/kvm/table.h"

namespace farside::vmm {
namespace {

// Intel SDM volume 3, section 2.5 and table 3-1.
constexpr uint64_t kCr0Protected = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;
constexpr uint64_t kCr0Paging = 1ull << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;
constexpr uint8_t kCode = 11;  // Execute, read, accessed.
constexpr uint8_t kData = 3;   // Read, write, accessed.

int WakeSignal() { return SIGRTMIN; }

kvm_segment Flat(uint16_t selector, uint8_t type, bool long_mode) {
  kvm_segment segment{};
  segment.limit = UINT32_MAX;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = long_mode ? 1 : 0;
  segment.db = long_mode ? 0 : 1;
  return segment;
}

}  // namespace

void Vcpu::InstallWake() {
  struct sigaction action {};
  action.sa_handler = [](int) {};  // Without SA_RESTART: KVM_RUN returns.
  sigaction(WakeSignal(), &action, nullptr);
}

Result<void> Vcpu::Call(unsigned long request, void* argument, const char* what) const {
  if (ioctl(fd_.get(), request, argument) < 0) {
    return FailWith(errno, "KVM: cannot {} of CPU {}: {}", what, id_, ErrnoText(errno));
  }
  return {};
}

Result<std::unique_ptr<Vcpu>> Vcpu::Create(Vm& vm, uint32_t id, uint32_t count) {
  auto fd = vm.CreateVcpu(id);
  if (!fd) return tl::unexpected(fd.error());
  std::unique_ptr<Vcpu> cpu(new Vcpu(std::move(*fd), id));
  auto mapping = Mapping::Map(cpu->fd_.get(), 0, vm.run_size(), PROT_READ | PROT_WRITE);
  if (!mapping) return tl::unexpected(mapping.error());
  cpu->mapping_ = std::move(*mapping);
  cpu->run_ = reinterpret_cast<kvm_run*>(cpu->mapping_.data());
  if (auto set = cpu->SetCpuid(vm.supported_cpuid(), count); !set) {
    return tl::unexpected(set.error());
  }
  State& state = cpu->initial_;
  for (const auto& [request, argument, what] :
       {std::tuple<unsigned long, void*, const char*>{KVM_GET_REGS, &state.regs, "read registers"},
        {KVM_GET_SREGS, &state.sregs, "read system registers"},
        {KVM_GET_LAPIC, &state.lapic, "read the interrupt controller"},
        {KVM_GET_MP_STATE, &state.mp, "read the state"},
        {KVM_GET_VCPU_EVENTS, &state.events, "read the events"}}) {
    if (auto got = cpu->Call(request, argument, what); !got) return tl::unexpected(got.error());
  }
  return cpu;
}

Result<void> Vcpu::Reset() {
  for (const auto& [request, argument, what] :
       {std::tuple<unsigned long, void*, const char*>{KVM_SET_REGS, &initial_.regs,
                                                      "reset registers"},
        {KVM_SET_SREGS, &initial_.sregs, "reset system registers"},
        {KVM_SET_LAPIC, &initial_.lapic, "reset the interrupt controller"},
        {KVM_SET_MP_STATE, &initial_.mp, "reset the state"},
        {KVM_SET_VCPU_EVENTS, &initial_.events, "reset the events"}}) {
    if (auto set = Call(request, argument, what); !set) return set;
  }
  return {};
}

// Each CPU is a package of one core: what CPUID says of topology (Intel SDM volume 2, CPUID; AMD
// APM volume 3, appendix E).
Result<void> Vcpu::SetCpuid(const std::vector<kvm_cpuid_entry2>& supported, uint32_t count) {
  CpuidTable table(supported.size());
  size_t index = 0;
  for (kvm_cpuid_entry2 entry : supported) {
    switch (entry.function) {
      case 1:
        entry.ebx = (entry.ebx & 0x0000'ffff) | id_ << 24 | count << 16;
        entry.ecx |= 1u << 24 | 1u << 31;  // TSC deadline timer, hypervisor.
        break;
      case 4:
        entry.eax &= ~0xffff'c000u;
        break;
      case 0xb:
      case 0x1f:
        entry.edx = id_;
        break;
      case 0x8000'0008:
        entry.ecx &= ~0xf0ffu;
        break;
      case 0x8000'001e:
        entry.eax = id_;
        entry.ebx = id_;
        entry.ecx = 0;
        break;
      default:
        break;
    }
    table.Set(index++, entry);
  }
  return Call(kSetCpuid2, table.SetCount(index), "set the features");
}

Result<void> Vcpu::Enter(const CpuEntry& entry) {
  if (entry.mode == CpuEntry::Mode::kReal) return {};  // At the reset vector, as KVM makes a CPU.
  const bool long_mode = entry.mode == CpuEntry::Mode::kLong64;
  kvm_sregs sregs = initial_.sregs;
  sregs.cs = Flat(kBootCs, kCode, long_mode);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = Flat(kBootDs, kData, false);
  sregs.cr0 = kCr0Protected | kCr0ExtensionType;
  if (long_mode) {
    sregs.gdt.base = entry.gdt_base;
    sregs.gdt.limit = entry.gdt_limit;
    sregs.cr0 |= kCr0Paging;
    sregs.cr3 = entry.cr3;
    sregs.cr4 = kCr4Pae;
    sregs.efer = kEferLongModeEnable | kEferLongModeActive;
  }
  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rsi = entry.rsi;
  regs.rbx = entry.rbx;
  regs.rflags = 2;
  if (auto set = Call(KVM_SET_SREGS, &sregs, "set system registers"); !set) return set;
  return Call(KVM_SET_REGS, &regs, "set registers");
}

void Vcpu::Kick() {
  kicked_ = true;
  // Between the look at kicked_ and KVM_RUN a signal alone would be lost.
  __atomic_store_n(&run_->immediate_exit, uint8_t{1}, __ATOMIC_SEQ_CST);
  if (const int thread = thread_; thread != 0) tgkill(getpid(), thread, WakeSignal());
}

void Vcpu::HandlePort(const AddressMap& ports) const {
  const auto& io = run_->io;
  auto* at = reinterpret_cast<std::byte*>(run_) + io.data_offset;
  for (uint32_t i = 0; i < io.count; ++i, at += io.size) {
    if (io.direction == KVM_EXIT_IO_IN) {
      ports.Read(id_, io.port, Bytes(at, io.size));
    } else {
      ports.Write(id_, io.port, ConstBytes(at, io.size));
    }
  }
}

void Vcpu::HandleMemory(const AddressMap& memory) const {
  auto& mmio = run_->mmio;
  const Bytes data = std::as_writable_bytes(std::span(mmio.data)).first(mmio.len);
  if (mmio.is_write) {
    memory.Write(id_, mmio.phys_addr, data);
  } else {
    memory.Read(id_, mmio.phys_addr, data);
  }
}

Error Vcpu::Describe(const char* what) const {
  kvm_regs regs{};
  (void)ioctl(fd_.get(), KVM_GET_REGS, &regs);
  return {fmt::format("CPU {} stopped at {:#x}: {}", id_, regs.rip, what), 0};
}

Result<bool> Vcpu::Run(const AddressMap& memory, const AddressMap& ports) {
  thread_ = gettid();
  for (;;) {
    __atomic_store_n(&run_->immediate_exit, uint8_t{kicked_}, __ATOMIC_SEQ_CST);
    if (kicked_) run_->immediate_exit = 1;
    if (ioctl(fd_.get(), KVM_RUN, 0) < 0) {
      if (errno == EAGAIN) continue;
      if (errno != EINTR) {
        return tl::unexpected(Describe(ErrnoText(errno).c_str()));
      }
      if (!kicked_) continue;
      thread_ = 0;
      return true;
    }
    switch (run_->exit_reason) {
      case KVM_EXIT_IO:
        HandlePort(ports);
        break;
      case KVM_EXIT_MMIO:
        HandleMemory(memory);
        break;
      case KVM_EXIT_INTR:
      case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
      case KVM_EXIT_SHUTDOWN:
      case KVM_EXIT_SYSTEM_EVENT:
        thread_ = 0;
        return false;
      case KVM_EXIT_FAIL_ENTRY:
        return tl::unexpected(Describe("the processor refuses its state"));
      case KVM_EXIT_INTERNAL_ERROR:
        return tl::unexpected(Describe("KVM cannot emulate what it does there"));
      default:
        return tl::unexpected(Describe(
            fmt::format("KVM gives reason {}, which nobody knows", run_->exit_reason).c_str()));
    }
  }
}

}  // namespace farside::vmm
