#!/usr/bin/env -S python3 -B
"""Debian's QEMU 7.2 and kernel live on a disk behind QEMU's multi-process protocol.

The guest partitions, makes an ext4, writes, reads back, trims, powers off; a second boot with a
fresh remote on the same image rereads it. Then the host looks at the image with tools that know
nothing of SCSI or NVMe, and SeaBIOS, which polls, boots a sector from the disk.
"""

import sys

import lab as live
import linux_disk as disk
import mpqemu

LSI_IDENTITY = {"vendor": "QEMU", "model": "QEMU HARDDISK"}


def judge_identity(check, report, model, own):
    """What the guest read of the disk's name; `own` is the remote's own word, if it is QEMU."""
    if model == "nvme":
        check(report.one("serial") == live.SERIAL,
              f"the disk's serial is {live.SERIAL}: {report.one('serial')}; model "
              f"{report.one('model')}, firmware {report.one('firmware_rev')}")
        return
    said = {key: report.one(key) for key in LSI_IDENTITY}
    check(all(text not in ("", "(not said)") for text in said.values())
          and (not own or said == LSI_IDENTITY), f"the disk's vendor and model: {said}, revision "
          f"{report.one('rev')}")


def judge_interrupts(check, report, irq_name, relay):
    """A pin interrupt, and the driver took what the relay delivered. A guest that polls counts
    none."""
    found = report.table("interrupt").get(irq_name, [])
    count = int(found[1]) if len(found) == 2 else -1
    if relay:
        # A pulse may be taken twice (the I/O APIC asks again at the EOI) or with the one before.
        check(found[0:1] == ["none"] and count > 50,
              f"real pin interrupts of {irq_name}: the relay delivered {relay.interrupts}, the "
              f"guest counted {count}")
    else:
        check(found[0:1] == ["none"], f"the driver has a pin interrupt (and polls it): {irq_name} "
              f"{' '.join(found) or 'none'}")


def judge_disk_report(check, report, options, relay):
    model = mpqemu.MODELS[options.model]
    judge_identity(check, report, options.model, own=mpqemu.is_qemu(options.remote))
    check(report.one("sectors") == str(disk.IMAGE_SIZE // 512),
          f"the disk has {disk.IMAGE_SIZE // 512} sectors: {report.one('sectors')}")
    disk.judge_digests(check, report, "read back")
    disk.judge_trim(check, report)
    judge_interrupts(check, report, model.irq_name, relay)


def boot_and_report(lab, remote, options, guest, test):
    report, status, relay = mpqemu.boot_linux(lab, f"linux-{test}", remote, options, guest, test)
    mpqemu.judge_end(lab, remote, report, test, status)
    return report, relay


def boot_seabios(lab, remote, options, image, bootsector):
    """The boot code goes where an MBR has it: before the partition table, which stays."""
    with open(image, "r+b") as file:
        file.write(bootsector.read_bytes()[:440])
        file.seek(510)
        file.write(b"\x55\xaa")  # as sfdisk left it, or for a disk that Linux has not had
    main, relay = mpqemu.start_main(lab, "seabios", remote, options, [])
    status = main.wait(30)
    if relay:
        relay.join()
    times = main.lines.count("FARSIDE: booted from disk")
    lab.check(times == 1 and status == 0,
              f"SeaBIOS boots the disk's boot sector: it spoke {times} time(s), QEMU's status "
              f"{status}")
    remote.check_end()


def live_and_reread(lab, remote, options, image, guest):
    life, relay = boot_and_report(lab, remote, options, guest, "disk")
    judge_disk_report(lab.check, life, options, relay)
    reread, _ = boot_and_report(lab, remote, options, guest, "reread")
    disk.judge_digests(lab.check, reread, "reread after a reboot")
    disk.judge_image(lab.check, image)


def main():
    options = mpqemu.parse(
        __doc__.splitlines()[0], ["e2fsck", "debugfs"], ["lsi53c895a", "nvme"], more=lambda parser:
        parser.add_argument("--part", choices=["all", "linux", "seabios"], default="all",
                            help="which of the guests (default: all)"))
    guest = live.ensure_tools(qemu=False)
    with live.Lab("mpqemu_disk", options.keep) as lab:
        image = lab.image("disk.img", disk.IMAGE_SIZE)
        remote = mpqemu.Remote(lab, image, options, medium=",discard=unmap")
        if options.part != "seabios":
            live_and_reread(lab, remote, options, image, guest)
        if options.part != "linux":
            boot_seabios(lab, remote, options, image, guest / "bootsector")
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
