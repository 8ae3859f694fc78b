#!/usr/bin/env -S python3 -B
"""How disk-proc is started, reached and ended: --fd, the primary channel, SIGTERM, wrong options.

usage: process_test.py DISK-PROC
"""

import os
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

DISK_PROC = sys.argv.pop(1) if len(sys.argv) > 1 else "disk-proc"
MEDIUM = ["-blockdev", "driver=memory,node-name=d,size=1M"]
DEVICE = ["-device", "nvme,id=n,drive=d,serial=S"]
VERSION = struct.pack("<HHIIIHH", 1, 1, 20, 0, 0, 0, 0)
CFGREAD = struct.pack("<iIQIIi", 3, 0, 12, 0, 0, 4)
TIMEOUT = 20  # s


def start(*args, fds=()):
    return subprocess.Popen([DISK_PROC, *MEDIUM, *args], pass_fds=fds, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def negotiate(client):
    """True if VERSION is answered."""
    client.settimeout(TIMEOUT)
    client.sendall(VERSION)
    reply = client.recv(300)
    identifier, command, _, flags = struct.unpack_from("<HHII", reply)
    return (identifier, command, flags) == (1, 1, 1)


class Process(unittest.TestCase):
    def ends_well(self, process):
        _, errors = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 0, errors)

    def test_a_connected_fd_is_served_until_its_client_goes(self):
        ours, theirs = socket.socketpair()
        process = start(*DEVICE, f"--fd={theirs.fileno()}", fds=[theirs.fileno()])
        theirs.close()
        self.assertTrue(negotiate(ours))
        ours.close()
        self.ends_well(process)

    def test_a_listening_fd_is_served_client_after_client_until_sigterm(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(folder, "l.sock"))
            listener.listen()
            process = start(*DEVICE, f"--fd={listener.fileno()}", fds=[listener.fileno()])
            for _ in range(3):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(listener.getsockname())
                    self.assertTrue(negotiate(client))
            process.terminate()
            self.ends_well(process)

    def test_the_end_of_the_primary_channel_ends_the_process(self):
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryDirectory() as folder:
            process = start(str(theirs.fileno()), *DEVICE, f"--socket-path={folder}/n.sock",
                            fds=[theirs.fileno()])
            theirs.close()
            with self.assertRaises(subprocess.TimeoutExpired):
                process.wait(0.3)
            ours.close()
            self.ends_well(process)

    def test_qemus_options_start_a_remote_that_ends_with_its_proxy(self):
        ours, theirs = socket.socketpair()
        process = start("-machine", "x-remote", "-nodefaults", "-display", "none",
                        "-device", "lsi53c895a,id=lsi0",
                        "-device", "scsi-hd,drive=d,bus=lsi0.0,scsi-id=0,lun=0", "-object",
                        f"x-remote-object,id=robj1,devid=lsi0,fd={theirs.fileno()}",
                        fds=[theirs.fileno()])
        theirs.close()
        ours.settimeout(TIMEOUT)
        ours.sendall(CFGREAD)
        self.assertEqual(struct.unpack("<iIQQ", ours.recv(24)), (1, 0, 8, 0x00121000))
        ours.close()
        self.ends_well(process)

    def test_a_proxy_that_breaks_the_protocol_is_a_failure(self):
        ours, theirs = socket.socketpair()
        process = start(*DEVICE, "-object",
                        f"x-remote-object,id=r,devid=n,fd={theirs.fileno()}",
                        fds=[theirs.fileno()])
        theirs.close()
        ours.sendall(struct.pack("<iIQ", 12, 0, 0))
        _, errors = process.communicate(timeout=TIMEOUT)
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("there is no command 12", errors)

    def test_json_forms_and_several_devices(self):
        with tempfile.TemporaryDirectory() as folder:
            device = '{"driver": "nvme", "id": "%s", "drive": "%s", "serial": "S"}'
            server = ('{"qom-type": "x-vfio-user-server", "id": "v%s", "device": "%s", '
                      '"socket": {"type": "unix", "path": "%s"}}')
            args = ["-blockdev", '{"driver": "memory", "node-name": "e", "size": 1048576}']
            paths = {name: f"{folder}/{name}.sock" for name in ("d", "e")}
            for name, path in paths.items():
                args += ["-device", device % (name, name), "-object", server % (name, name, path)]
            process = start(*args)
            for path in paths.values():
                with socket.socket(socket.AF_UNIX) as client:
                    while client.connect_ex(path) != 0:
                        self.assertIsNone(process.poll(), "it ended instead of listening")
                    self.assertTrue(negotiate(client))
            process.terminate()
            self.ends_well(process)

    def test_what_is_wrong_is_said_in_a_sentence(self):
        for args, sentence in [
            ([*DEVICE, "--fd=77"], "descriptor 77 is no stream socket"),
            ([*DEVICE], "no device is served"),
            (["-device", "nvem,drive=d,serial=S"], "there is no model"),
            (["-device", "nvme,drive=x,serial=S", "--socket-path=/tmp/x"], "x"),
            ([*DEVICE, "--socket-path=/nonexistent/n.sock"], "/nonexistent/n.sock"),
            ([*DEVICE, "-object", "x-remote-object,id=r,devid=lsi9,fd=0"],
             "there is no -device with id \"lsi9\""),
            ([*DEVICE, "-object", "x-remote-object,id=r,devid=n,fd=77"],
             "descriptor 77 is no stream socket"),
            ([*DEVICE, "-object", "x-remote-object,id=r,devid=n"], "fd"),
            ([*DEVICE, "-machine", "pc"], "a device process has none"),
            (["-device", "scsi-hd,drive=d,scsi-id=0"], "there is no SCSI bus"),
        ]:
            with self.subTest(args=args):
                process = start(*args)
                _, errors = process.communicate(timeout=TIMEOUT)
                self.assertEqual(process.returncode, 1, errors)
                self.assertIn(sentence, errors)
                self.assertEqual(errors.count("\n"), 1, errors)


if __name__ == "__main__":
    unittest.main()
