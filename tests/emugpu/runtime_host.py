# SPDX-License-Identifier: Apache-2.0
"""An emulated machine of its own for a test: its GPUs, its configuration, its node runtimes."""
import array
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

BUILD = os.environ.get("DETSHARE_BUILDDIR") or os.environ.get("DETSHARE_BUILD")
MAGIC, VERSION = 0x44535054, 3
PROGRAM, STEP, REPORT, EPOCH, ACKNOWLEDGED, DEMAND, NOTES = 1, 2, 3, 4, 5, 6, 9
ACTIVE, IDLE = 1, 2  # what a program says of its demand
WINDOW, TELL_IDLE = 2, 4  # flags of the page
HELLO = struct.Struct("=IHHII")
WELCOME = struct.Struct("=IHH248sII")
PAGE = struct.Struct("=IHHQIIIIQQ")  # magic .. granted
PORT = struct.Struct("=IHHQQQQ")  # magic .. launches
NOTICE = struct.Struct("=IHHQ")
TERMS = struct.Struct("=II")  # of the page: flags, window_us
HOLDING = struct.Struct("=II512sI")  # of the page: hold_back_milli, hold_back_us, hold_back_kernels, neighbours_step
HOLDING_AT, SPIN_AT = 680, 1208  # the latter: spin_us, spin_cpus
TERMS_AT, DEMAND_AT, DRAIN_AT, OVERLONG_AT, IMMOVABLE_AT = 128, 2104, 2136, 2144, 2300
NOTES_HEAD, NOTE_SIZE = struct.Struct("=IHHIIQ"), 400

# A shell has what it starts in the background ignore the one, nohup the other, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(condition, seconds=60):
    """Wait until the condition holds; returns what it gave."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)
    return value


def follower(host, name, demand=ACTIVE, drain_us=100):
    """A program of an allocation that follows its page, and says this of itself; `demand` None: nothing."""
    made = host.program(name)
    assert made.answer["refused"] == 0, made.answer
    made.ask("obey", 0)
    if demand is not None:
        made.ask("demand", demand, drain_us, 0)
    return made


def held(host, name):
    return host.resident(name)["groups_held"]


def stat_fields(pid, task=""):
    """State and start time of a process (`task`: of a thread of it), or None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/{task}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def is_running(pid):
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def stop(pid):
    """SIGSTOP; returns when no thread of the process runs any more, which it may for a while on a busy machine."""
    os.kill(pid, signal.SIGSTOP)

    def stopped(thread):
        fields = stat_fields(pid, f"task/{thread}")
        return fields is None or fields[0] in "TtZX"

    wait_for(lambda: all(stopped(thread) for thread in os.listdir(f"/proc/{pid}/task")))


