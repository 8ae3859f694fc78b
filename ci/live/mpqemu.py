"""A main QEMU and a device process at the two ends of a socket: QEMU's multi-process protocol.

The main QEMU is Debian 12's own, unmodified, with `x-pci-proxy-dev`. The remote is whatever takes
QEMU's remote options: our disk-proc, or that same QEMU, which proves the judges themselves. A
remote lasts as long as a boot: the main QEMU's end is its end.

Without KVM that QEMU hands the remote an interrupt eventfd that nobody reads, so either the guest
polls (IRQPOLL), or a relay between the two injects what it sees on the eventfd (class Relay).
"""

import argparse
import os
import pathlib
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time

import lab as live

# QEMU 10 and later crash at the proxy's start without KVM.
MAIN_VERSIONS = range(6, 10)
IRQPOLL = "irqpoll nolapic_timer nohz=off"
# On a busy machine the kernel's test of the 8254 counts too few ticks and may give up the boot.
COMMAND_LINE = f"{live.GUEST_COMMAND_LINE} no_timer_check"

# The wire: command, padding, size of what follows.
HEADER = struct.Struct("=iIQ")
CONFIG_WRITE, SET_IRQFD = 2, 6
ANSWERED = {2, 3, 4, 5, 7}  # config write and read, BAR write and read, reset
INTERRUPT_LINE = 0x3C  # of the configuration space: firmware writes the IRQ there
MAX_FDS = 16


class Model:
    """A device model on the remote, and how the guest sees it."""

    def __init__(self, disk, devices, complaint, irq_name):
        self.disk = disk  # its name in the guest
        self.devices = devices  # the disk is the last one
        self.irq_name = irq_name  # in /proc/interrupts
        self._complaint = complaint

    def complaints(self, lines, ordinary=""):
        """The kernel messages (level warning or worse) that concern the disk, but not what a driver
        says of every good one, nor what matches `ordinary`."""
        allowed = re.compile("sym0: No NVRAM|Power-on or device reset occurred"
                             + (f"|{ordinary}" if ordinary else ""))
        complaint = re.compile(f"{self._complaint}|EXT4|JBD2|blk_|I/O error|nobody cared",
                               re.IGNORECASE)
        return [line for line in lines if complaint.search(line) and not allowed.search(line)]


MODELS = {
    "lsi53c895a": Model("sda", ["lsi53c895a,id=dev0",
                                "scsi-hd,drive=d0,bus=dev0.0,scsi-id=0,lun=0"],
                        r"sym0|sym53c8xx|scsi|\bsd ", "sym53c8xx"),
    "nvme": Model("nvme0n1", [f"nvme,id=dev0,drive=d0,serial={live.SERIAL}"], "nvme", "nvme0q1"),
}


