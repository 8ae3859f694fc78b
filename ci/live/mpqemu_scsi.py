#!/usr/bin/env -S python3 -B
"""SCSI commands that no file system sends, and many at once, by sg3-utils and fio in a Linux guest
behind QEMU's multi-process protocol.

The guest says what each tool said; this judges it by SPC-4 and SBC-3. What those leave to the disk
(verify with data, what an unmapped block reads as) is judged by what the disk says of itself.
"""

import hashlib
import re
import sys

import lab as live
import mpqemu

IMAGE_SIZE = 256 << 20
BLOCKS = IMAGE_SIZE // 512
VERIFIED_KIB = 8192  # what fio writes and verifies

# Exit statuses of sg3-utils.
GOOD, ILLEGAL_REQUEST, UNKNOWN_OPCODE, MISCOMPARE, OUT_OF_RANGE = 0, 5, 9, 14, 22

RESETS = {"device": "DEVICE RESET", "bus": "BUS RESET", "host": "HOST RESET"}
ASKED_FOR = r"(DEVICE|BUS|HOST) RESET operation (started|complete)|SCSI BUS reset detected"


def digest(data):
    return hashlib.sha256(data).hexdigest()


def written(first, count):
    """What the guest wrote to blocks 0 to 63."""
    return live.GUEST_DATA[first * 512 : (first + count) * 512]


class Tools:
    """The guest's `tool`, `out` and `blocks` lines."""

    def __init__(self, report):
        self._status = {name: int(words[0]) for name, words in report.table("tool").items()
                        if len(words) == 1 and words[0].isdigit()}
        self._output = {}
        for line in report.all("out"):
            name, _, text = line.partition(" ")
            self._output.setdefault(name, []).append(text)
        self._blocks = {name: words[0] for name, words in report.table("blocks").items() if words}

    def status(self, name):
        return self._status.get(name, -1)

    def output(self, name):
        return "\n".join(self._output.get(name, []))

    def field(self, name, pattern):
        """The first group of `pattern` in the tool's output, or None."""
        match = re.search(pattern, self.output(name), re.MULTILINE)
        return match.group(1).strip() if match else None

    def number(self, name, pattern):
        text = self.field(name, pattern)
        return int(text, 0) if text else -1

    def blocks(self, name):
        return self._blocks.get(name)


def judge_inquiry(check, tools):
    vendor = tools.field("inq", r"Vendor identification: (.*)")
    product = tools.field("inq", r"Product identification: (.*)")
    kind = tools.field("inq", r"Peripheral device type: (.*)")
    version = tools.number("inq", r"version=(0x[0-9a-f]+)")
    length = tools.number("inq", r"length=(\d+)")
    check(tools.status("inq") == GOOD and bool(vendor) and bool(product) and kind == "disk"
          and version >= 5 and length >= 36 and tools.number("inq", r"Resp_data_format=(\d)") == 2,
          f"INQUIRY: '{vendor}' '{product}', a {kind}, version {version}, {length} bytes")
    check(tools.status("inquiry-reserved") == ILLEGAL_REQUEST
          and "Invalid field in cdb" in tools.output("inquiry-reserved"),
          "INQUIRY for a page without EVPD is refused: Invalid field in cdb (status "
          f"{tools.status('inquiry-reserved')})")


def judge_vpd(check, tools):
    pages = {"0x00": "Supported VPD pages", "0x80": "Unit serial number",
             "0x83": "Device identification", "0xb0": "Block limits",
             "0xb1": "Block device characteristics", "0xb2": "Logical block provisioning"}
    listed = tools.output("vpd-0x00")
    for page, name in pages.items():
        output = tools.output(f"vpd-{page}")
        check(tools.status(f"vpd-{page}") == GOOD and name in listed
              and name.lower() in output.lower() and "error" not in output.lower(),
              f"VPD page {page} ({name}) is listed and well-formed (status "
              f"{tools.status(f'vpd-{page}')})")
    check(tools.field("vpd-0x80", r"serial number: (.*)") == live.SERIAL,
          f"the serial number is {live.SERIAL}: {tools.field('vpd-0x80', 'serial number: (.*)')}")
    check(live.SERIAL in tools.output("vpd-0x83"), "the designator has the serial number")
    # sg_vpd's own status when the device refuses a page differs, so only success is wrong.
    check(tools.status("vpd-0xfe") > 0, "a VPD page that is not listed is refused (status "
          f"{tools.status('vpd-0xfe')})")


