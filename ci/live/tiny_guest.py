#!/usr/bin/env -S python3 -B
"""The tiny guest judges what a VMM does with devices of ours.

It runs in the KVM lab, under vmm-lite or, as the oracle, under QEMU: two NVMe controllers over
vfio-user that share a PIRQ, and an LSI53C895A over QEMU's multi-process protocol. Under vmm-lite it
runs twice more, with an NVMe controller behind a root port that is unplugged: by QMP, and by the
end of its process.
"""

import argparse
import os
import re
import subprocess
import sys

import lab as live
import mpqemu
from vmm_lite import Qmp

MEMORY = "128M"
IMAGE_SIZE = 16 << 20
LAB_TIMEOUT = 200  # s, for the lab with all in it
GUEST_TIMEOUT = 100
LAST_TEST = "unplug"  # that the guest says it proves that no test is missing

# What fails under QEMU 11.1 and is right by the PCI specification, or what it can't do: the words
# that the guest must say then. A test that passes after all must leave the table.
PENDING = (r"the pending bit does not come", "when a masked vector fires, QEMU enables its PBA (trace "
           "vfio_msix_pba_enable), but reads still go to the device's (vfio_region_read), which "
           "knows of no mask; the interrupt itself comes once unmasked")
QEMU_FAILURES = {"msix.vector_mask": PENDING, "msix.function_mask": PENDING}
QEMU_SKIPS = {"config.ecam": "no MCFG table"}  # i440FX, which has the PIRQ registers, has none
SKIPS = {"unplug": "nobody said unplug"}
BUTTON = "# the slot's button is pressed"  # says a guest that is asked to let go
UNPLUGS = ["asked", "pulled"]  # by QMP; by the end of the device's process


class VmmLite:
    """Root ports have the slots from 2 on, what is on the bus itself those after them: behind rp0
    is slot 2, nvme0 in slot 6, so both are on the PIRQ (slot + pin - 1) & 3 = 2."""

    NOBODY = 0xFFFFFFFF  # what a read gives that nobody claims
    failures = {}
    skips = SKIPS
    append = ""

    def __init__(self, program):
        self._program = program

    def command(self, guest, append, disks, lsi):
        ports = [word for i in range(4) for word in ("-device", f"pcie-root-port,id=rp{i}")]
        lsi = ["-device", f"pci-proxy-dev,id=lsi0,socket={lsi},protocol=mpqemu"] if lsi else []
        return [self._program, "-kernel", guest, "-append", append, "-m", MEMORY,
                "-serial", "stdio", "-no-reboot", *ports,
                "-device", f"vfio-user-pci,id=disk0,socket={disks[0]}", *lsi,
                *(["-device", f"vfio-user-pci,id=disk1,bus=rp0,socket={disks[1]}"]
                  if len(disks) > 1 else [])]

    def unplug_command(self, guest, disk, qmp):
        return [self._program, "-kernel", guest, "-append", "only=unplug unplug", "-m", MEMORY,
                "-serial", "stdio", "-no-reboot", "-device", "pcie-root-port,id=rp0",
                "-device", f"vfio-user-pci,id=disk0,bus=rp0,socket={disk}",
                "-qmp", f"unix:{qmp},server,wait=off"]


class Qemu:
    """A PIIX3 has the PIRQ registers, and slots 4 and 8 are on one of them."""

    NOBODY = 0
    append = "patience=2000"  # for the failing tests
    failures = QEMU_FAILURES
    skips = SKIPS | QEMU_SKIPS

    def command(self, guest, append, disks, lsi):
        devices = [word for slot, path in zip((4, 8), disks) for word in (
            "-device", '{"driver":"vfio-user-pci","addr":"%d",'
            '"socket":{"type":"unix","path":"%s"}}' % (slot, path))]
        lsi = ["-device", f"x-pci-proxy-dev,id=lsi0,addr=5,fd={lsi}"] if lsi else []
        return [live.CI / "qemu-lab", "run", "-M", "pc,memory-backend=ram", "-accel", "kvm",
                "-cpu", "host", "-m", MEMORY, "-object",
                f"memory-backend-memfd,id=ram,size={MEMORY},share=on", "-nodefaults",
                "-display", "none", "-no-reboot", "-serial", "stdio",
                "-kernel", guest, "-append", append, *devices, *lsi]


