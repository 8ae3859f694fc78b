#!/usr/bin/env -S python3 -B
"""Debian's kernel with its own nvme driver lives on the disk; SeaBIOS boots from it.

The guest partitions, makes an ext4, writes on each of two CPUs, reads it back on the other one,
trims, unmounts, powers off. A second boot on the same disk-proc rereads it, this time with
acknowledged register writes. Then the host looks at the image with tools that know nothing of NVMe,
and SeaBIOS boots a sector from the disk.
"""

import argparse
import hashlib
import re
import struct
import subprocess
import sys

import lab as live

IMAGE_SIZE = 256 << 20
PARTITION_START = 2048  # sectors
PARTITION_OFFSET = PARTITION_START * 512

# Kernel messages (level warning or worse) that concern the disk.
DISK_COMPLAINT = re.compile(r"nvme|EXT4|JBD2|blk_|I/O error|irq .*nobody cared", re.IGNORECASE)


def expected_digests():
    """The files that test disk leaves, by name."""
    digests = {}
    for cpu in (0, 1):
        for number in (1, 2):
            content = f"cpu {cpu} file {number}\n".encode() + live.GUEST_DATA
            digests[f"cpu{cpu}-file{number}"] = hashlib.sha256(content).hexdigest()
        digests[f"cpu{cpu}-direct"] = hashlib.sha256(live.GUEST_DATA).hexdigest()
    return digests


def judge_end(check, report, test, status):
    """Whether the guest got through; what it says is worth judging then."""
    failures = report.all("failed")
    passed = report.all("passed") == [test] and not failures
    check(passed and status == 0,
          f"the guest ran test {test} to its end and powered off: QEMU's status {status}"
          + "".join(f"; it said: failed {failure}" for failure in failures))
    complaints = [line for line in report.all("kernel") if DISK_COMPLAINT.search(line)]
    check(not complaints, "the guest's kernel complains of nothing about the disk"
          + "".join(f"\n      {line}" for line in complaints[:10]))
    return passed


def judge_digests(check, report, who):
    digests = {name: words[0] for name, words in report.table("digest").items() if words}
    wrong = [name for name, digest in expected_digests().items() if digests.get(name) != digest]
    check(not wrong, f"{who}: {len(expected_digests()) - len(wrong)} of "
          f"{len(expected_digests())} files have the right content"
          + (f"; wrong: {', '.join(wrong)}" if wrong else ""))


def judge_trim(check, report):
    trimmed = re.search(r"(\d+) bytes", report.one("trimmed"))
    check(trimmed is not None and int(trimmed.group(1)) > 0, f"trim: {report.one('trimmed')}")


def judge_interrupts(check, report):
    """Each I/O queue has an MSI-X vector of its own that fired, and both CPUs took some."""
    queues = {name: words for name, words in report.table("interrupt").items() if len(words) == 3}
    counts = {name: [int(word) for word in words[1:]] for name, words in queues.items()}
    io_queues = ["nvme0q1", "nvme0q2"]
    ok = (set(io_queues) <= set(queues)
          and all(words[0] == "msix" for words in queues.values())
          and all(sum(counts[name]) > 0 for name in io_queues)
          and all(sum(counts[name][cpu] for name in io_queues) > 0 for cpu in (0, 1)))
    said = ", ".join(f"{name} {' '.join(words)}" for name, words in sorted(queues.items()))
    check(ok, f"MSI-X on both CPUs (queue, mode, CPU0, CPU1): {said or 'none'}")


def judge_disk_report(check, report):
    check(report.one("cpus") == "2", f"two CPUs: {report.one('cpus')}")
    check(report.one("serial") == live.SERIAL,
          f"the disk's serial is {live.SERIAL}: {report.one('serial')}; model "
          f"{report.one('model')}, firmware {report.one('firmware_rev')}")
    check(report.one("sectors") == str(IMAGE_SIZE // 512),
          f"the disk has {IMAGE_SIZE // 512} sectors: {report.one('sectors')}")
    judge_digests(check, report, "read back on the other CPU")
    judge_trim(check, report)
    judge_interrupts(check, report)


def judge_image(check, image):
    """The host's own look: the partition table by its bytes, the file system by e2fsprogs."""
    with open(image, "rb") as file:
        mbr = file.read(512)
    kind, start, sectors = mbr[450], *struct.unpack_from("<II", mbr, 454)
    check((mbr[510:], kind, start, sectors, mbr[462:510]) ==
          (b"\x55\xaa", 0x83, PARTITION_START, IMAGE_SIZE // 512 - PARTITION_START, bytes(48)),
          f"the image's partition table: type {kind:#x}, from sector {start}, {sectors} sectors")

    volume = f"{image}?offset={PARTITION_OFFSET}"
    fsck = subprocess.run(["e2fsck", "-fn", volume], capture_output=True, text=True, timeout=60)
    check(fsck.returncode == 0, f"e2fsck finds the image clean: status {fsck.returncode}"
          + ("" if fsck.returncode == 0 else f"\n{fsck.stdout}{fsck.stderr}"))
    wrong = []
    for name, digest in expected_digests().items():
        content = subprocess.run(["debugfs", "-R", f"cat /{name}", volume], stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, timeout=60).stdout
        if hashlib.sha256(content).hexdigest() != digest:
            wrong.append(name)
    check(not wrong, "debugfs reads the right content from the image"
          + (f"; wrong: {', '.join(wrong)}" if wrong else ""))


def boot_and_report(lab, device, options, guest, test, posted, name="nvme0n1"):
    """`name` is the disk's in the guest."""
    qemu = live.boot_linux(lab, f"linux-{test}", device, options.dma, guest, test, posted=posted,
                           disk=name)
    qemu.wait_for_line("^FARSIDE: time .* disk", live.GUEST_TIMEOUT)
    device.check_guest_memory()
    status = qemu.wait(live.GUEST_TIMEOUT)
    report = live.Report(qemu.lines)
    if not judge_end(lab.check, report, test, status):
        raise live.LabError(f"nothing more is judged; {qemu.name}'s last words: "
                            f"{qemu.last_words()}")
    return report


def boot_seabios(lab, device, options, image, bootsector):
    """The boot code goes where an MBR has it: before the partition table, which stays."""
    with open(image, "r+b") as file:
        file.write(bootsector.read_bytes()[:440])
    device.start("disk-proc-2")
    qemu = live.start_qemu(lab, "seabios", device, options.dma, [])
    status = qemu.wait(30)
    times = qemu.lines.count("FARSIDE: booted from disk")
    lab.check(times == 1 and status == 0,
              f"SeaBIOS boots the disk's boot sector: it spoke {times} time(s), QEMU's status "
              f"{status}")
    device.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    live.device_options(parser)
    options = live.parse(parser, ["e2fsck", "debugfs"])
    guest = live.ensure_tools()
    with live.Lab("linux_disk", options.keep) as lab:
        image = lab.image("disk.img", IMAGE_SIZE)
        device = live.make_device(lab, image, options)
        device.start("disk-proc-1")
        life = boot_and_report(lab, device, options, guest, "disk", posted=True)
        judge_disk_report(lab.check, life)
        reread = boot_and_report(lab, device, options, guest, "reread", posted=False)
        judge_digests(lab.check, reread, "reread after a reboot")
        device.stop()
        judge_image(lab.check, image)
        boot_seabios(lab, device, options, image, guest / "bootsector")
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