def judge_capacity(check, tools):
    for name in ["readcap", "readcap-16"]:
        last = tools.number(name, r"Last LBA=(\d+)")
        size = tools.number(name, r"Logical block length=(\d+)")
        check(tools.status(name) == GOOD and (last, size) == (BLOCKS - 1, 512),
              f"sg_{name}: last block {last} of {BLOCKS}, {size} bytes each")
    check(tools.status("luns") == GOOD and re.search("^ *0000000000000000$", tools.output("luns"),
                                                     re.MULTILINE) is not None,
          f"REPORT LUNS lists LUN 0: {tools.output('luns').splitlines()[-1:]}")


def judge_simple(check, tools):
    for name in ["turs", "requests", "sync", "start"]:
        check(tools.status(name) == GOOD,
              f"sg_{name}: status {tools.status(name)} {tools.output(name)[-80:]}")
    for name, header in [("modes", "MODE SENSE(10)"), ("modes-6", "MODE SENSE(6)")]:
        output = tools.output(name)
        # A page starts by its code (bit 7: it can be saved) and its length, 0x12 for caching.
        page = tools.field(name, r">> Caching.*\n *00 +((?:[0-9a-f]{2} +){3})")
        check(tools.status(name) == GOOD and f"header from {header}" in output
              and page is not None and int(page[:2], 16) & 0x3F == 8 and page[3:5] == "12",
              f"{header} has the caching page ({page})")
    descriptor = tools.field("modes", r"Density code.*\n *00 +([0-9a-f ]+)")
    length = int(descriptor.replace(" ", "")[-6:], 16) if descriptor else -1
    check(length == 512, f"the mode block descriptor's block length is 512: {length}")


def judge_blocks(check, tools):
    check(tools.blocks("written") == digest(written(0, 64)), "64 blocks read as they were written")
    for name in ["raw-read-10", "raw-read-16"]:
        check(tools.status(name) == GOOD and tools.blocks(name) == digest(written(0, 1)),
              f"{name} by sg_raw: status {tools.status(name)}, the right block")
    check(tools.status("verify") == GOOD, f"VERIFY of 64 blocks: status {tools.status('verify')}")
    data = tools.status("verify-same"), tools.status("verify-other")
    check(data in [(GOOD, MISCOMPARE), (ILLEGAL_REQUEST, ILLEGAL_REQUEST)],
          "VERIFY with data, the same and another: "
          + ("refused" if data[0] == ILLEGAL_REQUEST else f"statuses {data[0]} and {data[1]}"))
    zero = {count: digest(bytes(count * 512)) for count in (8, 16)}
    reads_zero = tools.number("readcap-16", r"lbprz=(\d)")
    unmapped = tools.blocks("unmapped")
    may_be = {zero[16]} if reads_zero > 0 else {zero[16], digest(written(16, 16))}
    check(tools.status("unmap") == GOOD and unmapped in may_be,
          f"UNMAP: status {tools.status('unmap')}, LBPRZ {reads_zero}, the blocks read as "
          + ("zeros" if unmapped == zero[16] else "before" if unmapped in may_be else "neither"))
    for name, blocks in [("write-same-zero", "same-zero"), ("write-same-10", "same-10")]:
        check(tools.status(name) == GOOD and tools.blocks(blocks) == zero[8],
              f"{name}: status {tools.status(name)}, the blocks read as zeros")
    check(tools.blocks("around") == digest(written(48, 16)), "the blocks behind are as they were")


