#include "vmm-lite/kvm/vm.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "vmm-lite/kvm/table.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint32_t kMaxMessages = 4096;
constexpr uint32_t kPicPins = 8;  // Of each of the two.

Result<UniqueFd> OpenKvm() {
  UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm) {
    return FailWith(errno,
                    "cannot open /dev/kvm: {}: vmm-lite needs KVM; where a machine has none, "
                    "ci/kvm-lab COMMAND runs one in an emulated machine that has",
                    ErrnoText(errno));
  }
  const int version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return Fail("/dev/kvm speaks version {} of its interface: version {} is needed", version,
                KVM_API_VERSION);
  }
  return kvm;
}

}  // namespace

Result<std::unique_ptr<Vm>> Vm::Create() {
  auto kvm = OpenKvm();
  if (!kvm) return tl::unexpected(kvm.error());
  UniqueFd fd;
  do {
    fd.reset(ioctl(kvm->get(), KVM_CREATE_VM, 0));
  } while (!fd && errno == EINTR);
  if (!fd) return FailWith(errno, "KVM makes no virtual machine: {}", ErrnoText(errno));
  std::unique_ptr<Vm> vm(new Vm(std::move(*kvm), std::move(fd)));
  if (auto done = vm->SetUp(); !done) return tl::unexpected(done.error());
  return vm;
}

