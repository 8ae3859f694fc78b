#!/usr/bin/env -S python3 -B
"""A SIGKILL of disk-proc never loses a flushed write.

At each of eight seeded moments: a Linux guest writes numbered blocks, flushes each, and says so on
its serial line after the flush; disk-proc is killed; then the image must hold every block that was
said to be flushed, and nothing but what was written.
"""

import argparse
import concurrent.futures
import random
import re
import sys
import time

import lab as live

IMAGE_SIZE = 16 << 20
BLOCK = 4096
MOMENTS = 8
MAX_BLOCKS = 150  # announced before the kill; a guest does about 100 a second
MAX_DELAY = 0.02  # s, so that the kill falls anywhere in a block's write and flush


def sector_of(number):
    """Each sector of block `number`, as ci/guest/init writes it."""
    return b"%0512d" % number


def judge_blocks(image, announced):
    """None if the image is as it must be, else what is wrong with it. `announced` is how many
    blocks, from 0 on, the guest said to be flushed. The image must hold these, possibly more
    (written, but not announced any more), then at most one that is partly written, then zeros."""
    written = 0
    while image[written * BLOCK : (written + 1) * BLOCK] == sector_of(written) * 8:
        written += 1
    if written < announced:
        return f"block {written} was flushed, but is not in the image"
    for offset in range(written * BLOCK, (written + 1) * BLOCK, 512):
        if image[offset : offset + 512] not in (bytes(512), sector_of(written)):
            return f"the sector at {offset:#x} holds what nobody wrote"
    rest = image[(written + 1) * BLOCK :]
    if rest != bytes(len(rest)):
        return f"behind block {written}, the last one begun, the image is not empty"
    return None


def try_moment(lab, options, guest, index, blocks, delay):
    try:
        run_moment(lab, options, guest, index, blocks, delay)
    except live.LabError as error:
        lab.check(False, f"moment {index}: {error}")


def run_moment(lab, options, guest, index, blocks, delay):
    image = lab.image(f"disk-{index}.img", IMAGE_SIZE)
    device = live.make_device(lab, image, options)
    device.start(f"disk-proc-{index}")
    qemu = live.boot_linux(lab, f"linux-{index}", device, options.dma, guest, "flush", cpus=1,
                           memory="256M")
    qemu.wait_for_line(f"^FARSIDE: flushed {blocks - 1}$", live.GUEST_TIMEOUT)
    time.sleep(delay)
    device.kill(qemu)
    qemu.end()
    numbers = [int(match.group(1)) for line in qemu.lines
               if (match := re.fullmatch(r"FARSIDE: flushed (\d+)", line))]
    in_order = numbers == list(range(len(numbers)))
    wrong = judge_blocks(image.read_bytes(), len(numbers)) if in_order else "lines out of order"
    lab.check(wrong is None,
              f"moment {index}: killed {delay * 1000:.1f} ms after block {blocks - 1}; "
              + (wrong or f"the {len(numbers)} flushed blocks are in the image"))
    # What a kill leaves behind (a socket file, an image half written) hinders no successor.
    device.start(f"disk-proc-{index}-again")
    device.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    live.device_options(parser)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32),
                        help="of the moments (default: another one each time)")
    options = live.parse(parser)
    guest = live.ensure_tools()
    print(f"flush_kill: --seed={options.seed}", flush=True)
    generator = random.Random(options.seed)
    moments = [(generator.randint(1, MAX_BLOCKS), generator.uniform(0, MAX_DELAY))
               for _ in range(MOMENTS)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool, \
         live.Lab("flush_kill", options.keep) as lab:
        jobs = [pool.submit(try_moment, lab, options, guest, index, *moment)
                for index, moment in enumerate(moments)]
        for job in jobs:
            job.result()
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