class Remote:
    """The device process on a raw image. It serves one socket, so each boot has a fresh one."""

    # disk-proc's or a sanitizer's complaints; QEMU's protocol errors, after which it ends with 0.
    COMPLAINT = re.compile(r"\berror\b|\bfatal\b|CHECK|Sanitizer|invalid|unexpected|unknown|unable",
                           re.IGNORECASE)

    def __init__(self, lab, image, options, medium="", disk=""):
        """`medium` and `disk` are further options of -blockdev and of the last -device."""
        self.lab = lab
        self.image = image
        self.medium = medium
        self.program = options.remote
        self.model = MODELS[options.model]
        self.devices = [*self.model.devices[:-1], self.model.devices[-1] + disk]
        self.process = None

    def start(self, name):
        """The socket whose other end the remote has."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = self.lab.start(name, [
                self.program, "-machine", "x-remote", "-nodefaults", "-display", "none",
                "-blockdev", f"driver=file,filename={self.image},node-name=f0{self.medium}",
                "-blockdev", f"driver=raw,file=f0,node-name=d0{self.medium}",
                *(word for device in self.devices for word in ("-device", device)),
                "-object", f"x-remote-object,id=robj1,devid=dev0,fd={theirs.fileno()}"],
                fds=[theirs.fileno()])
        return ours

    def check_end(self):
        """It ends by itself when the main QEMU is gone, with 0, and complained of nothing."""
        start = time.monotonic()
        status = self.process.wait(10)
        seconds = time.monotonic() - start
        complaints = [line for line in self.process.errors().splitlines()
                      if self.COMPLAINT.search(line)]
        self.lab.check(status == 0 and not complaints,
                       f"{self.process.name} ended {seconds:.2f} s after the main QEMU, status "
                       f"{status}, {len(complaints)} complaints"
                       + "".join(f"\n      {line}" for line in complaints[:10]))


class Relay:
    """Passes every message between the main QEMU and the remote, and delivers the remote's
    interrupts: an event on the eventfd of SET_IRQFD becomes a pulse at the I/O APIC's pin, by
    QTest, and an event on the resample eventfd after it, as KVM would do at the guest's EOI."""

    PULSE_GAP = 50e-6  # s, for the guest to take the interrupt before the level is asked for again
    WITHHELD_EVERY = 16  # events: one of so many reaches the guest only after the remote repeats it

    def __init__(self, main, remote, qtest_path):
        self._main = main
        self._remote = remote
        self._qtest_path = qtest_path
        self._irq_fds = []
        self._irq = 0
        self._stop = threading.Event()
        self.interrupts = 0
        self.messages = 0
        self.withheld = 0
        self.repeated = 0
        self._events = 0
        self.error = None
        self._threads = [threading.Thread(target=self._guarded, args=[work], daemon=True)
                         for work in (self._pass_messages, self._deliver_interrupts)]
        for thread in self._threads:
            thread.start()

    def _guarded(self, work):
        try:
            work()
        except (OSError, EOFError) as error:
            if not self._stop.is_set():
                self.error = self.error or f"{work.__name__.strip('_')}: {error}"

    @staticmethod
    def _receive(source, size, fds=None):
        """Exactly `size` bytes, or an EOFError; an empty result at an orderly end."""
        data = b""
        while len(data) < size:
            if fds is None:
                part = source.recv(size - len(data))
            else:
                part, received, _, _ = socket.recv_fds(source, size - len(data), MAX_FDS)
                fds += received
            if not part:
                if data:
                    raise EOFError("the peer went away inside a message")
                return b""
            data += part
        return data

    def _pass_messages(self):
        while True:
            fds = []
            header = self._receive(self._main, HEADER.size, fds)
            if not header:
                break
            command, _, size = HEADER.unpack(header)
            body = self._receive(self._main, size)
            if command == SET_IRQFD and len(fds) == 2:
                self._irq_fds = [os.dup(fd) for fd in fds]
            elif command == CONFIG_WRITE:
                address, value, length = struct.unpack("=IIi", body)
                if address == INTERRUPT_LINE and length <= 4:
                    self._irq = value & 0xFF
            socket.send_fds(self._remote, [header + body], fds)
            for fd in fds:
                os.close(fd)
            self.messages += 1
            if command in ANSWERED:
                header = self._receive(self._remote, HEADER.size)
                if not header:
                    raise EOFError("the remote went away")
                body = self._receive(self._remote, HEADER.unpack(header)[2])
                self._main.sendall(header + body)
        self._stop.set()
        self._remote.close()

    def _deliver_interrupts(self):
        qtest = self._connect()
        replies = qtest.makefile("rb")
        while not self._stop.is_set():
            fds = self._irq_fds
            if not fds:
                time.sleep(0.005)  # before the first message
                continue
            # main has its dup too, but without KVM it reads nothing.
            if not select.select([fds[0]], [], [], 0.1)[0]:
                continue
            os.read(fds[0], 8)
            if self._events % self.WITHHELD_EVERY == 0:
                self._ask_again(*fds)
            self._events += 1
            pin = f"set_irq_in /machine/i440fx/ioapic unnamed-gpio-in {self._irq}"
            qtest.sendall(f"{pin} 1\n{pin} 0\n".encode())
            for _ in range(2):
                reply = replies.readline()
                if reply.strip() != b"OK":
                    raise OSError(f"QTest answered set_irq_in with {reply!r}")
            self.interrupts += 1
            time.sleep(self.PULSE_GAP)
            os.write(fds[1], (1).to_bytes(8, "little"))

    def _ask_again(self, irq, resample):
        """The guest has not heard of the interrupt, so its level stands, and the remote must say so
        again when it is asked."""
        os.write(resample, (1).to_bytes(8, "little"))
        self.withheld += 1
        if select.select([irq], [], [], 0.5)[0]:
            os.read(irq, 8)
            self.repeated += 1

    def _connect(self):
        deadline = time.monotonic() + 20
        while True:
            qtest = socket.socket(socket.AF_UNIX)
            try:
                qtest.connect(str(self._qtest_path))
                return qtest
            except OSError:
                qtest.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def join(self):
        """After the main QEMU's end."""
        for thread in self._threads:
            thread.join(10)
        for fd in self._irq_fds:
            os.close(fd)


