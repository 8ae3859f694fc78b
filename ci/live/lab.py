"""What the live judges share: processes with time limits, the device under test, the guest, and
the count of checks.

A judge runs inside `with Lab(...) as lab`. Whatever way it ends, every process it started is ended
(by its pid) and the work directory, which holds all logs and images, is removed if all is well and
named if not.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

CI = pathlib.Path(__file__).resolve().parent.parent
SERIAL = "FARSIDE1"
GUEST_TIMEOUT = 120  # s; a boot takes 4 s when the machine is idle
GUEST_COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off"

# The content of the guest's /data: the same words stand in ci/guest/build.
GUEST_DATA = hashlib.shake_256(b"farside guest data").digest(2 << 20)


class LabError(Exception):
    """The judge cannot go on; the text says why and where to look."""


class Process:
    """A process of the lab. Its standard output is split into lines, kept with their times in
    `lines` and in NAME.out; its standard error goes to NAME.err."""

    def __init__(self, name, argv, work, fds=()):
        self.name = name
        self.out = work / f"{name}.out"
        self.err = work / f"{name}.err"
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False
        with open(self.err, "wb") as err:
            # The parent's death ends the child too, even a SIGKILL of the judge.
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, argv)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err,
                pass_fds=fds)
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        start = time.monotonic()
        with open(self.out, "w") as log:
            for raw in self._popen.stdout:
                line = raw.decode(errors="replace").rstrip("\r\n")
                log.write(f"{time.monotonic() - start:7.2f} {line}\n")
                log.flush()
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_line(self, pattern, timeout):
        """The first line that matches, printed or to come."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    how = "ended" if self._ended else f"was given {timeout} s"
                    raise LabError(f"{self.name} {how} and did not print '{pattern}'; "
                                   f"its last words: {self.last_words()}")
                self._changed.wait(left)

    def wait(self, timeout):
        """The exit status, or a LabError. All output has been read then."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {timeout} s; its last words: "
                           f"{self.last_words()}") from None
        self._reader.join()
        return status

    def running(self):
        return self._popen.poll() is None

    def signal(self, number):
        self._popen.send_signal(number)

    def end(self):
        """Ends it for certain, whatever it is doing."""
        if self.running():
            self.signal(signal.SIGKILL)
        self._popen.wait()
        self._reader.join()

    def state(self):
        status = self._popen.poll()
        if status is None:
            return "running"
        return f"status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"

    def errors(self):
        return self.err.read_text(errors="replace")

    def last_words(self):
        return " | ".join(self.lines[-3:] + self.errors().splitlines()[-3:]) or "none"


class Lab:
    """A judge's work directory, processes and checks."""

    def __init__(self, name, keep=False):
        self.name = name
        self.keep = keep
        self.work = pathlib.Path(tempfile.mkdtemp(prefix=f"farside-{name}-"))
        self.status = 1
        self._processes = []
        self._closed = False
        self._checks = 0
        self._failures = 0
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
        return self

    def __exit__(self, kind, error, _):
        if isinstance(error, LabError):
            self.check(False, str(error))
        with self._lock:
            self._closed = True
        states = [f"{process.name} {process.state()}" for process in self._processes]
        for process in self._processes:
            process.end()
        seconds = time.monotonic() - self._start
        complete = kind is None or isinstance(error, LabError)
        if complete and self._failures == 0 and self._checks > 0:
            self.status = 0
            print(f"{self.name}: all {self._checks} checks passed in {seconds:.1f} s")
        else:
            print(f"{self.name}: FAILED, {self._failures} of {self._checks} checks, "
                  f"in {seconds:.1f} s; at the end: {', '.join(states) or 'no process'}; "
                  f"logs and images: {self.work}")
        if self.status == 0 and not self.keep:
            shutil.rmtree(self.work)
        elif self.status == 0:
            print(f"{self.name}: logs and images: {self.work}")
        return complete

    def start(self, name, argv, fds=()):
        """Starts a process, which inherits `fds` under their numbers."""
        with self._lock:
            if self._closed:
                raise LabError(f"{name} is not started: the judge is at its end")
            process = Process(name, argv, self.work, fds)
            self._processes.append(process)
        return process

    def check(self, ok, what):
        with self._lock:
            self._checks += 1
            self._failures += not ok
            print(f"{'PASS' if ok else 'FAIL'}  {what}", flush=True)
        return ok

    def image(self, name, size):
        path = self.work / name
        with open(path, "wb") as file:
            file.truncate(size)
        return path