def judge_refusals(check, tools, own):
    """`own`: QEMU's own disk, which takes a VERIFY of blocks that it has not."""
    for name in ["read-behind", "verify-behind"]:
        status = tools.status(name)
        check(status == OUT_OF_RANGE or (own and name == "verify-behind" and status == GOOD),
              f"{name} the last block is refused as out of range: status {status}")
    check(tools.status("opcode-unknown") == UNKNOWN_OPCODE,
          f"an unknown opcode is refused as such: status {tools.status('opcode-unknown')}")


def judge_resets(check, tools, kernel):
    expected = digest(written(0, 16))
    for name, words in RESETS.items():
        complete = any(f"{words} operation complete" in line for line in kernel)
        errors = tools.number(f"turs-{name}", r"with (\d+) errors")
        # The first TEST UNIT READY may have a unit attention, none after it.
        attention = errors == 0 or (errors == 1 and "reset" in tools.output(f"turs-{name}"))
        check(tools.status(f"reset-{name}") == GOOD and complete and attention
              and tools.blocks(f"reset-{name}") == expected,
              f"after a {words.lower()} (status {tools.status(f'reset-{name}')}) the disk is "
              f"there, {errors} unit attention(s), and its blocks are as before")


def judge_fio(check, tools):
    """By fio's terse version 3: field 5 is the error; the first group of 41 is of reads (KiB,
    KiB/s, IOPS), the second of writes."""
    for name, reads, writes in [("fio-verify", VERIFIED_KIB, VERIFIED_KIB),
                                ("fio-read", 16384, 0), ("fio-read-4k", 2000, 0)]:
        fields = tools.output(name).split(";")
        whole = len(fields) > 48 and fields[0] == "3"
        error = int(fields[4]) if whole else -1
        done = [int(fields[index]) for index in (5, 46)] if whole else []
        ok = tools.status(name) == GOOD and error == 0 and done == [reads, writes]
        check(ok, f"{name}: status {tools.status(name)}, error {error}; "
              + (f"read {done[0]} KiB at {fields[6]} KiB/s ({fields[7]} IOPS), wrote {done[1]} KiB "
                 f"at {fields[47]} KiB/s" if whole else tools.output(name)[-300:]))


def judge_image(check, image):
    """The host's own look at what the commands left."""
    with open(image, "rb") as file:
        content = file.read(64 * 512)
    check(content[: 16 * 512] == written(0, 16) and content[48 * 512 :] == written(48, 16)
          and content[32 * 512 : 48 * 512] == bytes(16 * 512),
          "the image has the blocks that were written and the zeros")


def judge_commands(check, tools, kernel, own):
    judge_inquiry(check, tools)
    judge_vpd(check, tools)
    judge_capacity(check, tools)
    judge_simple(check, tools)
    judge_blocks(check, tools)
    judge_refusals(check, tools, own)
    judge_resets(check, tools, kernel)
    judge_fio(check, tools)


def main():
    options = mpqemu.parse(__doc__.splitlines()[0])
    guest = live.ensure_tools(qemu=False)
    with live.Lab("mpqemu_scsi", options.keep) as lab:
        image = lab.image("disk.img", IMAGE_SIZE)
        remote = mpqemu.Remote(lab, image, options, medium=",discard=unmap",
                               disk=f",serial={live.SERIAL}")
        report, status, _ = mpqemu.boot_linux(lab, "linux-scsi", remote, options, guest,
                                              "scsi,fio")
        mpqemu.judge_end(lab, remote, report, "scsi,fio", status, ASKED_FOR)
        tools = Tools(report)
        judge_commands(lab.check, tools, report.all("kernel"), mpqemu.is_qemu(options.remote))
        judge_image(lab.check, image)
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