def start_main(lab, name, remote, options, arguments, memory="256M"):
    """A pc machine whose only device is behind the proxy; its serial line is in the lines of the
    process. The remote is started with it. Returns both and the relay, which may be None."""
    link = remote.start(f"remote-{name}")
    relay, extra = None, []
    if options.relay:
        qtest = lab.work / f"qtest-{name}"
        outer, inner = socket.socketpair()
        relay = Relay(inner, link, qtest)
        link = outer
        extra = ["-qtest", f"unix:{qtest},server=on,wait=off", "-qtest-log", "none"]
    with link:
        main = lab.start(name, [
            options.main, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", memory,
            "-object", f"memory-backend-memfd,id=mem,size={memory},share=on",
            "-numa", "node,memdev=mem", "-nodefaults", "-display", "none", "-no-reboot",
            "-serial", "stdio", *extra,
            "-device", f"x-pci-proxy-dev,id=dev0,fd={link.fileno()}", *arguments],
            fds=[link.fileno()])
    return main, relay


def wait_while_served(main, remote, what, ready):
    """Until ready() is true, at most GUEST_TIMEOUT. A main QEMU whose remote is gone goes on
    without a disk, so the remote is watched too."""
    deadline = time.monotonic() + live.GUEST_TIMEOUT
    alone_since = None
    while not ready():
        now = time.monotonic()
        if remote.process.running():
            alone_since = None
        else:
            alone_since = alone_since or now
        # At the main QEMU's own end the remote may be the first to be gone.
        alone = alone_since is not None and now - alone_since > 1 and main.running()
        if alone or now > deadline:
            raise live.LabError(
                f"{main.name}: {what} "
                + ("did not come, the remote is gone" if alone else
                   f"did not come within {live.GUEST_TIMEOUT} s")
                + f"; {main.name}: {main.state()}, its last words: {main.last_words()}; "
                f"{remote.process.name}: {remote.process.state()}, its last words: "
                f"{remote.process.last_words()}")
        time.sleep(0.01)


def wait_for_line(main, remote, pattern):
    """Until the guest says such a line, or ends."""
    seen = 0

    def said():
        nonlocal seen
        lines = main.lines[seen:]
        seen += len(lines)
        return any(re.search(pattern, line) for line in lines) or not main.running()

    wait_while_served(main, remote, f"the line '{pattern}'", said)


def start_linux(lab, name, remote, options, guest, tests):
    """The guest, for `tests` (commas between): as start_main."""
    poll = "" if options.relay else f" {IRQPOLL}"
    return start_main(lab, name, remote, options, [
        "-kernel", guest / "vmlinux", "-initrd", guest / "initramfs",
        "-append", f"{COMMAND_LINE}{poll} farside.disk={remote.model.disk} "
                   f"farside.test={tests}"])


