// The calls that the control process and what it starts are refused, and why.
#pragma once

#include <sys/syscall.h>

#include <string_view>

namespace farside::vmm {

struct DeniedCall {
  int number;
  std::string_view reason;
};

// Besides these, ioctl with a number of KVM's type: guests belong to the CPU process.
inline constexpr DeniedCall kDeniedCalls[] = {
#ifndef FARSIDE_SANITIZED  // LeakSanitizer stops the process's threads with it.
    {SYS_ptrace, "drives other processes of this user, the CPU process among them"},
#endif
    {SYS_process_vm_readv, "reads other processes' memory"},
    {SYS_process_vm_writev, "writes it"},
    {SYS_process_madvise, "acts on other processes' mappings"},
    {SYS_pidfd_getfd, "takes other processes' descriptors, those of a VM too"},
    {SYS_kcmp, "compares kernel objects of other processes"},
    {SYS_bpf, "loads code into the kernel"},
    {SYS_perf_event_open, "watches other processes and the kernel"},
    {SYS_userfaultfd, "stops the kernel within copies: a tool of exploits"},
    {SYS_mount, "changes what paths mean to other programs"},
    {SYS_umount2, "the same"},
    {SYS_pivot_root, "the same"},
    {SYS_chroot, "the same"},
    {SYS_move_mount, "the same, by the newer calls"},
    {SYS_open_tree, "the same"},
    {SYS_fsopen, "the same"},
    {SYS_fsconfig, "the same"},
    {SYS_fsmount, "the same"},
    {SYS_fspick, "the same"},
    {SYS_mount_setattr, "the same"},
    {SYS_open_by_handle_at, "opens files past the directories that guard them"},
    {SYS_kexec_load, "replaces the kernel"},
    {SYS_kexec_file_load, "the same"},
    {SYS_init_module, "loads code into the kernel"},
    {SYS_finit_module, "the same"},
    {SYS_delete_module, "unloads it"},
    {SYS_add_key, "keyrings: not needed, and a large interface"},
    {SYS_request_key, "the same"},
    {SYS_keyctl, "the same"},
    {SYS_swapon, "the administrator's"},
    {SYS_swapoff, "the same"},
    {SYS_reboot, "the same"},
    {SYS_syslog, "reads the kernel's messages, addresses among them"},
    {SYS_acct, "the administrator's"},
    {SYS_quotactl, "the same"},
    {SYS_settimeofday, "sets the host's clock"},
    {SYS_clock_settime, "the same"},
    {SYS_clock_adjtime, "the same"},
    {SYS_adjtimex, "the same"},
    {SYS_sethostname, "names the host"},
    {SYS_setdomainname, "the same"},
    {SYS_iopl, "opens the host's I/O ports"},
    {SYS_ioperm, "the same"},
    {SYS_modify_ldt, "old segments: not needed, and a tool of exploits"},
    {SYS_vhangup, "hangs up other programs' terminal"},
    {SYS_lookup_dcookie, "names the kernel's directory entries"},
    {SYS_move_pages, "acts on other processes' pages"},
    {SYS_migrate_pages, "the same"},
};

}  // namespace farside::vmm
