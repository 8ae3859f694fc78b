#!/usr/bin/env -S python3 -B
"""Records a main trace: the Linux guest of linux_disk.py on a disk-proc with -trace.

The medium is generated (its content follows from a seed), so the trace alone is enough to replay
it. `ci/live/record_trace.py --disk-proc build/release/bin/disk-proc --output FILE` makes what
scenarios/traces/linux-disk.trace is; with --model=lsi53c895a, what linux-lsi.trace is.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

import lab as live
import linux_disk as disk

LIMIT = 8 << 20  # bytes of a trace


class TappedDisk(live.DiskProc):
    """disk-proc with the device tap and a generated medium."""

    NAME = "nvme0n1"  # in the guest
    MEDIUM = f"driver=generated,node-name=drive0,size={disk.IMAGE_SIZE},seed=42"

    def __init__(self, lab, options):
        super().__init__(lab, lab.work / "disk", options)
        self.trace = lab.work / "guest.trace"

    def medium_arguments(self):
        return ["-blockdev", self.MEDIUM, "-trace", self.trace]

    def judge(self, check, report):
        disk.judge_disk_report(check, report)


class TappedScsiDisk(TappedDisk):
    """A SCSI disk at an LSI53C895A. It has a pin, and no CPU of its own for each queue."""

    DEVICE_ID = "lsi0"
    NAME = "sda"
    MEDIUM = f"{TappedDisk.MEDIUM},discard=unmap"  # or it says that nothing can be trimmed

    def device_arguments(self):
        return ["-device", f"lsi53c895a,id={self.DEVICE_ID}",
                "-device", f"scsi-hd,drive=drive0,bus={self.DEVICE_ID}.0,scsi-id=0"]

    def judge(self, check, report):
        check(report.one("sectors") == str(disk.IMAGE_SIZE // 512),
              f"the disk has {disk.IMAGE_SIZE // 512} sectors: {report.one('sectors')}; vendor "
              f"{report.one('vendor')}, model {report.one('model')}")
        disk.judge_digests(check, report, "read back on the other CPU")
        disk.judge_trim(check, report)
        mode, *counts = report.table("interrupt").get("sym53c8xx", ["no driver"])
        check(mode == "none" and sum(map(int, counts)) > 50,
              f"pin interrupts of sym53c8xx (mode, CPU0, CPU1): {mode} {' '.join(counts)}")


DISKS = {"nvme": TappedDisk, "lsi53c895a": TappedScsiDisk}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    live.device_options(parser)
    parser.add_argument("--model", choices=DISKS, default="nvme", help="the controller")
    parser.add_argument("--output", metavar="FILE", type=pathlib.Path, required=True,
                        help="the trace; overwritten")
    parser.add_argument("--replay-with", metavar="FARSIDE",
                        help="replay what was recorded, at each level")
    options = live.parse(parser)
    guest = live.ensure_tools()
    with live.Lab("record_trace", options.keep) as lab:
        device = DISKS[options.model](lab, options)
        device.start("disk-proc")
        life = disk.boot_and_report(lab, device, options, guest, "disk", posted=True,
                                    name=device.NAME)
        device.judge(lab.check, life)
        device.stop()
        size = device.trace.stat().st_size
        lab.check(0 < size < LIMIT, f"the trace has {size >> 10} KiB, of {LIMIT >> 10} at most")
        for level in ["exact", "memory", "guest"] if options.replay_with else []:
            run = subprocess.run([options.replay_with, "replay", f"--level={level}", device.trace],
                                 capture_output=True, text=True, timeout=60)
            lab.check(run.returncode == 0, f"replay at level {level}: status {run.returncode}"
                      + ("" if run.returncode == 0 else f"\n{run.stdout}{run.stderr}"))
        shutil.copy(device.trace, options.output)
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