def boot_linux(lab, name, remote, options, guest, tests):
    """Boots the guest for `tests` and waits for its end. Returns the report, the exit status and
    the relay."""
    main, relay = start_linux(lab, name, remote, options, guest, tests)
    start = time.monotonic()
    wait_for_line(main, remote, "^FARSIDE: time .* disk")
    seconds = time.monotonic() - start
    wait_while_served(main, remote, "its end", lambda: not main.running())
    status = main.wait(5)
    if relay:
        relay.join()
        lab.check(relay.error is None, f"{name}: the relay passed {relay.messages} messages and "
                  f"{relay.interrupts} interrupts" + (f"; {relay.error}" if relay.error else ""))
        # A handler that is at work for the interrupt before may lower the level meanwhile.
        lab.check(relay.repeated >= max(1, 0.8 * relay.withheld),
                  f"{name}: of {relay.withheld} interrupts that the guest was not told of, the "
                  f"remote repeated {relay.repeated} when it was asked by the resample eventfd")
    report = live.Report(main.lines)
    lab.check(True, f"{name}: the disk was there {seconds:.1f} s after QEMU's start; guest times: "
              + ", ".join(report.all("time")))
    remote.check_end()
    return report, status, relay


def judge_end(lab, remote, report, tests, status, ordinary=""):
    """Whether the guest got through; without it nothing more is worth judging."""
    failures = report.all("failed")
    passed = report.all("passed") == [tests] and not failures
    lab.check(passed and status == 0,
              f"the guest ran test {tests} to its end and powered off: QEMU's status {status}"
              + "".join(f"; it said: failed {failure}" for failure in failures))
    complaints = remote.model.complaints(report.all("kernel"), ordinary)
    lab.check(not complaints, "the guest's kernel complains of nothing about the disk"
              + "".join(f"\n      {line}" for line in complaints[:10]))
    if not passed:
        raise live.LabError("nothing more is judged")


def is_qemu(program):
    """Whether the remote is QEMU's own, which has names and faults of its own."""
    return program.name.startswith("qemu")


def parse(description, programs=(), models=("lsi53c895a",), more=lambda parser: None):
    """The options of a judge, with those that `more` adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--remote", metavar="PROGRAM", required=True,
                        help="the device process to judge: disk-proc, or qemu-system-x86_64, which "
                             "proves the judge itself")
    parser.add_argument("--main", metavar="PROGRAM", default="qemu-system-x86_64",
                        help="the main QEMU, 6 to 9 (default: the system's)")
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--relay", action="store_true",
                        help="deliver the interrupts by a relay and QTest, instead of letting the "
                             "guest poll")
    more(parser)
    parser.add_argument("--keep", action="store_true", help="keep the work directory")
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where e2fsprogs are
    options = parser.parse_args()
    for program in programs:
        if not shutil.which(program):
            parser.error(f"{program} is missing; remedy: apt-get install e2fsprogs")
    remote = shutil.which(options.remote)
    if not remote:
        parser.error(f"{options.remote} is not a program; build the target disk-proc first")
    options.remote = pathlib.Path(remote).absolute()
    check_main(parser, options.main)
    return options


def check_main(parser, program):
    try:
        text = subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, timeout=20,
                              check=True).stdout
    except FileNotFoundError:
        parser.error(f"{program} is missing; remedy: ci/setup, or apt-get install qemu-system-x86")
    except (OSError, subprocess.SubprocessError) as error:
        parser.error(f"{program} --version: {error}")
    version = re.search(r"version (\d+)\.", text)
    if not version or int(version.group(1)) not in MAIN_VERSIONS:
        parser.error(f"{program} is '{text.splitlines()[0] if text else ''}'; the proxy works "
                     f"without KVM in QEMU {MAIN_VERSIONS[0]} to {MAIN_VERSIONS[-1]} only; remedy: "
                     "--main PROGRAM, or Debian 12's qemu-system-x86")

