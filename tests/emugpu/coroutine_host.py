# SPDX-License-Identifier: Apache-2.0
"""A host with an emulated GPU, and a node runtime that the tests play themselves, for programs with the coroutine library."""

import array
import json
import mmap
import os
import socket
import struct
import subprocess
import threading
import weakref
from pathlib import Path

from runtime_host import wait_for

BUILD = Path(os.environ.get("DETSHARE_BUILD", "."))
LIBRARY = BUILD / "noderuntime" / "coroutine" / ".libs" / "libdetshare-cuda.so"
EMUGPU = BUILD / "tests" / "emugpu"
GPU = BUILD / "tests" / "gpu"

MAGIC = 0x44535054
VERSION = 3
SIZE = 4096
BOOK_SIZE = 12288
FIXED = 1  # of the page's flags
SMS, GROUP_SMS = 44, 8  # five groups and a rest of four
NOT_PERMITTED, TOO_LARGE = 800, 720  # of CUresult


def bits_of(groups):
    bits = sum(1 << group for group in groups)
    return bits & (1 << 64) - 1, bits >> 64


def groups_of(low, high):
    return {i for i in range(128) if (low | high << 64) >> i & 1}


class Port:
    """What one program wrote about itself."""

    LAYOUT = struct.Struct("<IHHQQQQQQQQQ")

    def __init__(self, memory):
        (self.magic, self.version, _, self.epoch, low, high, self.launches, self.own_contexts,
         self.too_large, self.remaps, pinned_low, pinned_high) = self.LAYOUT.unpack_from(memory)
        self.groups = groups_of(low, high)
        self.pinned = groups_of(pinned_low, pinned_high)