Result<void> Vm::Call(unsigned long request, void* argument, const char* what) const {
  int result;
  do {
    result = ioctl(vm_.get(), request, argument);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return FailWith(errno, "KVM: cannot {}: {}", what, ErrnoText(errno));
  return {};
}

Result<void> Vm::SetUp() {
  struct Need {
    int capability;
    const char* name;
  };
  for (const auto& [capability, name] :
       {Need{KVM_CAP_USER_MEMORY, "user memory"}, Need{KVM_CAP_IRQCHIP, "interrupt controllers"},
        Need{KVM_CAP_IRQFD_RESAMPLE, "irqfd with resampling"}, Need{KVM_CAP_IOEVENTFD, "ioeventfd"},
        Need{KVM_CAP_IRQ_ROUTING, "interrupt routing"},
        Need{KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
        Need{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"}}) {
    if (ioctl(vm_.get(), KVM_CHECK_EXTENSION, capability) <= 0) {
      return Fail("this machine's KVM has no {}: it needs Linux 4.12 or newer", name);
    }
  }
  const int slots = ioctl(vm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
  max_slots_ = static_cast<uint32_t>(std::clamp(slots, 32, 4096));
  const int routes = ioctl(vm_.get(), KVM_CHECK_EXTENSION, KVM_CAP_IRQ_ROUTING);
  max_routes_ = std::min<uint32_t>(static_cast<uint32_t>(routes), kPins + kMaxMessages);
  const int size = ioctl(kvm_.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < static_cast<int>(sizeof(kvm_run))) return Fail("KVM's vCPUs have no run structure");
  run_size_ = static_cast<uint64_t>(size);

  void* const tss = reinterpret_cast<void*>(kTssAddress);
  if (auto set = Call(KVM_SET_TSS_ADDR, tss, "place its task segment"); !set) return set;
  uint64_t identity = kIdentityMap;
  if (auto set = Call(KVM_SET_IDENTITY_MAP_ADDR, &identity, "place its page table"); !set) {
    return set;
  }
  if (auto made = Call(KVM_CREATE_IRQCHIP, nullptr, "make interrupt controllers"); !made) {
    return made;
  }
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  if (auto made = Call(KVM_CREATE_PIT2, &pit, "make a timer"); !made) return made;

  constexpr size_t kMaxEntries = 256;
  CpuidTable table(kMaxEntries);
  if (ioctl(kvm_.get(), kGetSupportedCpuid, table.SetCount(kMaxEntries)) < 0) {
    return FailWith(errno, "KVM does not tell its CPUID: {}", ErrnoText(errno));
  }
  cpuid_ = table.entries();
  return WriteRoutes();
}

Result<UniqueFd> Vm::CreateVcpu(uint32_t id) {
  UniqueFd vcpu(ioctl(vm_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id)));
  if (!vcpu) return FailWith(errno, "KVM: cannot make CPU {}: {}", id, ErrnoText(errno));
  return vcpu;
}

Result<uint32_t> Vm::AddMemory(uint64_t gpa, uint64_t size, void* host, bool read_only) {
  const std::lock_guard lock(mutex_);
  const auto free = std::find(slots_.begin(), slots_.end(), false);
  const auto slot = static_cast<uint32_t>(free - slots_.begin());
  if (slot == max_slots_) return Fail("all {} of KVM's memory slots are in use", max_slots_);
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.flags = read_only ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = gpa;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uint64_t>(host);
  if (auto set = Call(KVM_SET_USER_MEMORY_REGION, &region, "map memory"); !set) {
    return FailWith(set.error().code, "{} of {:#x} bytes at {:#x}", set.error().message, size, gpa);
  }
  if (free == slots_.end()) slots_.push_back(false);
  slots_[slot] = true;
  return slot;
}

void Vm::RemoveMemory(uint32_t slot) {
  const std::lock_guard lock(mutex_);
  kvm_userspace_memory_region region{};
  region.slot = slot;
  CHECK(Call(KVM_SET_USER_MEMORY_REGION, &region, "unmap memory"));
  slots_[slot] = false;
}

Result<void> Vm::AssignIrqfd(int fd, uint32_t gsi, int resample) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = gsi;
  if (resample >= 0) {
    irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<uint32_t>(resample);
  }
  return Call(KVM_IRQFD, &irqfd, "attach an interrupt");
}

void Vm::DeassignIrqfd(int fd, uint32_t gsi) {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(fd);
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  CHECK(Call(KVM_IRQFD, &irqfd, "detach an interrupt"));
}

namespace {

kvm_ioeventfd ToKvm(const Vm::IoEvent& event, int fd, uint32_t flags) {
  kvm_ioeventfd out{};
  out.datamatch = event.value;
  out.addr = event.address;
  out.len = event.size;
  out.fd = fd;
  out.flags = flags | (event.match ? uint32_t{KVM_IOEVENTFD_FLAG_DATAMATCH} : 0) |
              (event.port ? uint32_t{KVM_IOEVENTFD_FLAG_PIO} : 0);
  return out;
}

}  // namespace

Result<void> Vm::AssignIoEvent(const IoEvent& event, int fd) {
  kvm_ioeventfd assign = ToKvm(event, fd, 0);
  return Call(KVM_IOEVENTFD, &assign, "attach a doorbell");
}

void Vm::DeassignIoEvent(const IoEvent& event, int fd) {
  kvm_ioeventfd deassign = ToKvm(event, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
  CHECK(Call(KVM_IOEVENTFD, &deassign, "detach a doorbell"));
}

void Vm::SetPin(uint32_t gsi, bool level) {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level;
  CHECK(Call(KVM_IRQ_LINE, &line, "set an interrupt line"));
}

void Vm::SignalMsi(uint64_t address, uint32_t data) {
  kvm_msi msi{};
  msi.address_lo = static_cast<uint32_t>(address);
  msi.address_hi = static_cast<uint32_t>(address >> 32);
  msi.data = data;
  // The guest may name a CPU that is not there.
  (void)Call(KVM_SIGNAL_MSI, &msi, "signal an interrupt");
}

Result<uint32_t> Vm::AddMsiRoute(uint64_t address, uint32_t data) {
  const std::lock_guard lock(mutex_);
  uint32_t gsi = kPins;
  while (messages_.contains(gsi)) ++gsi;
  if (gsi >= kPins + kMaxMessages || 2 * kPicPins + kPins + messages_.size() >= max_routes_) {
    return Fail("all of KVM's interrupt routes are in use");
  }
  messages_[gsi] = {address, data};
  if (auto written = WriteRoutes(); !written) {
    messages_.erase(gsi);
    return tl::unexpected(written.error());
  }
  return gsi;
}

Result<void> Vm::ChangeMsiRoute(uint32_t gsi, uint64_t address, uint32_t data) {
  const std::lock_guard lock(mutex_);
  const auto found = messages_.find(gsi);
  CHECK(found != messages_.end());
  if (found->second.address == address && found->second.data == data) return {};
  const Message old = std::exchange(found->second, {address, data});
  auto written = WriteRoutes();
  if (!written) found->second = old;
  return written;
}

// The route stays in the kernel until the next change: nothing raises it any more.
void Vm::RemoveMsiRoute(uint32_t gsi) {
  const std::lock_guard lock(mutex_);
  CHECK(messages_.erase(gsi) == 1);
}

// Pins 0 to 15 reach both the PICs and the IOAPIC, as on a PC; pin 0, the timer, is the IOAPIC's
// pin 2.
Result<void> Vm::WriteRoutes() {
  RoutingTable table(2 * kPicPins + kPins + messages_.size());
  size_t count = 0;
  const auto add = [&](uint32_t gsi, uint32_t type, const auto& target) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = type;
    std::memcpy(&entry.u, &target, sizeof target);
    table.Set(count++, entry);
  };
  const auto add_pin = [&add](uint32_t gsi, uint32_t chip, uint32_t pin) {
    add(gsi, KVM_IRQ_ROUTING_IRQCHIP, kvm_irq_routing_irqchip{.irqchip = chip, .pin = pin});
  };
  for (uint32_t pin = 0; pin < 2 * kPicPins; ++pin) {
    if (pin == 2) continue;  // Cascades the second PIC.
    add_pin(pin, pin < kPicPins ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, pin % kPicPins);
  }
  for (uint32_t pin = 0; pin < kPins; ++pin) {
    if (pin != 2) add_pin(pin, KVM_IRQCHIP_IOAPIC, pin == 0 ? 2 : pin);
  }
  for (const auto& [gsi, message] : messages_) {
    kvm_irq_routing_msi msi{};
    msi.address_lo = static_cast<uint32_t>(message.address);
    msi.address_hi = static_cast<uint32_t>(message.address >> 32);
    msi.data = message.data;
    add(gsi, KVM_IRQ_ROUTING_MSI, msi);
  }
  return Call(kSetGsiRouting, table.SetCount(count), "route interrupts");
}

}  // namespace farside::vmm