def listens(path, pid):
    """Whether a socket listens at `path`, seen from the network namespace of `pid`; a connection,
    which would count as a client, is not needed to know."""
    accepting = 0x10000  # __SO_ACCEPTCON in the Flags column
    try:
        with open(f"/proc/{pid}/net/unix") as table:
            rows = [line.split() for line in table.readlines()[1:]]
    except OSError:
        return False
    return any(row[7:] == [str(path)] and int(row[3], 16) & accepting for row in rows)


# ---- the device under test ----


class QemuNvme:
    """QEMU's own NVMe controller: proves the judge on a controller that is not ours."""

    def __init__(self, lab, image, _options):
        self.lab = lab
        self.image = image

    def start(self, _name):
        pass

    def qemu_arguments(self, posted):
        del posted  # a matter of vfio-user
        return ["-drive", f"if=none,id=drive0,format=raw,file={self.image}",
                "-device", f"nvme,drive=drive0,serial={SERIAL}"]

    def check_guest_memory(self):
        pass

    def kill(self, guest):
        guest.signal(signal.SIGKILL)

    def stop(self):
        pass


class DiskProc:
    """disk-proc with one NVMe controller on a raw image, behind vfio-user-pci."""

    DEVICE_ID = "nvme0"

    # Lines of its standard error that must not be: its own errors, a failed CHECK, a sanitizer.
    COMPLAINT = re.compile(r"\berror\b|\bfatal\b|CHECK|Sanitizer|runtime error", re.IGNORECASE)

    def __init__(self, lab, image, options):
        self.lab = lab
        self.image = image
        self.program = options.disk_proc
        self.dma = options.dma
        self.socket = image.with_suffix(".sock")
        self.process = None

    def medium_arguments(self):
        return ["-blockdev", f"driver=file,node-name=file0,filename={self.image}",
                "-blockdev", "driver=raw,node-name=drive0,file=file0"]

    def device_arguments(self):
        return ["-device", f"nvme,id={self.DEVICE_ID},drive=drive0,serial={SERIAL}"]

    def start(self, name):
        self.process = self.lab.start(name, [
            self.program, *self.medium_arguments(), *self.device_arguments(),
            "-object", f"x-vfio-user-server,id=v0,type=unix,path={self.socket},"
            f"device={self.DEVICE_ID}"])
        deadline = time.monotonic() + 10
        while not listens(self.socket, self.process.pid):  # nothing announces a bound socket
            if not self.process.running():
                raise LabError(f"{name} ended with status {self.process.wait(1)} instead of "
                               f"listening: {self.process.last_words()}")
            if time.monotonic() > deadline:
                raise LabError(f"{name} does not listen at {self.socket} after 10 s: "
                               f"{self.process.last_words()}")
            time.sleep(0.005)

    def qemu_arguments(self, posted):
        return ["-device", json.dumps({
            "driver": "vfio-user-pci", "x-no-posted-writes": not posted,
            "socket": {"type": "unix", "path": str(self.socket)}})]

    def check_guest_memory(self):
        """While a guest runs: its memory is mapped here, or is not, as --dma says. Without this
        a run by fd and a run by message could silently be the same one."""
        try:
            maps = pathlib.Path(f"/proc/{self.process.pid}/maps").read_text()
        except PermissionError:
            raise LabError(f"may not read /proc/{self.process.pid}/maps of {self.process.name}; "
                           "remedy: run the judge as root.") from None
        mapped = "memfd:memory-backend-memfd" in maps
        self.lab.check(mapped == (self.dma == "fd"),
                       f"guest memory is {'' if mapped else 'not '}mapped in {self.process.name} "
                       f"(dma={self.dma})")

    def kill(self, _guest):
        self.process.signal(signal.SIGKILL)
        self.process.wait(5)

    def stop(self):
        """It outlived its guests; SIGTERM ends it with 0; it complained of nothing on the way."""
        alive = self.process.running()
        if alive:
            self.process.signal(signal.SIGTERM)
        start = time.monotonic()
        status = self.process.wait(5)
        seconds = time.monotonic() - start
        complaints = [line for line in self.process.errors().splitlines()
                      if self.COMPLAINT.search(line)]
        how = f"on SIGTERM, in {seconds:.2f} s" if alive else "by itself, before SIGTERM"
        self.lab.check(alive and status == 0 and not complaints,
                       f"{self.process.name} ended {how}, status {status}, "
                       f"{len(complaints)} complaints"
                       + "".join(f"\n      {line}" for line in complaints[:10]))


