// The least that a VMM does before its guest's first exit: the floor of ci/vmm-start. Makes the KVM
// calls that vmm-lite makes for one CPU and 64 MiB, runs a guest that writes one byte to a port, and
// prints a byte. Status 1 where a call fails.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kRam = 64 << 20, kEntries = 256, kStart = 0x1000 };
static const unsigned char kGuest[] = {0xb0, 'A', 0xba, 0xf8, 0x03, 0xee, 0xf4};  // out, hlt.

static void Need(int good) {
  if (!good) _exit(1);
}

int main(void) {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  const int file = memfd_create("ram", MFD_CLOEXEC);
  Need(vm >= 0 && ftruncate(file, kRam) == 0);
  unsigned char* const ram = mmap(NULL, kRam, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  struct kvm_userspace_memory_region region = {
      .memory_size = kRam, .userspace_addr = (unsigned long)ram};
  Need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0);
  Need(ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000ul) == 0);
  unsigned long identity = 0xfeffc000;
  Need(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) == 0);
  struct kvm_pit_config pit = {0};
  Need(ioctl(vm, KVM_CREATE_IRQCHIP, 0) == 0 && ioctl(vm, KVM_CREATE_PIT2, &pit) == 0);
  struct kvm_cpuid2* const cpuid =
      calloc(1, sizeof *cpuid + kEntries * sizeof(struct kvm_cpuid_entry2));
  cpuid->nent = kEntries;
  Need(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) == 0);
  const int cpu = ioctl(vm, KVM_CREATE_VCPU, 0ul);
  Need(ioctl(cpu, KVM_SET_CPUID2, cpuid) == 0);
  const int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  struct kvm_run* const run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
  struct kvm_sregs sregs;
  Need(ioctl(cpu, KVM_GET_SREGS, &sregs) == 0);
  sregs.cs.base = sregs.cs.selector = 0;
  Need(ioctl(cpu, KVM_SET_SREGS, &sregs) == 0);
  struct kvm_regs regs = {.rip = kStart, .rflags = 2};
  Need(ioctl(cpu, KVM_SET_REGS, &regs) == 0);
  memcpy(ram + kStart, kGuest, sizeof kGuest);
  Need(ioctl(cpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_IO);
  return write(STDOUT_FILENO, kGuest + 1, 1) != 1;
}
