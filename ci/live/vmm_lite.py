#!/usr/bin/env -S python3 -B
"""vmm-lite boots Debian's kernel with two CPUs on remote devices only, where there is KVM.

Each part is one run of ci/kvm-lab; this script is its outer and its inner half. Parts: disk (an NVMe
disk's whole life over vfio-user), lsi (an LSI53C895A over QEMU's multi-process protocol, interrupts
by irqfd), kill (SIGKILL of the device process under load, and a new one), hotplug (QMP device_add
and device_del on a root port), control (SIGKILL of the control process; bad command lines), seabios
(SeaBIOS finds its machine by fw_cfg and boots a sector of the disk).
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import flush_kill
import lab as live
import linux_disk as disk

PARTS = ["disk", "lsi", "kill", "hotplug", "control", "seabios"]
WAIT = 90  # s for what a guest does; a boot takes 4 s in an idle lab
LAB_SECONDS = 220
SMALL_IMAGE = 64 << 20
MEMORY = 512 << 20


class Qmp:
    """A QMP client. A command that fails is a LabError; events are kept."""

    def __init__(self, path, process):
        self.events = []
        self._replies = []
        self._changed = threading.Condition()
        self._ended = False
        deadline = time.monotonic() + 30
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                self._socket.close()
                if time.monotonic() > deadline or not process.running():
                    raise live.LabError(f"no QMP at {path} ({error.strerror}); "
                                        f"{process.name}: {process.last_words()}") from None
                time.sleep(0.02)
        threading.Thread(target=self._read, daemon=True).start()
        self.command("qmp_capabilities")

    def _read(self):
        for line in self._socket.makefile("rb"):
            message = json.loads(line)
            with self._changed:
                if "event" in message:
                    self.events.append(message)
                elif "QMP" not in message:
                    self._replies.append(message)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _wait(self, what, found):
        with self._changed:
            if not self._changed.wait_for(lambda: found() or self._ended, WAIT) or not found():
                how = "QMP ended" if self._ended else f"{WAIT} s passed"
                raise live.LabError(f"{how} without {what}; events: "
                                    f"{[event['event'] for event in self.events]}")
            return found()

    def command(self, name, **arguments):
        self._replies.clear()
        request = {"execute": name, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        reply = self._wait(f"a reply to {name}", lambda: self._replies)[0]
        if "error" in reply:
            raise live.LabError(f"QMP {name}: {reply['error']['desc']}")
        return reply["return"]

    def event(self, name):
        """The first event of that name, come or to come; it is taken out."""
        def found():
            return [event for event in self.events if event["event"] == name]
        event = self._wait(f"the event {name}", found)[0]
        self.events.remove(event)
        return event.get("data", {})


def medium(image):
    return ["-blockdev", f"driver=file,node-name=file0,filename={image},discard=unmap",
            "-blockdev", "driver=raw,node-name=drive0,file=file0,discard=unmap"]


NVME = ["-device", f"nvme,id=nvme0,drive=drive0,serial={live.SERIAL}"]
LSI = ["-device", "lsi53c895a,id=lsi0",
       "-device", "scsi-hd,drive=drive0,bus=lsi0.0,scsi-id=0,lun=0"]


class Machine:
    """A vmm-lite with a Linux guest, its serial line in the lines of `process`."""

    def __init__(self, lab, options, name, test, device, disk_args=None, dev="nvme0n1",
                 boot=None):
        self.lab = lab
        self.qmp_path = lab.work / f"{name}.qmp"
        self.control_path = lab.work / f"{name}.control"
        self.process_json = {"id": "disk", "exec": options.disk_proc, "args": disk_args or []}
        processes = ["-process", json.dumps(self.process_json)] if disk_args else []
        boot = boot or [
            "-kernel", options.guest / "vmlinux", "-initrd", options.guest / "initramfs", "-append",
            f"{live.GUEST_COMMAND_LINE} farside.disk={dev} farside.test={test}"]
        self.process = lab.start(name, [
            options.vmm_lite, *boot, "-m", f"{MEMORY >> 20}M", "-smp", "2", "-serial", "stdio", *processes, *device,
            "-qmp", f"unix:{self.qmp_path},server,wait=off", "-control", f"unix:{self.control_path}"])
        self.test = test
        self.qmp = Qmp(self.qmp_path, self.process)
        try:
            options.cpu_pids.append(self.pid_of_cpu())
        except (OSError, live.LabError):
            pass  # it has ended; what that means is seen later

    def pid_of_disk(self):
        return self.qmp.command("query-processes")[0]["pid"]

    def pid_of_cpu(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            if b"-cpu-process" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        raise live.LabError(f"{self.process.name} has no CPU process")

    def finish(self):
        """The guest's report, after its power-off; it and vmm-lite ended well."""
        status = self.process.wait(WAIT)
        report = live.Report(self.process.lines)
        judge_end(self.lab.check, report, self.test, status, self.process.last_words())
        self.check_no_complaints()
        return report

    def check_no_complaints(self):
        judge_errors(self.lab.check, self.process.name, self.process.errors())