class Runtime:
    """A node runtime that grants the same groups to everyone, or refuses everyone."""

    NOTICE = struct.Struct("<IHHQ")
    EPOCH, ACKNOWLEDGED, DEMAND = 4, 5, 6

    def __init__(self, path, uuid, groups=(0, 1), refuse=None, version=VERSION, epoch=2,
                 shape=(SMS // GROUP_SMS, GROUP_SMS, SMS % GROUP_SMS), page_size=SIZE, flags=0, sample=512):
        self.path = path
        self.hellos = []
        self.ports = []
        self.open = 0
        self.demands = 0  # notices
        self.answer = (refuse, version)
        self.epoch = epoch
        self.connections = []
        self.sending = threading.Lock()
        self.acknowledged = []  # (epoch, groups in use), as they came
        self.heard = threading.Condition()
        self.page = self._memfd("page", page_size)
        self.book = self._memfd("book", BOOK_SIZE)
        for descriptor in (self.page, self.book):
            weakref.finalize(self, os.close, descriptor)
        page = struct.pack("<IHHQIIIIQQ48s32sIIQQI", MAGIC, version, 0, epoch, *shape, 500,
                           *bits_of(groups), uuid.encode(), b"throughput", flags, 0, 0, 0, sample)
        if page_size >= len(page):
            os.pwrite(self.page, page, 0)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(str(path))
        self.socket.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _memfd(name, size):
        fd = os.memfd_create(name, os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return fd

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection):
        refuse, version = self.answer
        self.open += 1
        self.hellos.append(struct.unpack("<IHHII", connection.recv(100)))
        welcome = struct.pack("<IHH248sII", MAGIC, version, bool(refuse), (refuse or "").encode(), 0, 0)
        port, descriptors, memory = -1, [], None
        if not refuse:
            port = self._memfd("port", SIZE)
            memory = mmap.mmap(port, SIZE)
            self.ports.append(memory)
            descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [port, self.page, self.book]))]
        try:
            with self.sending:  # the welcome comes first, and no notice after it is left out
                self.connections.append(connection)  # before the program goes on, and the test with it
                connection.sendmsg([welcome], descriptors)
                if port >= 0:
                    os.close(port)
            while notice := connection.recv(100):
                magic, said, kind, epoch = self.NOTICE.unpack(notice)
                assert (magic, said) == (MAGIC, VERSION) and kind in (self.ACKNOWLEDGED, self.DEMAND)
                if kind == self.DEMAND:
                    self.demands += 1
                    continue
                with self.heard:
                    self.acknowledged.append((epoch, Port(memory).groups))
                    self.heard.notify_all()
        except OSError:
            pass
        self.open -= 1
        connection.close()

    def grant(self, groups, flags=0):
        """Write another partition into the page and tell all programs; returns its epoch."""
        os.pwrite(self.page, struct.pack("<Q", self.epoch + 1), 8)
        os.pwrite(self.page, struct.pack("<QQ", *bits_of(groups)), 32)
        os.pwrite(self.page, struct.pack("<I", flags), 128)
        self.epoch += 2
        os.pwrite(self.page, struct.pack("<Q", self.epoch), 8)
        self._tell()
        return self.epoch

    def overlong_after(self, ms):
        """Before any program has come."""
        os.pwrite(self.page, struct.pack("<I", ms), 156)

    def flags(self, flags, window_us=0, tell=True):
        """Write other flags (enum ds_page_flags) into the page and tell all programs, unless there are none yet."""
        if tell:
            os.pwrite(self.page, struct.pack("<Q", self.epoch + 1), 8)
            self.epoch += 2
        os.pwrite(self.page, struct.pack("<II", flags, window_us), 128)
        os.pwrite(self.page, struct.pack("<Q", self.epoch), 8)
        self._tell()
        return self.epoch

    def _tell(self):
        with self.sending:
            for connection in self.connections:
                try:
                    connection.send(self.NOTICE.pack(MAGIC, VERSION, self.EPOCH, self.epoch))
                except OSError:
                    pass

    def wait_for(self, epoch, timeout=60):
        """Wait until a program acknowledged this epoch; returns the groups it said it uses."""
        def found():
            return [groups for one, groups in self.acknowledged if one == epoch]

        with self.heard:
            assert self.heard.wait_for(found, timeout), f"{epoch} is not among {self.acknowledged}"
            return found()[-1]

    def go_away(self):
        """As its programs see it that ends."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    def port(self, index=0):
        return Port(self.ports[index])

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)  # so that the thread that accepts ends, and lets go of us
        self.socket.close()


class Host:
    """An emulated host with one GPU, and programs run on it."""

    def __init__(self, directory):
        self.directory = directory
        subprocess.run([EMUGPU / "emugpu-host", "create", directory, "--gpus", "1", "--sms", str(SMS),
                        "--group-sms", str(GROUP_SMS), "--memory-mib", "256"], check=True)
        information = next((directory / "proc").glob("*/information")).read_text()
        self.uuid = next(line.split()[-1] for line in information.splitlines() if "UUID" in line)

    def environment(self, runtime=None, preload=True, **more):
        environment = {"PATH": os.environ["PATH"], "EMUGPU_DIR": str(self.directory),
                       "LD_LIBRARY_PATH": str(EMUGPU / ".libs"),
                       # Not where a daemon of some other test may be just now.
                       "CUDA_MPS_PIPE_DIRECTORY": str(self.directory / "no-mps")}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                environment[name] = os.environ[name]
        if preload:
            environment["LD_PRELOAD"] = " ".join(sanitizer_runtimes() + [str(LIBRARY)])
        if runtime:
            environment["DETSHARE_PORT"] = str(runtime.path)
        environment.update({name: str(value) for name, value in more.items()})
        return environment

    def run(self, *command, runtime=None, preload=True, check=True, **more):
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=100,
                             env=self.environment(runtime, preload, **more))
        if check:
            assert run.returncode == 0, run.stderr
        return run

    def experiment(self, name, runtime=None, preload=True, **more):
        run = self.run(GPU / "coroutine_program", name, runtime=runtime, preload=preload, **more)
        assert "Sanitizer" not in run.stderr, run.stderr
        return run

    def clear(self):
        subprocess.run([EMUGPU / "emugpu-host", "clear", self.directory, "0"], check=True)

    def sms(self):
        """SMs that ran blocks since the last clear()."""
        trace = subprocess.run([EMUGPU / "emugpu-host", "trace", self.directory, "0"], check=True,
                               capture_output=True, text=True).stdout
        return {json.loads(line)["sm"] for line in trace.splitlines()}


def sanitizer_runtimes():
    """AddressSanitizer wants its own library first in the list, if the library was built with it."""
    needed = subprocess.run(["ldd", LIBRARY], capture_output=True, text=True).stdout
    return [word for line in needed.splitlines() for word in line.split()
            if word.startswith("/") and ("libasan" in word or "libtsan" in word)]


def sms_of(groups):
    """SMs of these groups; the group after the last one is the rest."""
    return {sm for group in groups for sm in range(group * GROUP_SMS, min((group + 1) * GROUP_SMS, SMS))}


class Running:
    """An experiment that runs until its input ends; what it prints is checked when it has."""

    def __init__(self, host, granter, experiment, first_line, **more):
        self.program = subprocess.Popen([GPU / "coroutine_program", experiment], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=host.environment(granter, **more))
        assert self.program.stdout.readline().strip() == first_line
        # Its threads may not have come to use the GPU yet.
        wait_for(lambda: granter.ports and granter.port(-1).groups, 60)

    def end(self):
        out, err = self.program.communicate(timeout=60)
        assert self.program.returncode == 0, err
        assert "Sanitizer" not in err, err
        return out, err

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.program.poll() is None:
            self.program.kill()
            self.program.wait()


def blocks(host):
    trace = subprocess.run([EMUGPU / "emugpu-host", "trace", host.directory, "0"], check=True,
                           capture_output=True, text=True).stdout
    return [json.loads(line) for line in trace.splitlines()]


def assert_left(host, when_ns, groups):
    """No block ran outside these groups after that moment."""
    assert [block for block in blocks(host)
            if block["end_ns"] > when_ns and block["sm"] not in sms_of(groups)] == []


def one_line(text, *words):
    """The library said one line, and these words in it."""
    lines = [line for line in text.splitlines() if line.startswith("detshare: ")]
    assert len(lines) == 1, text
    for word in words:
        assert word in lines[0]
    return True
