#!/usr/bin/env -S python3 -B
"""Records the main trace: the Linux guest of linux_disk.py on a disk-proc with -trace.

The medium is generated (its content follows from a seed), so the trace alone is enough to replay
it. `ci/live/record_trace.py --disk-proc build/release/bin/disk-proc --output FILE` makes what
scenarios/traces/linux-disk.trace is.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

import lab as live
import linux_disk as disk


class TappedDisk(live.DiskProc):
    """disk-proc with the device tap and a generated medium."""

    def __init__(self, lab, options):
        super().__init__(lab, lab.work / "disk", options)
        self.trace = lab.work / "guest.trace"

    def medium_arguments(self):
        return ["-blockdev", f"driver=generated,node-name=drive0,size={disk.IMAGE_SIZE},seed=42",
                "-trace", self.trace]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    live.device_options(parser)
    parser.add_argument("--output", metavar="FILE", type=pathlib.Path, required=True,
                        help="the trace; overwritten")
    parser.add_argument("--replay-with", metavar="FARSIDE",
                        help="replay what was recorded, at each level")
    options = live.parse(parser)
    guest = live.ensure_tools()
    with live.Lab("record_trace", options.keep) as lab:
        device = TappedDisk(lab, options)
        device.start("disk-proc")
        life = disk.boot_and_report(lab, device, options, guest, "disk", posted=True)
        disk.judge_disk_report(lab.check, life)
        device.stop()
        size = device.trace.stat().st_size
        lab.check(0 < size < 8 << 20, f"the trace has {size >> 10} KiB, of 8 MiB at most")
        for level in ["exact", "memory", "guest"] if options.replay_with else []:
            run = subprocess.run([options.replay_with, "replay", f"--level={level}", device.trace],
                                 capture_output=True, text=True, timeout=60)
            lab.check(run.returncode == 0, f"replay at level {level}: status {run.returncode}"
                      + ("" if run.returncode == 0 else f"\n{run.stdout}{run.stderr}"))
        shutil.copy(device.trace, options.output)
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