def gone(pid, seconds=10):
    """Whether a process has ended, or does within that time. Zombies have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ") Z " in pathlib.Path(f"/proc/{pid}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


# ---- what is judged when all has been said: judge_test.py tries these ----


def judge_end(check, report, test, status, last_words):
    failures = report.all("failed")
    check(status == 0 and report.all("passed") == [test] and not failures,
          f"the guest ran test {test} to its end, vmm-lite's status {status}"
          + "".join(f"; it said: failed {failure}" for failure in failures)
          + ("" if status == 0 else f"; last words: {last_words}"))


def judge_errors(check, name, errors):
    complaints = [line for line in errors.splitlines() if live.DiskProc.COMPLAINT.search(line)]
    check(not complaints, f"{name} complains of nothing"
          + "".join(f"\n      {line}" for line in complaints[:10]))


def judge_kernel(check, report):
    complaints = [line for line in report.all("kernel") if disk.DISK_COMPLAINT.search(line)]
    check(not complaints, "the guest's kernel complains of nothing about the disk"
          + "".join(f"\n      {line}" for line in complaints[:10]))


def judge_lsi(check, life):
    check(life.one("vendor") not in ("", "(not said)"),
          f"the disk's vendor: {life.one('vendor')}, model: {life.one('model')}")
    disk.judge_digests(check, life, "read back on the other CPU")
    disk.judge_trim(check, life)
    found = life.table("interrupt").get("sym53c8xx", [])
    check(found[0:1] == ["none"] and sum(map(int, found[1:])) > 50,
          f"pin interrupts by irqfd (mode, CPU0, CPU1): {' '.join(found) or 'none'}")


def judge_survived(check, report, count):
    expected = hashlib.sha256(b"".join(flush_kill.sector_of(number) * 8
                                       for number in range(count))).hexdigest()
    check(report.one("survived") == f"{count} {expected}",
          f"the guest reads the {count} flushed blocks from the new process, writes another")


def judge_hotplug(check, report, content):
    expected = hashlib.sha256(content[: 256 * 512]).hexdigest()
    blocks = {name: words[0] for name, words in report.table("blocks").items() if words}
    for number, time_word in ((1, "first"), (2, "second")):
        check(blocks.get(f"round-{number}") == expected,
              f"plugged the {time_word} time, the disk has its content")


def judge_refusal(check, name, status, errors, pattern):
    """A sentence on standard error that matches, and status 1."""
    said = errors.strip()
    check(status == 1 and len(said.splitlines()) == 1 and re.search(pattern, said) is not None,
          f"{name}: status {status}, '{said}'")


def judge_rsdp(check, ram):
    """Where guests look for it lies an RSDP that leads to the tables. They are in the last 64 KiB
    of low RAM, of which SeaBIOS has used nothing: at most 16 KiB of it are not zero."""
    ram.seek(0xF0000)
    segment = ram.read(0x10000)
    found = [at for at in range(0, 0x10000, 16) if segment[at:at + 8] == b"RSD PTR "
             and sum(segment[at:at + 36]) % 256 == 0]
    names = []
    if len(found) == 1:
        (xsdt,) = struct.unpack_from("<Q", segment, found[0] + 24)
        ram.seek(xsdt)
        header = ram.read(8)
        names.append(header[:4])
        count = (struct.unpack("<I", header[4:])[0] - 36) // 8
        ram.seek(xsdt + 36)
        for address in struct.unpack(f"<{count}Q", ram.read(8 * count)):
            ram.seek(address)
            names.append(ram.read(4))
    check(names == [b"XSDT", b"FACP", b"APIC", b"MCFG"],
          f"SeaBIOS has put an RSDP where guests look for it; its tables: {names}")
    ram.seek(MEMORY - (48 << 10))
    check(not any(ram.read(48 << 10)), "SeaBIOS has used nothing of the memory of the tables")


# ---- the parts ----


def life_and_reread(lab, options, image, device, disk_args, dev):
    """Two boots on one image, the second with acknowledged writes; their reports."""
    reports = []
    for test in ["disk", "reread"]:
        trace = lab.work / f"{test}.trace"
        args = [*disk_args(image), *(["-trace", trace] if options.part == "disk" else [])]
        posted = ",x-no-posted-writes=on" if test == "reread" else ""
        machine = Machine(lab, options, f"linux-{test}", test, ["-device", device + posted],
                          [str(arg) for arg in args], dev)
        pid = machine.pid_of_disk()
        report = machine.finish()
        lab.check(gone(pid), "the device process ends with its guest")
        judge_kernel(lab.check, report)
        reports.append(report)
        if options.part == "disk":
            shutil.copy(trace, options.out)
    return reports


def part_disk(lab, options):
    image = lab.image("disk.img", disk.IMAGE_SIZE)
    life, reread = life_and_reread(lab, options, image, "vfio-user-pci,id=nvme0,process=disk",
                                   lambda path: [*medium(path), *NVME], "nvme0n1")
    disk.judge_disk_report(lab.check, life)
    disk.judge_digests(lab.check, reread, "reread after a reboot")
    disk.judge_image(lab.check, image)


def part_lsi(lab, options):
    image = lab.image("disk.img", disk.IMAGE_SIZE)
    life, reread = life_and_reread(
        lab, options, image, "pci-proxy-dev,id=lsi0,protocol=mpqemu,process=disk",
        lambda path: [*medium(path), *LSI], "sda")
    judge_lsi(lab.check, life)
    disk.judge_digests(lab.check, reread, "reread after a reboot")
    disk.judge_image(lab.check, image)


def part_kill(lab, options):
    image = lab.image("disk.img", SMALL_IMAGE)
    device = {"driver": "vfio-user-pci", "id": "nvme0", "process": "disk", "bus": "rp0"}
    machine = Machine(lab, options, "linux-survive", "survive", [
        "-device", "pcie-root-port,id=rp0", "-device", json.dumps(device)],
        [*medium(image), *NVME])
    machine.process.wait_for_line("^FARSIDE: flushed 20$", WAIT)
    pid = machine.pid_of_disk()
    os.kill(pid, signal.SIGKILL)
    machine.process.wait_for_line("^FARSIDE: lost ", WAIT)
    lab.check(True, "the guest's write fails after the SIGKILL, it does not hang")
    machine.process.wait_for_line("^FARSIDE: time .* gone$", WAIT)
    data = machine.qmp.event("DEVICE_DELETED")
    lab.check(data == {"device": "nvme0"}, f"the disk left the guest; DEVICE_DELETED {data}")
    lab.check(machine.qmp.command("query-status")["running"], "vmm-lite and the guest live")
    written = image.read_bytes()
    numbers = [int(match.group(1)) for line in machine.process.lines
               if (match := re.fullmatch(r"FARSIDE: flushed (\d+)", line))]
    wrong = flush_kill.judge_blocks(written, len(numbers))
    lab.check(wrong is None, wrong or f"the {len(numbers)} flushed blocks are in the image")
    machine.qmp.command("device_add", **device)
    lab.check(machine.pid_of_disk() != pid, "device_add has started a new device process")
    report = machine.finish()
    judge_survived(lab.check, report, len(numbers))


def part_hotplug(lab, options):
    image = lab.image("disk.img", SMALL_IMAGE)
    content = (live.GUEST_DATA * 32)[:SMALL_IMAGE]
    image.write_bytes(content)
    machine = Machine(lab, options, "linux-hotplug", "hotplug",
                      ["-device", "pcie-root-port,id=rp0"])
    machine.process.wait_for_line("^FARSIDE: waits", WAIT)
    machine.qmp.command("add-process", id="disk", exec=options.disk_proc,
                        args=[*medium(image), *NVME], devices=["nvme0"])
    device = {"driver": "vfio-user-pci", "id": "nvme0", "process": "disk", "bus": "rp0"}
    machine.qmp.command("device_add", **device)
    machine.process.wait_for_line("^FARSIDE: blocks round-1 ", WAIT)
    pid = machine.pid_of_disk()
    start = time.monotonic()
    machine.qmp.command("device_del", id="nvme0")
    data = machine.qmp.event("DEVICE_DELETED")
    lab.check(data == {"device": "nvme0"}, f"device_del: the guest let go after "
              f"{time.monotonic() - start:.1f} s; DEVICE_DELETED {data}")
    lab.check(gone(pid), "the device process of what was unplugged ends")
    machine.process.wait_for_line("^FARSIDE: time .* unplugged 1$", WAIT)
    machine.qmp.command("device_add", **device)
    report = machine.finish()
    judge_hotplug(lab.check, report, content)
    judge_kernel(lab.check, report)


def flushed(machine):
    return sum(line.startswith("FARSIDE: flushed ") for line in machine.process.lines)


def check_refusal(lab, name, argv, pattern):
    process = lab.start(f"refused-{name}", argv)
    status = process.wait(30)
    judge_refusal(lab.check, name, status, process.errors(), pattern)


def check_refusals(lab, options):
    vmm, guest = options.vmm_lite, options.guest
    boot = [vmm, "-kernel", guest / "vmlinux", "-serial", "none"]
    no_kernel = lab.work / "no-kernel"
    no_kernel.write_bytes(live.GUEST_DATA[:65536])
    check_refusal(lab, "no-kernel", [vmm, "-kernel", no_kernel, "-serial", "none"],
                  "^vmm-lite: .*kernel")
    check_refusal(lab, "little-memory",
                  [*boot, "-initrd", guest / "initramfs", "-m", "32M"], "^vmm-lite: .*(memory|-m)")
    check_refusal(lab, "missing-file", [vmm, "-kernel", "/nonexistent/kernel"],
                  "^vmm-lite: .*/nonexistent/kernel.*No such file")
    check_refusal(lab, "unknown-option", [*boot, "-frobnicate"], "^vmm-lite: .*frobnicate")
    hidden = ("mount -t tmpfs none /mnt && touch /mnt/null && mount --bind /dev/null /mnt/null && "
              'mount --move /mnt /dev && exec "$@"')
    check_refusal(lab, "no-kvm", ["unshare", "-m", "sh", "-c", hidden, "sh", *boot],
                  "^vmm-lite: .*/dev/kvm.*ci/kvm-lab")


def part_control(lab, options):
    image = lab.image("disk.img", SMALL_IMAGE)
    machine = Machine(lab, options, "linux-flush", "flush",
                      ["-device", "vfio-user-pci,id=nvme0,process=disk"],
                      [*medium(image), *NVME])
    machine.process.wait_for_line("^FARSIDE: flushed 10$", WAIT)
    disk_pid, cpu_pid = machine.pid_of_disk(), machine.pid_of_cpu()
    os.kill(machine.process.pid, signal.SIGKILL)
    lab.check(gone(machine.process.pid), "the control process is killed")
    before = flushed(machine)
    machine.process.wait_for_line(f"^FARSIDE: flushed {before + 20}$", WAIT)
    lab.check(not gone(disk_pid, 0.1) and not gone(cpu_pid, 0.1),
              f"the guest and its disk go on: {before} blocks flushed before, "
              f"{flushed(machine)} now")
    path = lab.work / "next.qmp"
    control = lab.start("control-2", [options.vmm_lite, "-attach", machine.control_path,
                                      "-qmp", f"unix:{path},server,wait=off"])
    qmp = Qmp(path, control)
    devices = qmp.command("query-pci")
    lab.check(qmp.command("query-status")["running"] and [dev["id"] for dev in devices]
              == ["nvme0"], f"a new control process takes over: {devices}")
    qmp.command("quit")
    lab.check(control.wait(20) == 0, f"its quit: status {control.state()}")
    left = [name for name, pid in (("guest", cpu_pid), ("disk", disk_pid)) if not gone(pid)]
    lab.check(not left, f"the guest and its disk end; still there: {left or 0}")
    machine.check_no_complaints()
    wrong = flush_kill.judge_blocks(image.read_bytes(), flushed(machine))
    lab.check(wrong is None, wrong or f"the {flushed(machine)} flushed blocks are in the image")
    check_refusals(lab, options)


def memory_of(pid):
    """The guest's RAM as a file, in which low RAM lies at its addresses."""
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if "guest-ram" in os.readlink(link):
            return open(link, "rb")
    raise live.LabError("the CPU process has no memory file")