def switches(pid):
    """How often the process went to sleep and was woken, so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError("no voluntary_ctxt_switches")


def asleep(pids, seconds):
    """Whether none of the processes was woken for so long from now on."""
    before = [switches(pid) for pid in pids]
    time.sleep(seconds)
    return [switches(pid) for pid in pids] == before


def memory_folder():
    """Where files are in memory, as in /run: on a disk that is busy a runtime may wait for seconds. None: nowhere."""
    folder = "/dev/shm"
    usable = os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC
    return folder if usable else None


class Host:
    def __init__(self, gpus=2, base=None, **config):
        # Not pytest's directory: other users must reach the port.
        self.dir = Path(tempfile.mkdtemp(prefix="dsrt-", dir=base or memory_folder()))
        self.dir.chmod(0o755)
        self.programs = []
        self.run_dir = self.dir / "run"
        self.spool = self.dir / "spool"
        emugpu = Path(BUILD) / "tests" / "emugpu"
        self.gpuwork = Path(BUILD) / "tests" / "gpu" / "gpuwork"
        self.noderuntime = Path(BUILD) / "noderuntime" / "detshare-noderuntime"
        subprocess.run([emugpu / "emugpu-host", "create", self.dir / "host", "--gpus", str(gpus)], check=True,
                       stdout=subprocess.DEVNULL)
        self.env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "EMUGPU_DIR": str(self.dir / "host"),
                    "LD_LIBRARY_PATH": str(emugpu / ".libs"), "SLURM_CONF": str(self.dir / "slurm.conf")}
        self.env |= {key: value for key, value in os.environ.items() if key.endswith("SAN_OPTIONS")}
        self.config = {
            "runtime_dir": self.run_dir, "spool_dir": self.spool, "gpu_info_dir": self.dir / "host" / "proc",
            "cuda_library": emugpu / ".libs" / "libcuda.so.1", "noderuntime": self.noderuntime,
            "mps_control": emugpu / "nvidia-cuda-mps-control", "gpu_device_prefix": self.dir / "host" / "dev" / "emugpu",
            "coroutine_library": Path(BUILD) / "noderuntime" / "coroutine" / ".libs" / "libdetshare-cuda.so",
        } | config
        self.conf = self.dir / "node.conf"
        self.write_conf()

    def write_conf(self):
        self.conf.write_text("".join(f'{key} = "{value}"\n' for key, value in self.config.items()))

    def close(self):
        for program in self.programs:
            program.kill()
        if self.run_dir.is_dir():
            for entry in self.run_dir.iterdir():
                if not entry.name.startswith("gpu-"):
                    self.end(entry.name, check=False)
        left = self.mps_after_all()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not left, "MPS was left behind"

    # The programs under test

    def node(self, *arguments, env=None, timeout=60, user=None):
        return subprocess.run([self.noderuntime, *map(str, arguments), "--config", self.conf], env=self.env | (env or {}),
                              text=True, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout,
                              user=user)

    def begin(self, name="job-1", share=500, gpu=0, uid=None, check=True, more=(), isolation="user", kind="throughput",
              lending="", memory=None, **options):
        """`lending` is that part of the grant, as in grant.h; "" is the policy static. `memory` is in MiB."""
        uid = os.getuid() if uid is None else uid
        asked = f",memory={memory}" if memory else ""
        grant = f"v=1,class={kind},kind={kind},share={share},isolation={isolation}{asked}{lending},config=0000000000000000"
        job = ["--job-id", name[4:]] if name.startswith("job-") else []
        # What is not to fail has time on a machine that has other work.
        patience = ["--deadline-ms", 30000] if check else []
        done = self.node("begin", "--allocation", name, "--uid", uid, "--gpu", gpu, "--grant", grant, *job, *patience, *more,
                         **options)
        if check:
            assert done.returncode == 0, done.stderr
            assert done.stdout == done.stderr == ""
        return done

    def end(self, name="job-1", check=True, **options):
        patience = ["--deadline-ms", 30000 if check else 10000]  # as for begin
        done = self.node("end", "--allocation", name, *patience, **options)
        if check:
            assert done.returncode == 0, done.stderr
            assert done.stdout == done.stderr == ""
            assert not (self.run_dir / name).exists()
        return done

    def command(self, *arguments, **options):
        if arguments[:1] == ("run",) and os.geteuid() != 0:
            pytest.skip("detshare run keeps another user than root out of the directory of these tests")
        return [Path(BUILD) / "noderuntime" / "command" / "detshare", *map(str, arguments)]

    def run(self, *arguments, **options):
        """`detshare run ARGUMENT...`, started."""
        env = self.env | options.pop("env", {})
        return subprocess.Popen(self.command("run", "--config", self.conf, *arguments), env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                **{"stdin": subprocess.DEVNULL} | options)

    # What can be seen of them

    def status(self, *options):
        done = subprocess.run(self.command("status", *options, "--config", self.conf), env=self.env, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def gpus(self):
        return json.loads(self.status("--json"))["gpus"]

    def status_text(self):
        return self.status()

    def gpu(self, index=0):
        return self.gpus()[index]

    def resident(self, name="job-1"):
        for gpu in self.gpus():
            for resident in gpu["residents"]:
                if resident["allocation"] == name:
                    return resident
        return None

    def runtime_pid(self, name="job-1"):
        return int((self.run_dir / name / "runtime.pid").read_text().split()[0])

    def notes(self, name="job-1", since_ns=0, only_new=False, last=True):
        """What slurmstepd would tell the job's user."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as port:
            port.settimeout(15)
            port.connect(str(self.run_dir / name / "port"))
            port.send(HELLO.pack(MAGIC, VERSION, NOTES, 0, 0) + struct.pack("=QII", since_ns, only_new, last))
            answer = port.recv(65536)
        magic, version, refused, n, _, _ = NOTES_HEAD.unpack(answer[:NOTES_HEAD.size])
        assert (magic, version, refused) == (MAGIC, VERSION, 0), answer
        texts = answer[NOTES_HEAD.size:]
        assert len(texts) == n * NOTE_SIZE
        return [texts[i * NOTE_SIZE:(i + 1) * NOTE_SIZE].split(b"\0")[0].decode() for i in range(n)]

    def record(self, job=1, restart=0):
        return json.loads((self.spool / f"job-{job}.{restart}.json").read_text())

    def mps_pids(self):
        """MPS daemons of this host, whoever started them."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"nvidia-cuda-mps" in (entry / "cmdline").read_bytes() and \
                        f"CUDA_MPS_PIPE_DIRECTORY={self.run_dir}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):
                pass
        return found

    def mps_after_all(self):
        """The same when all is over: who has asked MPS something, and was killed, may take a moment to be gone."""
        end = time.monotonic() + 10
        while (left := self.mps_pids()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def uuid(self, gpu=0):
        """A GPU's UUID, as the driver's /proc files have it."""
        for file in (self.dir / "host" / "proc").glob("*/information"):
            lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
            if int(lines["Device Minor"]) == gpu:
                return lines["GPU UUID"].strip()
        raise AssertionError(f"no GPU {gpu}")

    def task_env(self, name="job-1"):
        """What the runtime puts into a task's environment."""
        return dict(line.split("=", 1) for line in (self.run_dir / name / "task.env").read_text().splitlines())

    def mps_pipe(self, gpu=0):
        return self.run_dir / f"gpu-{self.uuid(gpu)}" / "mps" / "pipe"

    def mps_daemon(self, gpu=0):
        """The GPU's control daemon, or None while there is none."""
        try:
            pid = int((self.mps_pipe(gpu) / "nvidia-cuda-mps-control.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if is_running(pid) else None

    def ask_mps(self, command, gpu=0):
        done = subprocess.run([self.config["mps_control"]], input=command + "\n", text=True, capture_output=True,
                              env=self.env | {"CUDA_MPS_PIPE_DIRECTORY": str(self.mps_pipe(gpu))}, check=False, timeout=60)
        return done.stdout.strip()

    def clients(self, gpu=0):
        """The processes that use a GPU, as the emulated GPU knows them."""
        done = subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "clients", self.dir / "host", str(gpu)],
                              text=True, capture_output=True, check=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def trace(self, gpu):
        """The blocks that ran on a GPU."""
        done = subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "trace", self.dir / "host", str(gpu)],
                              text=True, capture_output=True, check=True, timeout=60)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def assert_clean(self):
        """Nothing of any allocation is left: no directory, no ledger entry, no process."""
        assert [e.name for e in self.run_dir.iterdir() if not e.name.startswith("gpu-")] == []
        assert [r for gpu in self.gpus() for r in gpu["residents"]] == []
        assert self.mps_after_all() == []
        assert not list(self.run_dir.glob("gpu-*/mps"))

    def program(self, name="job-1", **options):
        program = Program(self.run_dir / name / "port", **options)
        self.programs.append(program)
        return program