def make_vmm(options):
    return VmmLite(options.vmm_lite) if options.vmm == "vmm-lite" else Qemu()


class Tap:
    """What the guest said."""

    TEST = re.compile(r"(not )?ok (\d+) - (\S+?)(?:: (.*)| # SKIP (.*))?")

    def __init__(self, lines):
        self.results = {}  # name: (passed, why it failed or None, why it was skipped or None)
        self.plan = None
        self.bail_out = next((line for line in lines if line.startswith("Bail out!")), None)
        self.latencies = {}  # name: (median, lowest tenth), in TSC cycles
        self.nobody = None
        for line in lines:
            if match := self.TEST.fullmatch(line):
                self.results[match[3]] = (not match[1], match[4], match[5])
            elif match := re.fullmatch(r"1\.\.(\d+)", line):
                self.plan = int(match[1])
            elif match := re.fullmatch(r"# latency (\S+) median (\d+) tenth (\d+) cycles", line):
                self.latencies[match[1]] = (int(match[2]), int(match[3]))
            elif match := re.fullmatch(r"# memory that nobody claims reads (\S+)", line):
                self.nobody = int(match[1], 16)


def judge_test(check, vmm, name, passed, why, skipped):
    if name in vmm.failures:
        words, reason = vmm.failures[name]
        check(not passed and re.fullmatch(words, why or "") is not None,
              f"{name} fails as the table has it ({reason}): "
              f"{'it passes: take it out' if passed else why}")
    elif skipped is not None or name in vmm.skips:
        check(vmm.skips.get(name) == skipped, f"{name} is skipped: {skipped or 'no, it was run'}")
    else:
        check(passed, name + ("" if passed else f": {why}"))


def judge(check, vmm, tap):
    check(tap.bail_out is None, f"no exception: {tap.bail_out or 'none'}")
    for name, (passed, why, skipped) in tap.results.items():
        judge_test(check, vmm, name, passed, why, skipped)
    unheard = sorted((set(vmm.failures) | set(vmm.skips)) - set(tap.results))
    check(not unheard, f"each exception of the table was met; not met: {', '.join(unheard) or 'none'}")
    check(tap.plan == len(tap.results) and LAST_TEST in tap.results,
          f"the guest ran {len(tap.results)} tests to the end, its plan is {tap.plan}")
    check(tap.nobody == vmm.NOBODY, f"what nobody claims reads {tap.nobody or 0:#x}")


def judge_unplug(check, how, lines, deleted):
    tap = Tap(lines)
    good = tap.results == {"unplug": (True, None, None)} and tap.plan == 1 and not tap.bail_out
    check(good, f"unplug, {how}: the guest finds nothing where its disk was"
          + ("" if good else f": {tap.bail_out or tap.results or 'it was not run'}"))
    check((BUTTON in lines) == (how == "asked"),
          f"unplug, {how}: the guest {'saw' if BUTTON in lines else 'did not see'} the slot's button")
    check(deleted == {"device": "disk0"}, f"unplug, {how}: DEVICE_DELETED {deleted}")


class Rig:
    """The device processes and, one after the other, VMMs on them."""

    def __init__(self, lab, options, disks=2, lsi=True):
        self._lab = lab
        self._guest = options.guest
        self._disks = []
        self._remote = None
        self._remote_options = argparse.Namespace(remote=options.disk_proc, model="lsi53c895a")
        self._with_lsi = lsi
        for number in range(disks):
            disk = live.DiskProc(lab, lab.image(f"disk{number}.img", IMAGE_SIZE), options)
            disk.start(f"disk-proc-{number}")
            self._disks.append(disk)

    def start(self, vmm, name, append):
        """The process of the VMM with all the devices."""
        lsi, fds = None, []
        if self._with_lsi:
            image = self._lab.image("lsi.img", IMAGE_SIZE)
            self._remote = mpqemu.Remote(self._lab, image, self._remote_options)
            lsi = self._remote.start(f"disk-proc-lsi-{name}")
            fds = [lsi.fileno()]
        process = self._lab.start(name, vmm.command(
            self._guest, append, [disk.socket for disk in self._disks], *fds or [None]), fds)
        if lsi:
            lsi.close()
        return process

    def stop(self):
        for disk in self._disks:
            disk.stop()
        if self._remote:
            self._remote.check_end()


