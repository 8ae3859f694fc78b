#!/usr/bin/env -S python3 -B
"""`farside record --protocol mpqemu` ends well at SIGINT: status 0, a summary, a trace to show."""

import argparse
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

CONFIG_WRITE, CONFIG_READ, BAR_READ = 2, 3, 5


def play_proxy(fd):
    """The other end: a few accesses, then until the channel is closed."""
    channel = socket.socket(fileno=fd)

    def ask(command, payload):
        channel.sendall(struct.pack("<IIQ", command, 0, len(payload)) + payload)
        reply = channel.recv(24, socket.MSG_WAITALL)
        return struct.unpack("<IIQQ", reply)[3]

    assert ask(CONFIG_READ, struct.pack("<IIi", 0, 0, 2)) == 0x1000
    ask(CONFIG_READ, struct.pack("<IIi", 0x14, 0, 4))
    ask(CONFIG_WRITE, struct.pack("<IIi", 0x14, 0xffffffff, 4))
    ask(CONFIG_READ, struct.pack("<IIi", 0x14, 0, 4))
    ask(CONFIG_WRITE, struct.pack("<IIi", 0x14, 0xe0000000, 4))
    ask(CONFIG_WRITE, struct.pack("<IIi", 4, 7, 2))
    ask(BAR_READ, struct.pack("<QQII", 0xe0000014, 0, 1, 1))
    pathlib.Path("ready").touch()
    assert channel.recv(1) == b""


def judge(options, work):
    recorder = subprocess.Popen(
        [options.farside, "record", "--protocol", "mpqemu", "--model", "lsi53c895a", "--output",
         "t.trace", "--client", f"{pathlib.Path(__file__).resolve()} --proxy %FD%", "--",
         options.disk_proc, "-device", "lsi53c895a,id=lsi0", "-object",
         "x-remote-object,id=r,devid=lsi0,fd=%FD%"],
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        deadline = time.monotonic() + 20
        while not (work / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        recorder.send_signal(signal.SIGINT)
        said = recorder.communicate(timeout=20)[0]
    finally:
        recorder.kill()
    print(said)
    assert recorder.returncode == 0, f"the recorder ends with {recorder.returncode}"
    assert "messages" in said, "it prints a summary"
    shown = subprocess.run([options.farside, "trace", "show", work / "t.trace"], text=True,
                           capture_output=True, check=True, timeout=20).stdout
    assert "ISTAT0" in shown, f"the register has its name:\n{shown}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--farside", type=pathlib.Path)
    parser.add_argument("--disk-proc", type=pathlib.Path)
    parser.add_argument("--proxy", type=int)
    options = parser.parse_args()
    if options.proxy is not None:
        return play_proxy(options.proxy)
    with tempfile.TemporaryDirectory() as work:
        judge(options, pathlib.Path(work))
    return None


if __name__ == "__main__":
    sys.exit(main())