class Program:
    """A process that speaks to the port as the coroutine library does. `answer` is what it was told."""

    def __init__(self, port, uid=None, hello=None, wait=True, ignore_term=False):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(60)
        hello = hello if hello is not None else HELLO.pack(MAGIC, VERSION, PROGRAM, 0, 0)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.ours.close()
                if ignore_term:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                else:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if uid is not None:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                _serve(str(port), hello, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self.answer = self.hear() if wait else None

    def hear(self):
        text = self.ours.recv(65536)
        return json.loads(text) if text else None

    def ask(self, *words):
        self.ours.send(json.dumps(words).encode())
        return self.hear()

    def kill(self, number=signal.SIGKILL):
        if self.pid:
            os.kill(self.pid, number)
            self.join()

    def join(self):
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0


def _serve(path, hello, control):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(60)
    client.connect(path)
    client.send(hello)
    message, ancillary, _, _ = client.recvmsg(WELCOME.size, socket.CMSG_SPACE(12))
    if not message:
        control.send(json.dumps({"closed": True}).encode())
        return
    if len(message) < WELCOME.size:
        control.send(json.dumps({"report": len(message)}).encode())
        return
    _, _, refused, reason, _, _ = WELCOME.unpack(message)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    if refused or not fds:
        control.send(json.dumps({"refused": refused, "reason": reason.rstrip(b"\0").decode(), "fds": len(fds)}).encode())
        return
    port, page, _book[0] = fds
    view = mmap.mmap(page, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
    control.send(json.dumps({"refused": 0, "fds": len(fds), **_page(view)}).encode())
    while words := control.recv(65536):
        verb, *arguments = json.loads(words)
        control.send(json.dumps(_obey(verb, arguments, port, page, view, client)).encode())


_connections = []  # kept open
_book = [-1]
_slowness = [0]  # of "obey": seconds


def _write_port(port, epoch, groups):
    os.pwrite(port, PORT.pack(MAGIC, VERSION, 0, epoch, groups & (1 << 64) - 1, groups >> 64, 0), 0)


def _acknowledge(port, client, epoch, groups):
    _write_port(port, epoch, groups)
    client.send(NOTICE.pack(MAGIC, VERSION, ACKNOWLEDGED, epoch))


def _notice(client, seconds):
    client.settimeout(seconds)
    try:
        _, _, kind, epoch = NOTICE.unpack(client.recv(100))
    except (BlockingIOError, TimeoutError):
        return None
    assert kind == EPOCH
    return epoch


def _follow_notices(port, view, client):
    """As the library's thread does: acknowledge whatever the page says, some time after a notice."""
    client.settimeout(None)
    while client.recv(100):
        time.sleep(_slowness[0])
        seen = _page(view)
        _acknowledge(port, client, seen["epoch"], seen["groups"])


def _page(view):
    _, _, _, epoch, n_groups, group_sms, rest, share, low, high = PAGE.unpack(view[:PAGE.size])
    flags, window_us = TERMS.unpack(view[TERMS_AT:TERMS_AT + TERMS.size])
    milli, us, kernels, step = HOLDING.unpack(view[HOLDING_AT:HOLDING_AT + HOLDING.size])
    return {"epoch": epoch, "n_groups": n_groups, "group_sms": group_sms, "rest": rest, "share": share,
            "groups": low | high << 64, "flags": flags, "window_us": window_us,
            "hold_back": [milli, us, kernels.rstrip(b"\0").decode()], "step": step % 2,
            "spin": list(TERMS.unpack(view[SPIN_AT:SPIN_AT + TERMS.size]))}


def _obey(verb, arguments, port, page, view, client):
    try:
        if verb == "page":
            return _page(view)
        if verb == "write":
            os.pwrite(port, bytes(arguments[0]), 0)
        elif verb == "write at":
            os.pwrite(port, bytes(arguments[1]), arguments[0])
        elif verb == "acknowledge":
            _acknowledge(port, client, *arguments)
        elif verb == "write port":
            _write_port(port, *arguments)
        elif verb == "demand":
            demand, drain_us, overlong_since_ns = arguments
            os.pwrite(port, struct.pack("=I", demand), DEMAND_AT)
            os.pwrite(port, struct.pack("=QQ", drain_us, overlong_since_ns), DRAIN_AT)
            client.send(NOTICE.pack(MAGIC, VERSION, DEMAND, 0))
        elif verb == "immovable":
            os.pwrite(port, struct.pack("=I", arguments[0]), IMMOVABLE_AT)
        elif verb == "toggle":
            client.settimeout(60)
            for i in range(arguments[0]):
                os.pwrite(port, struct.pack("=I", ACTIVE if i % 2 else IDLE), DEMAND_AT)
                client.send(NOTICE.pack(MAGIC, VERSION, DEMAND, 0))
        elif verb == "report":
            remaps, pinned, graphs = arguments
            os.pwrite(port, struct.pack("=QQQQ", remaps, pinned & (1 << 64) - 1, pinned >> 64, graphs), 56)
        elif verb == "send":
            client.send(bytes(arguments[0]))
        elif verb == "flood":
            client.settimeout(arguments[0])
            end = time.monotonic() + arguments[0]
            sent = 0
            while time.monotonic() < end:
                try:
                    client.send(NOTICE.pack(MAGIC, VERSION, ACKNOWLEDGED, 2))
                    sent += 1
                except TimeoutError:
                    break
            return sent
        elif verb == "notice":
            return _notice(client, *arguments)
        elif verb == "obey":
            _slowness[0] = arguments[0]
            seen = _page(view)
            _acknowledge(port, client, seen["epoch"], seen["groups"])
            threading.Thread(target=_follow_notices, args=(port, view, client), daemon=True).start()
        elif verb == "close":
            client.close()
        elif verb == "hang up":  # also for a thread that reads
            client.shutdown(socket.SHUT_RDWR)
        elif verb == "exec":
            os.execvp(arguments[0], arguments)
        elif verb == "map page":
            mmap.mmap(page, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        elif verb == "reopen page":
            mmap.mmap(os.open(f"/proc/self/fd/{page}", os.O_RDWR), 4096)
        elif verb == "write page":
            os.write(os.open(f"/proc/self/fd/{page}", os.O_RDWR), b"x")
        elif verb == "scribble":  # all over the book of memory, but for what a program cannot be without
            os.pwrite(_book[0], os.urandom(12288), 0)
        elif verb == "resize port":
            os.ftruncate(port, arguments[0])
        elif verb == "connect again":
            again = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            again.connect(arguments[0])
            again.send(HELLO.pack(MAGIC, VERSION, PROGRAM, 0, 0))
            _connections.append(again)
            return WELCOME.unpack(again.recv(WELCOME.size))[2]
        elif verb == "connected":
            client.setblocking(False)
            try:
                return client.recv(1) != b""
            except BlockingIOError:
                return True
        return "done"
    except OSError as error:
        return error.strerror
