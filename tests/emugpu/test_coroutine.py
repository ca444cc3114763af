# SPDX-License-Identifier: Apache-2.0
"""The coroutine library on the emulated GPU, against a node runtime that the tests play themselves."""

import array
import json
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import weakref
from pathlib import Path

import pytest

from runtime_host import stop, wait_for

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

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


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
                connection.sendmsg([welcome], descriptors)
                if port >= 0:
                    os.close(port)
                self.connections.append(connection)
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

    def wait_for(self, epoch, timeout=20):
        """Wait until a program acknowledged this epoch; returns the groups it said it uses."""
        def found():
            return [groups for one, groups in self.acknowledged if one == epoch]

        with self.heard:
            assert self.heard.wait_for(found, timeout), f"{epoch} is not among {self.acknowledged}"
            return found()[-1]

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


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "emugpu")


@pytest.fixture
def runtime(tmp_path, host):
    made = []

    def make(**arguments):
        made.append(Runtime(tmp_path / f"port{len(made)}", host.uuid, **arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("groups", [(0,), (0, 1), (1, 3), (4, 5), tuple(range(6))])
def test_work_runs_in_the_granted_groups(host, runtime, groups):
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    granter = runtime(groups=groups)
    inside = host.experiment("work", granter)
    assert inside.stdout == alone
    assert inside.stderr == ""
    assert host.sms() and host.sms() <= sms_of(groups)
    port = granter.port()
    assert (port.magic, port.version) == (MAGIC, VERSION)
    assert port.groups == set(groups)
    assert port.epoch == 2
    assert port.launches == 6 * 3
    assert granter.hellos[0][:3] == (MAGIC, VERSION, 1)


@pytest.mark.parametrize("stream", ["null", "blocking", "nonblocking", "perthread"])
@pytest.mark.parametrize("program", ["gpuwork", "gpuwork-linked"])
def test_gpuwork_by_every_way_of_linking(host, runtime, program, stream):
    for link in ["getproc", "dlsym"] if program == "gpuwork" else ["dlsym"]:
        command = [GPU / program, "reduce", "--stream", stream, "--link", link, "--n", "20000"]
        alone = json.loads(host.run(*command, preload=False).stdout)
        host.clear()
        inside = json.loads(host.run(*command, runtime=runtime(groups=(2, 3))).stdout)
        assert inside["result"] == alone["result"]
        assert host.sms() and host.sms() <= sms_of((2, 3))


@pytest.mark.parametrize("experiment", ["order", "order-chains", "properties", "capture", "graphs",
                                        "reset", "descriptors", "fork-after"])
def test_same_as_alone(host, runtime, experiment):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    alone = alone.stdout
    granter = runtime(groups=(1, 2))
    inside = host.experiment(experiment, granter).stdout
    assert inside.splitlines() == alone.splitlines()


def test_clearing_the_environment_is_no_way_out(host, runtime):
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    assert host.experiment("cleared-environment", runtime(groups=(2,))).stdout == alone
    assert host.sms() <= sms_of((2,))


def test_a_destroyed_stream_is_still_waited_for(host, runtime):
    assert host.experiment("order-destroyed", runtime()).stdout == "destroyed 1\n"


def test_lookup_gives_the_stand_ins(host):
    alone = host.experiment("lookup", preload=False).stdout.splitlines()
    inside = host.experiment("lookup").stdout.splitlines()
    assert len(alone) == len(inside)
    ours = {"dlsym", "dlsym-ptsz", "deepbind", "default"}
    for before, after in zip(alone, inside):
        path, *found = before.split()
        if len(found) == 2 and found[0] not in ("none", "cuMemGetAddressRange_v2") and (path in ours or ":" in path):
            assert after.split() == [path, found[0], "libdetshar"]
        elif path == "next":
            assert after.split()[-1] == "libdetshar"
        else:
            assert after == before


def test_without_cuda_nothing_is_different(host, runtime):
    granter = runtime()
    alone = host.experiment("without-cuda", preload=False)
    inside = host.experiment("without-cuda", granter)
    assert (inside.stdout, inside.stderr) == (alone.stdout, "")
    assert granter.hellos == []


def test_without_cuda_no_thread_and_no_descriptor(host, runtime):
    granter = runtime()
    for directory in ("fd", "task"):
        command = ["/bin/ls", f"/proc/self/{directory}"]
        with_it, without = host.run(*command, runtime=granter), host.run(*command, preload=False)
        assert len(with_it.stdout.split()) == len(without.stdout.split())
    assert granter.hellos == []


def test_threads(host, runtime):
    granter = runtime(groups=(0, 2))
    inside = host.experiment("threads", granter)
    assert inside.stdout == "wrong 0\n"
    assert host.sms() <= sms_of((0, 2))


def test_two_copies_of_the_library(host, runtime, tmp_path):
    copy = tmp_path / "copy" / "libdetshare-cuda.so"
    copy.parent.mkdir()
    copy.write_bytes(LIBRARY.read_bytes())
    alone = host.experiment("work", preload=False).stdout
    for libraries in ([LIBRARY, LIBRARY], [LIBRARY, copy], [copy, LIBRARY]):
        host.clear()
        granter = runtime(groups=(3,))
        preload = " ".join(sanitizer_runtimes() + [str(library) for library in libraries])
        inside = host.experiment("work", granter, LD_PRELOAD=preload)
        assert inside.stdout == alone
        assert host.sms() <= sms_of((3,))
        assert len(granter.hellos) == 1
        assert granter.port().launches == 18


NOT_PERMITTED, TOO_LARGE = 800, 720


def one_line(text, *words):
    """The library said one line, and these words in it."""
    lines = [line for line in text.splitlines() if line.startswith("detshare: ")]
    assert len(lines) == 1, text
    for word in words:
        assert word in lines[0]
    return True


@pytest.mark.parametrize("arguments, words", [
    ({"refuse": "the allocation has ended"}, ["refused: the allocation has ended"]),
    ({"version": 9}, ["version 9"]),
    ({"shape": (11, 4, 0)}, ["44 SMs"]),
    ({"page_size": 16}, ["smaller than"]),
])
def test_no_partition(host, runtime, arguments, words):
    alone = host.experiment("work", preload=False).stdout
    required = host.run(GPU / "coroutine_program", "work", runtime=runtime(**arguments), check=False)
    assert one_line(required.stderr, "may not use the GPU", *words)
    assert alone not in required.stdout
    free = host.experiment("work", runtime(**arguments), DETSHARE_REQUIRED="0")
    assert free.stdout == alone
    assert one_line(free.stderr, "whole GPU", *words)


def test_no_runtime(host, tmp_path):
    alone = host.experiment("work", preload=False).stdout
    gone = {"DETSHARE_PORT": tmp_path / "gone"}
    required = host.run(GPU / "coroutine_program", "work", **gone)
    assert json.loads(required.stdout) == {"retain": NOT_PERMITTED}
    assert one_line(required.stderr, "cannot reach the node runtime", str(tmp_path / "gone"))
    free = host.experiment("work", DETSHARE_REQUIRED="0", **gone)
    assert free.stdout == alone
    assert one_line(free.stderr, "whole GPU", "cannot reach the node runtime")
    assert host.experiment("work").stdout == alone, "without a port the library stands aside"
    required = host.run(GPU / "coroutine_program", "work", DETSHARE_REQUIRED="1")
    assert one_line(required.stderr, "DETSHARE_PORT")


def test_another_device_is_left_alone(host, runtime, tmp_path):
    other = Runtime(tmp_path / "other", "GPU-00000000-0000-0000-0000-000000000000", groups=(0,))
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    assert host.experiment("work", other).stdout == alone
    assert len(host.sms()) > GROUP_SMS
    assert other.port().groups == set()
    other.close()


def test_own_contexts_are_counted(host, runtime):
    granter = runtime()
    inside = host.experiment("own-context", granter)
    assert (inside.stdout, inside.stderr) == ("own context 0\n", "")
    assert granter.port().own_contexts == 1


def test_cooperative_grids_larger_than_the_partition_are_counted(host, runtime):
    alone = host.experiment("cooperative", preload=False).stdout.splitlines()
    granter = runtime(groups=(0,))
    granter.flags(1 << 5, tell=False)  # DS_PAGE_WHOLE_REFUSED; test_whole.py has the other way
    inside = host.experiment("cooperative", granter)
    differ = [after for before, after in zip(alone, inside.stdout.splitlines()) if before != after]
    failed = [line for line in inside.stdout.splitlines() if line.endswith(f": {TOO_LARGE}")]
    assert differ and all(line.endswith(f": {TOO_LARGE}") for line in differ)
    assert len(failed) > len(differ) == granter.port().too_large, "only what would have fitted alone"
    assert one_line(inside.stderr, "cooperative")


def test_fork_before_use_gives_two_sessions(host, runtime):
    alone = host.experiment("fork-before", preload=False).stdout
    granter = runtime(groups=(1,))
    assert host.experiment("fork-before", granter).stdout == alone
    assert len(granter.hellos) == 2
    assert [granter.port(i).launches for i in range(2)] == [18, 18]
    assert host.sms()


def test_child_of_a_program_that_uses_cuda_is_silent(host, runtime):
    granter = runtime()
    host.experiment("fork-after", granter)
    assert len(granter.hellos) == 1
    assert granter.port().launches == 2


def test_the_session_lasts_as_long_as_the_program(host, runtime):
    granter = runtime()
    with subprocess.Popen([GPU / "coroutine_program", "hold"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env=host.environment(granter)) as program:
        assert program.stdout.readline() == b"holding\n"
        assert granter.open == 1
        numbers = sorted(int(fd) for fd in os.listdir(f"/proc/{program.pid}/fd"))
        sockets = [fd for fd in numbers if "socket" in os.readlink(f"/proc/{program.pid}/fd/{fd}")]
        assert sockets and min(sockets) >= 900
        program.stdin.close()
        program.wait()


def test_a_grant_is_waited_for(host, runtime):
    granter = runtime(groups=(), epoch=2)
    with subprocess.Popen([GPU / "coroutine_program", "work"], stdout=subprocess.PIPE,
                          env=host.environment(granter)) as program:
        threading.Event().wait(0.5)
        assert granter.hellos
        assert program.poll() is None
        os.pwrite(granter.page, struct.pack("<Q", 3), 8)
        os.pwrite(granter.page, struct.pack("<Q", 1 << 4), 32)
        os.pwrite(granter.page, struct.pack("<Q", 4), 8)
        assert program.wait(timeout=60) == 0
    assert host.sms() <= sms_of((4,))
    assert granter.port().epoch == 4


# ---- moving ----

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


@pytest.mark.parametrize("chaos", ["1", "2", "7", "1:77"])
@pytest.mark.parametrize("experiment", ["work", "order", "order-chains", "properties", "capture", "graphs",
                                        "threads", "reset", "descriptors", "fork-before", "fork-after",
                                        "cooperative", "wake", "moved-properties", "threads-share", "exits"])
def test_same_as_alone_when_moved_all_the_time(host, runtime, experiment, chaos):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    host.clear()
    granter = runtime(groups=tuple(range(6)) if experiment == "cooperative" else (0, 1, 3, 4))
    granter.flags(1 << 5 if experiment == "cooperative" else 0, tell=False)  # DS_PAGE_WHOLE_REFUSED
    inside = host.experiment(experiment, granter, DETSHARE_CHAOS=chaos)
    if experiment == "cooperative":
        assert granter.port().remaps or chaos == "7"
        return  # the largest grid that fits is the partition's
    assert inside.stdout.splitlines() == alone.stdout.splitlines()
    assert inside.stderr == ""
    assert host.sms() <= sms_of((0, 1, 3, 4))
    if chaos == "1" and granter.port().launches > 6:
        assert granter.port().remaps > 3


@pytest.mark.parametrize("stream", ["null", "blocking", "nonblocking", "perthread"])
def test_gpuwork_when_moved_all_the_time(host, runtime, stream):
    command = [GPU / "gpuwork", "reduce", "--stream", stream, "--n", "20000"]
    alone = json.loads(host.run(*command, preload=False).stdout)
    for chaos in ("1", "2:9"):
        inside = json.loads(host.run(*command, runtime=runtime(groups=(0, 2, 3)), DETSHARE_CHAOS=chaos).stdout)
        assert inside["result"] == alone["result"]


def test_chaos_that_cannot_be_read_is_named(host, runtime):
    alone = host.experiment("work", preload=False).stdout
    for chaos in ("0", "often", "2:", "-1"):
        granter = runtime()
        inside = host.experiment("work", granter, DETSHARE_CHAOS=chaos)
        assert inside.stdout == alone
        assert one_line(inside.stderr, f"DETSHARE_CHAOS={chaos}", "EVERY:SEED")
        assert granter.port().remaps == 0


def test_an_idle_program_gives_groups_back(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    with Running(host, granter, "hold", "holding") as running:
        for groups in ((1,), (1, 3, 4), (0, 1, 2), (5, 2)):
            assert granter.wait_for(granter.grant(groups)) == set(groups)
        assert granter.port().epoch == granter.epoch
        running.end()


def test_a_program_blocked_in_a_synchronise_gives_groups_back(host, runtime):
    granter = runtime(groups=(0, 1, 2, 3, 4))
    with Running(host, granter, "blocked", "blocked") as running:
        began = time.monotonic()
        epoch = granter.grant((2,))
        assert granter.port().groups == {0, 1, 2, 3, 4}
        assert granter.wait_for(epoch) == {2}
        when = time.monotonic_ns()
        assert time.monotonic() - began > 0.2, "acknowledged while the kernel ran"
        assert running.end()[0].split() == ["done", "again"]
    assert_left(host, when, (2,))
    assert host.sms() > sms_of((2,))


def test_a_stopped_program_is_waited_for(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "hold", "holding") as running:
        stop(running.program.pid)
        os.waitpid(running.program.pid, os.WUNTRACED)
        epoch = granter.grant((1,))
        time.sleep(0.2)
        assert not [one for one in granter.acknowledged if one[0] == epoch]
        os.kill(running.program.pid, signal.SIGCONT)
        assert granter.wait_for(epoch) == {1}
        running.end()


@pytest.mark.parametrize("seed", range(3))
def test_no_block_runs_where_groups_were_given_back(host, runtime, seed):
    draw = random.Random(seed)
    granter = runtime(groups=(0, 1, 2, 3, 4, 5))
    with Running(host, granter, "pumping", "pumping") as running:
        for _ in range(12):
            groups = set(draw.sample(range(6), draw.randint(1, 6))) | {draw.randrange(5)}
            host.clear()
            assert granter.wait_for(granter.grant(groups)) == groups
            when = time.monotonic_ns()
            time.sleep(draw.choice((0, 0.02, 0.1)))
            assert_left(host, when, groups)
        out, err = running.end()
        assert (out, err) == ("wrong 0\n", "")
    assert granter.port().remaps > 12


def test_only_the_last_of_many_grants_counts(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    with Running(host, granter, "pumping", "pumping") as running:
        for round in range(60):
            granter.grant({round % 5, (round * 3 + 1) % 5})
        last = {59 % 5, (59 * 3 + 1) % 5}
        assert granter.wait_for(granter.epoch) == last
        when = time.monotonic_ns()
        time.sleep(0.05)
        assert_left(host, when, last)
        assert running.end()[0] == "wrong 0\n"


def test_more_partitions_than_are_kept(host, runtime):
    """All 32 sets with group 0 in them, one after the other: old physical contexts make room."""
    granter = runtime(groups=(0,))
    with Running(host, granter, "pumping", "pumping") as running:
        for bits in range(32):
            groups = {0} | {i + 1 for i in range(5) if bits >> i & 1}
            assert granter.wait_for(granter.grant(groups)) == groups
        out, err = running.end()
        assert (out, err) == ("wrong 0\n", "")


def test_moves_and_grants_at_once(host, runtime):
    granter = runtime(groups=(0, 1, 2, 3))
    with Running(host, granter, "pumping", "pumping", DETSHARE_CHAOS="3") as running:
        for groups in ({0, 1}, {1, 2, 3, 4}, {2}, {0, 2, 4, 5}, {4, 1}):
            host.clear()
            assert granter.wait_for(granter.grant(groups)) == groups
            when = time.monotonic_ns()
            time.sleep(0.05)
            assert_left(host, when, groups)
        assert running.end() == ("wrong 0\n", "")


def test_groups_go_back_while_a_stream_is_captured(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "capturing", "capturing") as running:
        granter.wait_for(granter.grant({1}))
        assert running.end() == ("end 0\n", "")


def test_the_runtime_may_go_away(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "pumping", "pumping") as running:
        for connection in granter.connections:
            connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.1)
        assert running.end() == ("wrong 0\n", "")


def test_a_program_may_exit_while_it_gives_groups_back(host, runtime):
    for _ in range(5):
        granter = runtime(groups=(0, 1, 2))
        with subprocess.Popen([GPU / "coroutine_program", "exits"], stdout=subprocess.PIPE,
                              env=host.environment(granter)) as program:
            while not granter.ports or not granter.port().launches:
                time.sleep(0.001)
            granter.grant({0})
            assert program.wait(timeout=20) == 0


def test_the_thread_that_follows_the_page(host, runtime):
    """Is there from the first use of the GPU, by its name, and takes no signal."""
    granter = runtime()
    with Running(host, granter, "hold", "holding") as running:
        tasks = Path(f"/proc/{running.program.pid}/task")

        def follower():
            # It gives itself its name.
            return next((task for task in tasks.iterdir() if (task / "comm").read_text() == "detshare\n"), None)

        status = (wait_for(follower, 60) / "status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
        assert all(blocked >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        running.end()


def pairs(host):
    """The blocks of two kernels that may overlap, pair by pair: 10 ms each."""
    found = sorted((block for block in blocks(host) if block["end_ns"] - block["begin_ns"] > 5e6), key=lambda b: b["begin_ns"])
    assert len(found) == 12
    return list(zip(found[::2], found[1::2]))


@pytest.mark.parametrize("experiment", ["overlaps", "overlaps-in-graph"])
def test_kernels_that_may_overlap_do(host, runtime, experiment):
    """Nothing of the library comes between them (programmatic dependent launch)."""
    granter = runtime(groups=(1, 3))
    assert host.experiment(experiment, granter).stdout == host.experiment(experiment, preload=False).stdout == "6 pairs\n"
    host.clear()
    host.experiment(experiment, granter)
    assert all(second["begin_ns"] < first["end_ns"] for first, second in pairs(host))


def test_kernels_that_may_overlap_do_not_across_a_move(host, runtime):
    granter = runtime(groups=tuple(range(6)))
    host.experiment("overlaps", granter, DETSHARE_CHAOS="1:1")
    assert granter.port().remaps >= 6
    assert all(second["begin_ns"] >= first["end_ns"] for first, second in pairs(host))


def test_an_edge_with_a_port_moves_with_its_graph(host, runtime):
    granter = runtime(groups=tuple(range(6)))
    host.experiment("overlaps-in-graph", granter, DETSHARE_CHAOS="1:1")
    assert granter.port().remaps >= 5
    assert all(second["begin_ns"] < first["end_ns"] for first, second in pairs(host))