def part_seabios(lab, options):
    said = "FARSIDE: booted from disk"
    code = (options.guest / "bootsector").read_bytes()
    image = lab.image("disk.img", SMALL_IMAGE)

    def boot(name, sector, *more, device="vfio-user-pci,id=nvme0,process=disk", model=NVME):
        with open(image, "r+b") as file:
            file.write(sector)
        return Machine(lab, options, name, "seabios", [*more, "-device", device],
                       [*medium(image), *model], boot=["-bios", options.bios])

    def boot_once(name, *more, **kwargs):
        machine = boot(name, code, "-no-reboot", *more, **kwargs)
        status = machine.process.wait(WAIT)
        times = machine.process.lines.count(said)
        lab.check(times == 1 and status == 0, f"{name}: SeaBIOS boots the disk's boot sector: it "
                  f"spoke {times} time(s), vmm-lite's status {status}")
        machine.check_no_complaints()

    boot_once("nvme")
    boot_once("nvme-behind-a-port", "-device", "pcie-root-port,id=rp0",
              device="vfio-user-pci,id=nvme0,process=disk,bus=rp0")
    boot_once("lsi", device="pci-proxy-dev,id=lsi0,protocol=mpqemu,process=disk", model=LSI)

    machine = boot("nvme-reset", code)
    deadline = time.monotonic() + WAIT
    while machine.process.lines.count(said) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    times = machine.process.lines.count(said)
    lab.check(times >= 3, f"and again after each reset: it spoke {times} times")
    machine.qmp.command("quit")
    machine.process.wait(WAIT)

    reset = b"\xb0\xfe\xe6\x64"  # mov al, 0xfe; out 0x64, al
    machine = boot("nvme-halt", code.replace(reset, b"\x90" * len(reset)))
    machine.process.wait_for_line(f"^{said}$", WAIT)
    with memory_of(machine.pid_of_cpu()) as ram:
        judge_rsdp(lab.check, ram)
    machine.qmp.command("quit")
    lab.check(machine.process.wait(WAIT) == 0, "quit ends it")
    machine.check_no_complaints()


