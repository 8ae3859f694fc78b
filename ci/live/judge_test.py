#!/usr/bin/env -S python3 -B
"""The judges' verdicts on reports and images made up here: each must be able to say no.

Run it: python3 -B ci/live/judge_test.py
"""

import unittest

import flush_kill
import lab as live
import linux_disk


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


if __name__ == "__main__":
    unittest.main()
