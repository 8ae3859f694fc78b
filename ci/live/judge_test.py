#!/usr/bin/env -S python3 -B
"""The judges' verdicts on reports and images made up here: each must be able to say no.

Run it: python3 -B ci/live/judge_test.py
"""

import hashlib
import io
import pathlib
import struct
import unittest

import flush_kill
import lab as live
import linux_disk
import mpqemu
import mpqemu_disk
import mpqemu_scsi
import tiny_guest
import vmm_lite


def failures(judge, *arguments):
    """The descriptions of the checks that failed."""
    failed = []

    def check(ok, what):
        if not ok:
            failed.append(what)

    judge(check, *arguments)
    return failed


def good_report():
    """What test disk says on a good disk, as {key: [rest of line, ...]}."""
    return {
        "cpus": ["2"],
        "serial": [live.SERIAL],
        "sectors": [str(linux_disk.IMAGE_SIZE // 512)],
        "digest": [f"{name} {value}" for name, value in linux_disk.expected_digests().items()],
        "trimmed": ["/mnt: 231691264 bytes trimmed"],
        "interrupt": ["nvme0q0 msix 9 0", "nvme0q1 msix 146 0", "nvme0q2 msix 0 299"],
        "kernel": ["[    1.0] mtrr: your CPUs had inconsistent MTRRdefType settings"],
        "passed": ["disk"],
    }


def report_of(said):
    return live.Report([f"FARSIDE: {key} {rest}" for key, rests in said.items() for rest in rests])


class LinuxDisk(unittest.TestCase):
    def judge(self, said, status=0):
        report = report_of(said)
        return (failures(linux_disk.judge_disk_report, report)
                + failures(linux_disk.judge_end, report, "disk", status))

    def test_a_good_report_passes(self):
        self.assertEqual(self.judge(good_report()), [])

    def test_each_missing_statement_fails(self):
        for key in good_report():
            if key != "kernel":
                with self.subTest(key):
                    self.assertEqual(len(self.judge(good_report() | {key: []})), 1)

    def test_each_wrong_statement_fails(self):
        digests = good_report()["digest"]
        for wrong in [
            {"cpus": ["1"]},
            {"serial": ["FARSIDE"]},
            {"sectors": ["524287"]},
            {"digest": [*digests[:-1], digests[-1][:-1]]},
            {"trimmed": ["/mnt: 0 bytes trimmed"]},
            {"interrupt": ["nvme0q0 msi 9 0", "nvme0q1 msi 146 0", "nvme0q2 msi 0 299"]},
            {"interrupt": ["nvme0q0 msix 9 0", "nvme0q1 msix 146 0", "nvme0q2 msix 299 0"]},
            {"interrupt": ["nvme0q0 msix 9 0", "nvme0q1 msix 146 3", "nvme0q2 msix 0 0"]},
            {"interrupt": ["nvme0q0 msix 9 0", "nvme0q1 msix 146 299"]},
            {"kernel": ["[    9.1] nvme nvme0: I/O 5 QID 1 timeout, aborting"]},
            {"kernel": ["[    9.1] EXT4-fs (nvme0n1p1): error loading journal"]},
            {"failed": ["mount"]},
            {"passed": ["reread"]},
        ]:
            with self.subTest(wrong):
                self.assertEqual(len(self.judge(good_report() | wrong)), 1)

    def test_a_qemu_that_fails_fails(self):
        self.assertEqual(len(self.judge(good_report(), status=1)), 1)


class FlushKill(unittest.TestCase):
    ANNOUNCED = 5

    def image(self, blocks):
        content = b"".join(flush_kill.sector_of(number) * 8 for number in range(blocks))
        return bytearray(content.ljust(64 * flush_kill.BLOCK, b"\0"))

    def judge(self, image):
        return flush_kill.judge_blocks(bytes(image), self.ANNOUNCED)

    def test_all_announced_blocks_suffice(self):
        self.assertIsNone(self.judge(self.image(5)))

    def test_more_than_announced_and_one_torn_block_are_right(self):
        image = self.image(7)
        torn = slice(7 * flush_kill.BLOCK + 512, 7 * flush_kill.BLOCK + 1024)
        image[torn] = flush_kill.sector_of(7)
        self.assertIsNone(self.judge(image))

    def test_a_lost_block_is_seen(self):
        self.assertIn("block 4 was flushed", self.judge(self.image(4)))

    def test_a_lost_sector_is_seen(self):
        image = self.image(5)
        image[2 * flush_kill.BLOCK + 512 : 2 * flush_kill.BLOCK + 1024] = bytes(512)
        self.assertIn("block 2 was flushed", self.judge(image))

    def test_a_block_in_another_s_place_is_seen(self):
        image = self.image(5)
        image[6 * flush_kill.BLOCK : 7 * flush_kill.BLOCK] = flush_kill.sector_of(6) * 8
        self.assertIn("behind block 5", self.judge(image))

    def test_a_sector_nobody_wrote_is_seen(self):
        image = self.image(5)
        image[5 * flush_kill.BLOCK] = 1
        self.assertIn("nobody wrote", self.judge(image))


class MultiProcessDisk(unittest.TestCase):
    class Options:
        model = "lsi53c895a"
        remote = pathlib.Path("disk-proc")

    class Delivered:
        interrupts = 500

    def report(self, **wrong):
        said = good_report() | {
            "vendor": ["QEMU"], "model": ["QEMU HARDDISK"], "rev": ["2.5+"],
            "interrupt": ["sym53c8xx none 450"]} | wrong
        return report_of(said)

    def judge(self, relay=None, **wrong):
        return failures(mpqemu_disk.judge_disk_report, self.report(**wrong), self.Options, relay)

    def test_a_good_report_passes_with_and_without_interrupts(self):
        self.assertEqual(self.judge(self.Delivered), [])
        self.assertEqual(self.judge(interrupt=["sym53c8xx none 0"]), [])

    def test_each_wrong_statement_fails(self):
        for wrong in [
            {"vendor": [""]},
            {"sectors": ["524287"]},
            {"digest": good_report()["digest"][1:]},
            {"trimmed": []},
            {"interrupt": []},
            {"interrupt": ["sym53c8xx none 0"]},
            {"interrupt": ["sym53c8xx msi 450"]},
        ]:
            with self.subTest(wrong):
                self.assertEqual(len(self.judge(self.Delivered, **wrong)), 1)

    def test_a_driver_s_usual_words_are_no_complaint_and_others_are(self):
        model = mpqemu.MODELS["lsi53c895a"]
        usual = ["[ 2.2] sym0: No NVRAM, ID 7, Fast-40, LVD, parity checking",
                 "[ 5.6] sd 0:0:0:0: Power-on or device reset occurred"]
        self.assertEqual(model.complaints(usual), [])
        for line in ["[ 9.1] sd 0:0:0:0: ABORT operation started",
                     "[ 9.1] sym0: unexpected disconnect",
                     "[ 9.1] irq 10: nobody cared",
                     "[ 9.1] I/O error, dev sda, sector 8",
                     "[ 9.1] sd 0:0:0:0: BUS RESET operation started"]:
            self.assertEqual(model.complaints([line]), [line])
        self.assertEqual(model.complaints(["[ 9.1] sd 0:0:0:0: BUS RESET operation started"],
                                          mpqemu_scsi.ASKED_FOR), [])


class ScsiCommands(unittest.TestCase):
    """Outputs of sg3-utils 1.46 and fio 3.33, without what no judge reads."""

    def good(self):
        """{tool: (status, output)}, {blocks: digest}, kernel lines."""
        written, zeros = mpqemu_scsi.written, {n: bytes(n * 512) for n in (8, 16)}
        capacity = (0, "   Protection: prot_en=0\n   Logical block provisioning: lbpme=1, lbprz=0\n"
                       "   Last LBA=524287 (0x7ffff), Number of logical blocks=524288\n"
                       "   Logical block length=512 bytes")
        pages = [("0x80", "Unit serial number"), ("0x83", "Device identification"),
                 ("0xb0", "Block limits"), ("0xb1", "Block device characteristics"),
                 ("0xb2", "Logical block provisioning")]
        modes = ("Mode parameter header from MODE SENSE({})\n   Density code=0x0\n"
                 " 00     00 08 00 00 00 00 02 00\n>> Caching, page_control: current\n"
                 " 00     08 12 04 00 00")
        attention = (0, "Additional sense: Power on, reset, or bus device reset occurred\n"
                        "Completed 3 Test Unit Ready commands with 1 errors")

        def fio(read, written):
            fields = ["3", "fio-3.33", "x", "0", "0", str(read)] + ["9"] * 40 + [str(written)]
            return 0, ";".join(fields + ["9"] * 10)

        tools = dict.fromkeys(["turs", "requests", "sync", "start", "raw-read-10", "raw-read-16",
                               "verify", "unmap", "write-same-zero", "write-same-10"], (0, ""))
        tools |= {f"vpd-{page}": (0, f"{name} VPD page:") for page, name in pages}
        tools |= {f"reset-{name}": (0, "") for name in mpqemu_scsi.RESETS}
        tools |= {f"turs-{name}": attention for name in mpqemu_scsi.RESETS}
        tools |= {
            "inq": (0, "  PQual=0  version=0x05  [SPC-3]\n  Resp_data_format=2\n"
                       "  length=36 (0x24)   Peripheral device type: disk\n"
                       " Vendor identification: QEMU\n Product identification: QEMU HARDDISK"),
            "inquiry-reserved": (5, "Additional sense: Invalid field in cdb"),
            "vpd-0x00": (0, "Supported VPD pages VPD page:\n"
                         + "\n".join(f"  {name} [xx]" for _, name in pages)),
            "vpd-0x80": (0, f"Unit serial number VPD page:\n  Unit serial number: {live.SERIAL}"),
            "vpd-0x83": (0, f"Device Identification VPD page:\n  vendor specific: {live.SERIAL}"),
            "vpd-0xfe": (83, ""),
            "readcap": capacity, "readcap-16": capacity,
            "luns": (0, "Lun list length = 8\n    0000000000000000"),
            "modes": (0, modes.format(10)), "modes-6": (0, modes.format(6)),
            "verify-same": (0, ""), "verify-other": (14, ""),
            "read-behind": (22, ""), "verify-behind": (22, ""), "opcode-unknown": (9, ""),
            "fio-verify": fio(8192, 8192), "fio-read": fio(16384, 0), "fio-read-4k": fio(2000, 0),
        }
        contents = {"written": written(0, 64), "raw-read-10": written(0, 1),
                    "raw-read-16": written(0, 1), "unmapped": zeros[16], "same-zero": zeros[8],
                    "same-10": zeros[8], "around": written(48, 16)}
        contents |= {f"reset-{name}": written(0, 16) for name in mpqemu_scsi.RESETS}
        kernel = [f"[ 9.1] sd 0:0:0:0: {words} operation complete."
                  for words in mpqemu_scsi.RESETS.values()]
        return tools, {name: mpqemu_scsi.digest(data) for name, data in contents.items()}, kernel

    def judge(self, tools, blocks, kernel):
        said = {"tool": [f"{name} {status}" for name, (status, _) in tools.items()],
                "out": [f"{name} {line}" for name, (_, output) in tools.items()
                        for line in output.splitlines()],
                "blocks": [f"{name} {value}" for name, value in blocks.items()]}
        return failures(mpqemu_scsi.judge_commands, mpqemu_scsi.Tools(report_of(said)), kernel,
                        False)

    def test_a_good_disk_passes(self):
        self.assertEqual(self.judge(*self.good()), [])

    def test_no_disk_at_all_fails_every_check_and_breaks_none(self):
        self.assertGreater(len(self.judge({}, {}, [])), 30)

    def test_each_missing_or_unexpected_status_fails(self):
        tools, blocks, kernel = self.good()
        for name, (status, output) in tools.items():
            if name.startswith("turs-"):
                continue  # sg_turs says in words what it met
            with self.subTest(name):
                wrong = tools | {name: (0 if status else 99, output)}
                self.assertGreaterEqual(len(self.judge(wrong, blocks, kernel)), 1)
                missing = {key: value for key, value in tools.items() if key != name}
                self.assertGreaterEqual(len(self.judge(missing, blocks, kernel)), 1)

    def test_each_wrong_block_fails(self):
        tools, blocks, kernel = self.good()
        for name in blocks:
            with self.subTest(name):
                wrong = blocks | {name: mpqemu_scsi.digest(b"wrong")}
                self.assertEqual(len(self.judge(tools, wrong, kernel)), 1)

    def test_each_wrong_word_fails(self):
        tools, blocks, kernel = self.good()
        for name, right, wrong in [
            ("inq", "version=0x05", "version=0x02"),
            ("inq", "type: disk", "type: cd/dvd"),
            ("inquiry-reserved", "field in cdb", "opcode"),
            ("vpd-0x00", "Block limits", ""),
            ("vpd-0x80", "FARSIDE1", "FARSIDE2"),
            ("vpd-0x83", "FARSIDE1", "VPD page error: short designator"),
            ("readcap", "524287", "524288"),
            ("readcap-16", "length=512", "length=4096"),
            ("luns", "0000000000000000", "0001000000000000"),
            ("modes", "02 00\n", "08 00\n"),
            ("modes", "08 12 04", "08 0a 04"),
            ("modes-6", "SENSE(6)", "SENSE(10)"),
            ("turs-bus", "reset", "write protected"),
            ("turs-bus", "with 1", "with 2"),
            ("fio-verify", "8192", "8191"),
            ("fio-read", ";0;0;", ";0;84;"),
        ]:
            with self.subTest(f"{name}: {wrong}"):
                status, output = tools[name]
                self.assertIn(right, output)
                failed = self.judge(tools | {name: (status, output.replace(right, wrong))}, blocks,
                                    kernel)
                self.assertGreaterEqual(len(failed), 1)

    def test_unmapped_blocks_must_be_zero_if_the_disk_says_so(self):
        tools, blocks, kernel = self.good()
        before = blocks | {"unmapped": mpqemu_scsi.digest(mpqemu_scsi.written(16, 16))}
        self.assertEqual(self.judge(tools, before, kernel), [])
        status, output = tools["readcap-16"]
        promised = tools | {"readcap-16": (status, output.replace("lbprz=0", "lbprz=1"))}
        self.assertEqual(len(self.judge(promised, before, kernel)), 1)


class VmmLite(unittest.TestCase):
    """The parts' verdicts; what they wait for fails by a LabError."""

    def test_a_guest_that_did_not_reach_its_end_fails(self):
        def judge(said, status=0):
            return failures(vmm_lite.judge_end, report_of(said), "kill", status, "")

        self.assertEqual(judge({"passed": ["kill"]}), [])
        self.assertEqual(len(judge({"passed": ["kill"]}, status=1)), 1)
        self.assertEqual(len(judge({"passed": ["kill"], "failed": ["mount"]})), 1)
        self.assertEqual(len(judge({"passed": ["disk"]})), 1)
        self.assertEqual(len(judge({})), 1)

    def test_complaints_fail(self):
        def judge(errors):
            return failures(vmm_lite.judge_errors, "vmm", errors)

        self.assertEqual(judge("vmm-lite: device nvme0 is dead: it was killed\n"), [])
        for line in ["CHECK failed: vm.cc:3", "ERROR: AddressSanitizer: heap-use-after-free",
                     "error: KVM cannot emulate what it does there"]:
            self.assertEqual(len(judge(f"well\n{line}\n")), 1)
        kernel = {"kernel": ["[    9.1] nvme nvme0: I/O 5 QID 1 timeout, aborting"]}
        self.assertEqual(len(failures(vmm_lite.judge_kernel, report_of(kernel))), 1)
        self.assertEqual(failures(vmm_lite.judge_kernel, report_of(good_report())), [])

    def test_an_lsi_disk_without_its_interrupts_or_content_fails(self):
        good = good_report() | {"vendor": ["QEMU"], "model": ["QEMU HARDDISK"],
                                "interrupt": ["sym53c8xx none 40 30"]}
        self.assertEqual(failures(vmm_lite.judge_lsi, report_of(good)), [])
        for wrong in [{"vendor": []}, {"digest": good["digest"][1:]}, {"trimmed": []},
                      {"interrupt": []}, {"interrupt": ["sym53c8xx none 25 25"]},
                      {"interrupt": ["sym53c8xx msi 40 30"]}]:
            with self.subTest(wrong):
                self.assertEqual(len(failures(vmm_lite.judge_lsi, report_of(good | wrong))), 1)

    def test_a_disk_that_did_not_survive_fails(self):
        blocks = b"".join(flush_kill.sector_of(number) * 8 for number in range(3))
        said = {"survived": [f"3 {hashlib.sha256(blocks).hexdigest()}"]}
        self.assertEqual(failures(vmm_lite.judge_survived, report_of(said), 3), [])
        self.assertEqual(len(failures(vmm_lite.judge_survived, report_of(said), 4)), 1)
        self.assertEqual(len(failures(vmm_lite.judge_survived, report_of({}), 3)), 1)

    def test_each_plug_without_its_content_fails(self):
        content = bytes(range(256)) * 512
        right = hashlib.sha256(content).hexdigest()
        said = [f"round-1 {right}", f"round-2 {right}"]
        for given, wrong in [(said, 0), (said[:1], 1), (said[1:], 1), ([], 2),
                             ([said[0], f"round-2 {right[:-1]}"], 1)]:
            found = failures(vmm_lite.judge_hotplug, report_of({"blocks": given}), content)
            self.assertEqual(len(found), wrong)

    def test_only_one_sentence_and_status_1_is_a_refusal(self):
        for status, said, wrong in [
            (1, "vmm-lite: -m 32M: too little memory\n", 0),
            (0, "vmm-lite: -m 32M: too little memory\n", 1),
            (-6, "vmm-lite: -m 32M: too little memory\n", 1),
            (1, "vmm-lite: no\n", 1),
            (1, "vmm-lite: too little memory\nand a trace\n", 1),
            (1, "", 1),
        ]:
            with self.subTest(f"{status}: {said}"):
                self.assertEqual(len(failures(vmm_lite.judge_refusal, "little", status, said,
                                              "^vmm-lite: .*memory")), wrong)

    def test_memory_without_a_whole_chain_of_tables_fails(self):
        tables = vmm_lite.MEMORY - (64 << 10)

        def memory(rsdp_at=0xF5000, names=(b"FACP", b"APIC", b"MCFG"), used=0):
            ram = io.BytesIO()
            for number, name in enumerate(names):
                ram.seek(tables + 0x1000 * (1 + number))
                ram.write(name)
            ram.seek(tables)
            ram.write(b"XSDT" + struct.pack("<I", 36 + 8 * len(names)))
            ram.seek(tables + 36)
            ram.write(struct.pack(f"<{len(names)}Q", *(tables + 0x1000 * (1 + number)
                                                       for number in range(len(names)))))
            rsdp = bytearray(b"RSD PTR ".ljust(24, b"\0") + struct.pack("<QI", tables, 0))
            rsdp[8] = -sum(rsdp) % 256
            ram.seek(rsdp_at)
            ram.write(rsdp)
            ram.seek(vmm_lite.MEMORY - 1)
            ram.write(bytes([used]))
            return ram

        self.assertEqual(failures(vmm_lite.judge_rsdp, memory()), [])
        for wrong in [{"rsdp_at": 0xE0000}, {"rsdp_at": 0xF5008}, {"names": (b"FACP", b"APIC")},
                      {"used": 1}]:
            with self.subTest(wrong):
                self.assertEqual(len(failures(vmm_lite.judge_rsdp, memory(**wrong))), 1)


class TinyGuest(unittest.TestCase):
    GOOD = ["TAP version 13", "# memory that nobody claims reads 0xffffffff", "ok 1 - bar.sizing",
            "ok 2 - unplug # SKIP nobody said unplug", "1..2", "# 0 failed"]
    GONE = ["# ready: unplug slot 0 of bus 1", tiny_guest.BUTTON, "ok 1 - unplug", "1..1"]
    DELETED = {"device": "disk0"}

    def judge(self, lines, vmm=None):
        return failures(tiny_guest.judge, vmm or tiny_guest.VmmLite("vmm"), tiny_guest.Tap(lines))

    def changed(self, lines, old, new):
        self.assertIn(old, lines)
        return [new if line == old else line for line in lines]

    def test_a_good_transcript_passes(self):
        self.assertEqual(self.judge(self.GOOD), [])

    def test_each_line_of_evidence_is_needed(self):
        for line in self.GOOD[1:5]:
            with self.subTest(line):
                self.assertNotEqual(self.judge(self.changed(self.GOOD, line, "")), [])

    def test_each_wrong_line_fails(self):
        for old, new in [
            ("ok 1 - bar.sizing", "not ok 1 - bar.sizing: second sizing"),
            ("ok 1 - bar.sizing", "ok 1 - bar.sizing # SKIP too few NVMe controllers"),
            (self.GOOD[1], "# memory that nobody claims reads 0x0"),
            (self.GOOD[3], "ok 2 - unplug"),
            ("1..2", "1..3"),
            ("# 0 failed", "Bail out! exception 13 at 0x100000"),
        ]:
            with self.subTest(new):
                self.assertNotEqual(self.judge(self.changed(self.GOOD, old, new)), [])

    def test_what_fails_under_qemu_must_fail_as_its_table_has_it(self):
        qemu = tiny_guest.Qemu()
        words = tiny_guest.PENDING[0]
        good = [*self.changed(self.GOOD[:4], self.GOOD[1], "# memory that nobody claims reads 0x0"),
                "ok 3 - config.ecam # SKIP no MCFG table", f"not ok 4 - msix.vector_mask: {words}",
                f"not ok 5 - msix.function_mask: {words}", "1..5"]
        self.assertEqual(self.judge(good, qemu), [])
        for old, new in [(good[5], "ok 4 - msix.vector_mask"),
                         (good[5], "not ok 4 - msix.vector_mask: it is lost"),
                         (good[4], "ok 3 - config.ecam")]:
            with self.subTest(new):
                self.assertNotEqual(self.judge(self.changed(good, old, new), qemu), [])

    def test_an_unplug_without_its_evidence_fails(self):
        def judge(how, lines, deleted=None):
            return len(failures(tiny_guest.judge_unplug, how, lines, deleted or self.DELETED))

        pulled = [line for line in self.GONE if line != tiny_guest.BUTTON]
        self.assertEqual(judge("asked", self.GONE), 0)
        self.assertEqual(judge("pulled", pulled), 0)
        self.assertEqual(judge("asked", pulled), 1)
        self.assertEqual(judge("pulled", self.GONE), 1)
        self.assertEqual(judge("asked", self.GONE, {"device": "disk1"}), 1)
        for line in ["", "not ok 1 - unplug: it is still there after 30 s",
                     "ok 1 - unplug # SKIP too few NVMe controllers"]:
            with self.subTest(line):
                self.assertEqual(judge("asked", self.changed(self.GONE, "ok 1 - unplug", line)), 1)
        self.assertEqual(judge("asked", self.GONE[:-1]), 1)
        self.assertEqual(judge("asked", [*self.GONE, "Bail out! exception 6"]), 1)


if __name__ == "__main__":
    unittest.main()
