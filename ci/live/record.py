#!/usr/bin/env -S python3 -B
"""A real guest's disk is recorded by `farside record`, and neither notices.

QEMU speaks to the recorder, the recorder to disk-proc; guest and image are judged as in
linux_disk.py. Then the trace: what `farside trace` says of it, and whether tshark finds a packet
for each event.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time

import lab as live
import linux_disk as disk


class RecordedDisk(live.DiskProc):
    """disk-proc behind `farside record`, which is what QEMU connects to."""

    def __init__(self, lab, image, options):
        super().__init__(lab, image, options)
        self.farside = options.farside
        self.tap_dma = options.tap_dma
        self.tap_socket = image.with_suffix(".tap")
        self.trace = lab.work / "guest.trace"
        self.tap = None

    def start(self, name):
        super().start(name)
        self.tap = self.lab.start("record", [
            self.farside, "record", "--listen", self.tap_socket, "--connect", self.socket,
            "--output", self.trace, f"--dma={self.tap_dma}", "--id=nvme0", "--model=nvme",
            "--", "disk-proc", "-device", "nvme,id=nvme0"])
        deadline = time.monotonic() + 10
        while not live.listens(self.tap_socket, self.tap.pid):
            if not self.tap.running() or time.monotonic() > deadline:
                raise live.LabError(f"farside record does not listen: {self.tap.last_words()}")
            time.sleep(0.005)

    def qemu_arguments(self, posted):
        served, self.socket = self.socket, self.tap_socket
        try:
            return super().qemu_arguments(posted)
        finally:
            self.socket = served

    def check_guest_memory(self):
        """The memory that QEMU gives is mapped by the one who is to have it, and only there."""
        wanted = {self.tap: self.dma == "fd" and self.tap_dma == "message",
                  self.process: self.dma == "fd" and self.tap_dma == "shared"}
        for process, should in wanted.items():
            with open(f"/proc/{process.pid}/maps") as file:
                mapped = "memfd:memory-backend-memfd" in file.read()
            self.lab.check(mapped == should,
                           f"guest memory is {'' if mapped else 'not '}mapped in {process.name}")

    def stop(self):
        self.tap.signal(signal.SIGINT)
        status = self.tap.wait(10)
        complaints = [line for line in self.tap.errors().splitlines()
                      if self.COMPLAINT.search(line) or "warning" in line]
        self.lab.check(status == 0 and not complaints,
                       f"farside record ended with status {status}, {len(complaints)} complaints: "
                       + " | ".join(complaints[:10] or self.tap.lines[-1:]))
        super().stop()


def run_tool(lab, what, argv):
    """Its output. A tool that fails ends the judge."""
    run = subprocess.run(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, timeout=120)
    if run.returncode != 0:
        raise live.LabError(f"{what} failed with status {run.returncode}: {run.stderr.strip()}")
    return run.stdout


def number_in(text, pattern):
    """The first number that `pattern` finds in the lines of `text`; -1 if there is none."""
    match = re.search(pattern, text, re.MULTILINE)
    return int(match.group(1)) if match else -1


def judge_stats(check, stats, options):
    """The figures of the guest that test disk is."""
    commands = {name: int(count) for count, name in
                re.findall(r"^ +(\d+) +nvme (Identify|Write|Read|Flush|Dataset Management)(?:,|$)",
                           stats, re.MULTILINE)}
    counted = ", ".join(f"{count} {name}" for name, count in commands.items())
    if options.tap_dma == "shared" and options.dma == "fd":
        check(not commands, f"DMA to shared memory is not in the trace: {counted or 'no command'}")
    else:
        check(all(commands.get(name, 0) >= least for name, least in
                  [("Identify", 3), ("Write", 50), ("Read", 50), ("Flush", 2),
                   ("Dataset Management", 1)]), f"NVMe commands: {counted or 'none'}")
        read = number_in(stats, r"^ *(\d+) bytes read by DMA")
        written = number_in(stats, r"^ *(\d+) bytes written by DMA")
        # The guest writes 2 MiB seven times and reads six of them back.
        check(read > 14 << 20 and written > 12 << 20,
              f"the device read {read} bytes of memory and wrote {written}")
    vectors = {int(vector): int(count) for count, vector in
               re.findall(r"^ +(\d+) +interrupts MSI-X (\d+)$", stats, re.MULTILINE)}
    check(all(vectors.get(vector, 0) > 0 for vector in (0, 1, 2)),
          f"interrupts by MSI-X vector: {vectors}")
    seconds = re.search(r"([\d.]+) s$", stats, re.MULTILINE)
    check(seconds is not None and 0.5 < float(seconds.group(1)) < live.GUEST_TIMEOUT,
          f"the trace lasts {seconds.group(1) if seconds else 'no'} s")


def packets(lab, file):
    """How many tshark finds."""
    table = run_tool(lab, "tshark", ["tshark", "-r", file, "-q", "-z", "io,stat,0"])
    rows = re.findall(r"^\|.*<>.*\|\s*(\d+)\s*\|\s*\d+\s*\|$", table, re.MULTILINE)
    return int(rows[0]) if rows else -1


def judge_trace(lab, options, trace):
    tool = [options.farside, "trace"]
    stats = run_tool(lab, "farside trace stats", [*tool, "stats", trace])
    (lab.work / "stats.txt").write_text(stats)
    judge_stats(lab.check, stats, options)
    events = number_in(stats, r"^ *(\d+) events$")
    shown = run_tool(lab, "farside trace show", [*tool, "show", trace]).splitlines()
    lab.check(len(shown) == events > 1000, f"farside trace show has {len(shown)} lines for "
              f"{events} events; one of them: {shown[len(shown) // 2] if shown else ''}")

    plain = trace.with_suffix(".pcapng")
    run_tool(lab, "farside trace convert", [*tool, "convert", trace, plain])
    for file in (trace, plain):
        found = packets(lab, file)
        lab.check(found == events, f"tshark finds {found} packets in {file.name}, of {events}")

    # There and back by way of JSON it is the same to the byte.
    flat, again = trace.with_suffix(".json"), lab.work / "again.pcapng"
    run_tool(lab, "farside trace convert", [*tool, "convert", trace, flat])
    run_tool(lab, "farside trace convert", [*tool, "convert", flat, again])
    lab.check(plain.read_bytes() == again.read_bytes(),
              f"the trace ({trace.stat().st_size >> 10} KiB) comes back the same from its JSON "
              f"({flat.stat().st_size >> 10} KiB)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    live.device_options(parser)
    parser.add_argument("--farside", metavar="PATH", required=True, help="the farside to judge")
    parser.add_argument("--tap-dma", choices=["message", "shared"], default="message",
                        help="farside record's --dma")
    options = live.parse(parser, ["e2fsck", "debugfs", "tshark"])
    if not os.access(options.farside, os.X_OK):
        parser.error(f"{options.farside} is not a program; build the target farside first")
    guest = live.ensure_tools()
    with live.Lab("record", options.keep) as lab:
        image = lab.image("disk.img", disk.IMAGE_SIZE)
        device = RecordedDisk(lab, image, options)
        device.start("disk-proc")
        life = disk.boot_and_report(lab, device, options, guest, "disk", posted=True)
        disk.judge_disk_report(lab.check, life)
        device.stop()
        disk.judge_image(lab.check, image)
        judge_trace(lab, options, device.trace)
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