# ---- the two halves ----


def run_inside(options):
    options.cpu_pids = []
    with live.Lab(f"vmm_lite.{options.part}", options.keep) as lab:
        try:
            globals()[f"part_{options.part}"](lab, options)
        finally:  # they would outlive their control process, and hold its output open
            for pid in options.cpu_pids:
                if not gone(pid, 0.01):
                    os.kill(pid, signal.SIGKILL)
    if lab.status == 0:
        pathlib.Path(options.out, "passed").touch()
    else:
        for log in sorted(lab.work.glob("*.err")) + sorted(lab.work.glob("*.out")):
            lines = log.read_text(errors="replace").splitlines()
            print(f"---- the end of {log.name}:", *lines[-25:], sep="\n")
    return lab.status


def replay(options, out):
    """What disk-proc recorded in the lab, given to a fresh one here. The first recording began with
    an empty image and leaves what the second one began with."""
    image = out / "disk.img"
    image.touch()
    os.truncate(image, disk.IMAGE_SIZE)
    program = [options.disk_proc, *medium(image), *NVME]
    failures = 0
    for name in ["disk", "reread"]:
        trace = out / f"{name}.trace"
        run = subprocess.run([options.farside, "replay", trace, "--", *program],
                             capture_output=True, text=True, timeout=LAB_SECONDS)
        print(f"{'FAIL' if run.returncode else 'PASS'}  farside replay of {trace.name}, "
              f"{trace.stat().st_size >> 10} KiB: status {run.returncode}"
              + (f"\n{run.stdout}{run.stderr}" if run.returncode else ""), flush=True)
        failures += run.returncode != 0
    return 1 if failures else 0


