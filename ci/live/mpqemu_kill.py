#!/usr/bin/env -S python3 -B
"""A SIGKILL of the remote never loses a flushed write, with QEMU's multi-process protocol.

As flush_kill.py: a guest writes numbered blocks, flushes each and says so; the remote is killed at
seeded moments; the image must hold every block that was said to be flushed and nothing that was not
written. A fresh remote starts on it.
"""

import concurrent.futures
import random
import re
import sys
import time

import flush_kill
import lab as live
import mpqemu

MOMENTS = 4
MAX_BLOCKS = 100


def run_moment(lab, options, guest, index, blocks, delay):
    image = lab.image(f"disk-{index}.img", flush_kill.IMAGE_SIZE)
    remote = mpqemu.Remote(lab, image, options)
    main, _ = mpqemu.start_linux(lab, f"linux-{index}", remote, options, guest, "flush")
    mpqemu.wait_for_line(main, remote, f"^FARSIDE: flushed {blocks - 1}$")
    time.sleep(delay)
    remote.process.end()
    main.end()
    numbers = [int(match.group(1)) for line in main.lines
               if (match := re.fullmatch(r"FARSIDE: flushed (\d+)", line))]
    in_order = len(numbers) >= blocks and numbers == list(range(len(numbers)))
    wrong = (flush_kill.judge_blocks(image.read_bytes(), len(numbers)) if in_order
             else f"{len(numbers)} blocks were announced, or not in order")
    lab.check(wrong is None,
              f"moment {index}: killed {delay * 1000:.1f} ms after block {blocks - 1}; "
              + (wrong or f"the {len(numbers)} flushed blocks are in the image"))
    remote.start(f"remote-{index}-again").close()
    remote.check_end()


def try_moment(lab, *moment):
    try:
        run_moment(lab, *moment)
    except live.LabError as error:
        lab.check(False, str(error))


def main():
    options = mpqemu.parse(
        __doc__.splitlines()[0], models=["lsi53c895a", "nvme"], more=lambda parser:
        parser.add_argument("--seed", type=int, default=random.randrange(1 << 32),
                            help="of the moments (default: another one each time)"))
    guest = live.ensure_tools(qemu=False)
    print(f"mpqemu_kill: --seed={options.seed}", flush=True)
    generator = random.Random(options.seed)
    moments = [(generator.randint(1, MAX_BLOCKS), generator.uniform(0, flush_kill.MAX_DELAY))
               for _ in range(MOMENTS)]
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool, \
         live.Lab("mpqemu_kill", options.keep) as lab:
        jobs = [pool.submit(try_moment, lab, options, guest, index, *moment)
                for index, moment in enumerate(moments)]
        for job in jobs:
            job.result()
    return lab.status


if __name__ == "__main__":
    sys.exit(main())