def device_options(parser):
    parser.add_argument("--disk-proc", metavar="PATH", help="the disk-proc to judge")
    parser.add_argument("--device", choices=["disk-proc", "qemu-nvme"], default="disk-proc",
                        help="qemu-nvme: QEMU's own controller, which proves the judge itself")
    parser.add_argument("--dma", choices=["fd", "message"], default="fd",
                        help="how disk-proc reaches guest memory: windows by fd or by message")
    parser.add_argument("--keep", action="store_true", help="keep the work directory")


def parse(parser, programs=()):
    """The options. They and the `programs` of e2fsprogs are checked as far as a judge needs."""
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # where they are, also for those who are not root
    for program in programs:
        if not shutil.which(program):
            parser.error(f"{program} is missing; remedy: apt-get install e2fsprogs")
    if options.device == "disk-proc":
        if not options.disk_proc:
            parser.error("--disk-proc PATH is needed (or --device=qemu-nvme)")
        if not os.access(options.disk_proc, os.X_OK):
            parser.error(f"{options.disk_proc} is not a program; build the target disk-proc first")
    return options


def make_device(lab, image, options):
    kinds = {"disk-proc": DiskProc, "qemu-nvme": QemuNvme}
    return kinds[options.device](lab, image, options)


# ---- the guest ----


def ensure_tools(qemu=True):
    """The guest stands, and so does QEMU unless the judge has another; the directory of the
    guest."""
    commands = ([CI / "qemu-lab"] if qemu else []) + [CI / "guest/build"]
    for command in commands:
        run = subprocess.run([command], stdout=subprocess.PIPE, text=True)
        if run.returncode != 0:
            sys.exit(1)  # it has said why
    return pathlib.Path(run.stdout.strip())


def start_qemu(lab, name, device, dma, arguments, memory="512M", posted=True):
    """A q35 machine with `device`, its serial line in the lines of the process. Without `posted`,
    each register write waits for its acknowledgement."""
    ram = [] if dma == "message" else [
        "-object", f"memory-backend-memfd,id=ram,size={memory},share=on",
        "-machine", "memory-backend=ram"]
    return lab.start(name, [
        CI / "qemu-lab", "run", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
        "-m", memory, *ram, "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
        *device.qemu_arguments(posted), *arguments])


def boot_linux(lab, name, device, dma, guest, test, cpus=2, memory="512M", posted=True,
               disk="nvme0n1"):
    return start_qemu(lab, name, device, dma, [
        "-smp", cpus, "-kernel", guest / "vmlinux", "-initrd", guest / "initramfs",
        "-append", f"{GUEST_COMMAND_LINE} farside.disk={disk} farside.test={test}"],
        memory, posted)


class Report:
    """What a guest said: `FARSIDE: key words...`."""

    def __init__(self, lines):
        self._said = []
        for line in lines:
            if line.startswith("FARSIDE: "):
                key, _, rest = line.removeprefix("FARSIDE: ").partition(" ")
                self._said.append((key, rest))

    def all(self, key):
        return [rest for said, rest in self._said if said == key]

    def one(self, key):
        return (self.all(key) or ["(not said)"])[-1]

    def table(self, key):
        """`key name word...` lines as {name: [word...]}."""
        return {rest.split()[0]: rest.split()[1:] for rest in self.all(key) if rest.strip()}