def run_outside(options):
    guest = live.ensure_tools(qemu=False)
    bios = []
    if options.part == "seabios":
        root = subprocess.run([live.CI / "qemu-lab", "--root"], stdout=subprocess.PIPE, text=True)
        if root.returncode != 0:
            return 1  # it has said why
        bios = ["--bios", f"{root.stdout.strip()}/usr/share/seabios/bios-256k.bin"]
    with tempfile.TemporaryDirectory(prefix="farside-vmm-lite-") as out:
        where = [] if options.here else ["--lab"]
        run = subprocess.run([
            live.CI / "kvm-lab", *where, "--retries=1", "--timeout", str(LAB_SECONDS), "--share",
            out,
            sys.executable, "-B", __file__, "--inside", "--guest", guest, "--out", out,
            "--vmm-lite", options.vmm_lite, "--disk-proc", options.disk_proc,
            f"--part={options.part}", *bios])
        if run.returncode != 0 or not pathlib.Path(out, "passed").exists():
            return 1
        if options.farside and options.part == "disk":
            return replay(options, pathlib.Path(out))
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vmm-lite", metavar="PATH", required=True, help="the VMM to judge")
    parser.add_argument("--disk-proc", metavar="PATH", required=True, help="its device process")
    parser.add_argument("--farside", metavar="PATH", help="replays what part disk recorded")
    parser.add_argument("--part", choices=PARTS, default="disk", help="(default: disk)")
    parser.add_argument("--here", action="store_true",
                        help="use this machine's /dev/kvm, if it makes a machine")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--guest", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--bios", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for name in ["vmm_lite", "disk_proc", "farside"]:
        path = getattr(options, name)
        if path and not os.access(path, os.X_OK):
            parser.error(f"{path} is not a program; build the target {name.replace('_', '-')} "
                         "first")
        if path:
            setattr(options, name, os.path.realpath(path))
    return run_inside(options) if options.inside else run_outside(options)


if __name__ == "__main__":
    sys.exit(main())