def unplug(lab, options, vmm, how):
    disk = live.DiskProc(lab, lab.image(f"{how}.img", IMAGE_SIZE), options)
    disk.start(f"disk-proc-{how}")
    path = lab.work / f"{how}.qmp"
    process = lab.start(f"unplug-{how}", vmm.unplug_command(options.guest, disk.socket, path))
    qmp = Qmp(path, process)
    process.wait_for_line("^# ready: unplug slot 0 of bus ", GUEST_TIMEOUT)
    if how == "asked":
        qmp.command("device_del", id="disk0")
    else:
        disk.kill(process)
    deleted = qmp.event("DEVICE_DELETED")
    status = process.wait(GUEST_TIMEOUT)
    lab.check(status == 0, f"{process.name} ended with status {status}"
              + ("" if status == 0 else f": {process.last_words()}"))
    judge_unplug(lab.check, how, process.lines, deleted)
    if how == "asked":
        disk.stop()


def run_here(options):
    with live.Lab(f"tiny_guest.{options.vmm}", options.keep) as lab:
        vmm = make_vmm(options)
        rig = Rig(lab, options)
        process = rig.start(vmm, options.vmm, f"{vmm.append} {options.append}")
        try:
            status = process.wait(GUEST_TIMEOUT)
        finally:
            if options.tap:
                print(process.out.read_text() + process.errors(), end="", flush=True)
        tap = Tap(process.lines)
        lab.check(status == 0, f"{process.name} ended with status {status}"
                  + ("" if status == 0 else f": {process.last_words()}"))
        judge(lab.check, vmm, tap)
        print("latencies in TSC cycles:", ", ".join(f"{name} {median}"
                                            for name, (median, _) in tap.latencies.items()))
        rig.stop()
        for how in UNPLUGS if options.vmm == "vmm-lite" else []:
            unplug(lab, options, vmm, how)
    return lab.status


def run_in_lab(argv, timeout, options=()):
    """The status of the same command with --here, in the lab, which ends with this process."""
    return subprocess.run(["setpriv", "--pdeathsig", "TERM", live.CI / "kvm-lab", "--lab", "--retries=1",
                           f"--timeout={timeout}", *options, *argv, "--here"]).returncode


def vmm_options(parser):
    parser.add_argument("--disk-proc", metavar="PATH", required=True, help="the disk-proc to use")
    parser.add_argument("--vmm-lite", metavar="PATH", help="the vmm-lite to judge")
    parser.add_argument("--guest", metavar="PATH", required=True, help="tiny.elf")
    parser.add_argument("--here", action="store_true",
                        help="not in the lab: this machine has a KVM that works")
    parser.add_argument("--keep", action="store_true", help="keep the work directory")
    parser.set_defaults(dma="fd")


def parse_vmm_options(parser):
    """The options; the programs that they name are there."""
    options = parser.parse_args()
    for target, path in (("disk-proc", options.disk_proc), ("tiny_guest", options.guest),
                         ("vmm-lite", options.vmm_lite)):
        if path is not None and not os.access(path, os.X_OK):
            parser.error(f"{path} is not a program; build the target {target} first")
    return options


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vmm", choices=["vmm-lite", "qemu"], required=True)
    parser.add_argument("--append", metavar="STR", default="", help="the guest's command line")
    parser.add_argument("--tap", action="store_true", help="print what the guest says and when, too")
    vmm_options(parser)
    options = parse_vmm_options(parser)
    if options.vmm == "vmm-lite" and options.vmm_lite is None:
        parser.error("--vmm=vmm-lite needs --vmm-lite PATH")
    return run_here(options) if options.here else run_in_lab(sys.argv, LAB_TIMEOUT)


if __name__ == "__main__":
    sys.exit(main())
