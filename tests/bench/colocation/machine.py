# SPDX-License-Identifier: Apache-2.0
"""The machine under the programs: MPS, allocations of detshare, what is known of it, and that nothing is left."""
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .settings import Program

HERE = Path(__file__).resolve().parent
HOLD = "import json, os, sys; print(json.dumps(dict(os.environ)), flush=True); sys.stdin.read()"
# Programs must not see each other's, nor the caller's, sharing.
TAKEN_AWAY = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_CLIENT_PRIORITY",
              "DETSHARE_PORT", "LD_PRELOAD")
LEARNED = ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
BEGIN_S, END_S = 40, 30


class Trouble(Exception):
    """A run cannot go on; the text says why."""


@dataclass
class Machine:
    backend: str  # torch, emulated
    detshare: str = "detshare"
    mps_control: str = "nvidia-cuda-mps-control"
    gpu: str = "0"
    groups: int = 15  # SM groups of the GPU, for static partitions
    environment: dict = field(default_factory=dict)  # of everything
    node: dict = field(default_factory=dict)  # keys of detshare-node.conf
    python: str = sys.executable
    name: str = "colocate"  # of who measures
    directory: Path = None
    learned: dict = field(default_factory=dict)  # what detshare puts into tasks' environments, but for the port

    def __enter__(self):
        # In /run: sockets' names are short, and it is no disk.
        base = "/run" if os.access("/run", os.W_OK) and self.backend == "torch" else None
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=base))
        self.directory.chmod(0o755)
        (self.directory / "slurm.conf").touch()
        return self

    def __exit__(self, *_):
        # Again and again: one that was cut short may have been about to fork a daemon.
        end = time.monotonic() + END_S
        while (left := self.left_over()) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.directory, ignore_errors=True)

    def base_environment(self):
        environment = {name: value for name, value in os.environ.items() if name not in TAKEN_AWAY}
        return environment | {"SLURM_CONF": str(self.directory / "slurm.conf"), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | self.environment

    def left_over(self):
        """Processes of ours: all have our directory in their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != os.getpid() and \
                        str(self.directory).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def wait_until_empty(self, but=()):
        """After a run: no program, runtime or daemon is left. What does not go is killed, and that is trouble."""
        end = time.monotonic() + END_S
        while left := [pid for pid in self.left_over() if pid not in but]:
            if time.monotonic() > end:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise Trouble(f"processes {left} were left and had to be killed")
            time.sleep(0.02)

    # MPS

    def mps_pipe(self):
        return self.directory / "mps"

    @contextlib.contextmanager
    def mps(self):
        """A control daemon of our own."""
        pipe, log = self.mps_pipe(), self.directory / "mps-log"
        for folder in pipe, log:
            folder.mkdir(exist_ok=True)
        environment = self.base_environment() | {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log),
                                                 "CUDA_VISIBLE_DEVICES": self.gpu}
        started = subprocess.run([self.mps_control, "-d"], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                 text=True, timeout=BEGIN_S, check=False)
        if started.returncode != 0:
            raise Trouble(f"{self.mps_control} -d: {started.stderr.strip() or started.stdout.strip()}")
        try:
            yield
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([self.mps_control], input="quit -t 5\n", env=environment, text=True, capture_output=True,
                               timeout=END_S, check=False)
            shutil.rmtree(log, ignore_errors=True)
            shutil.rmtree(pipe, ignore_errors=True)

    # detshare

    def write_configuration(self, row):
        """detshare.conf and detshare-node.conf of a row; gives the latter's path."""
        lines, classes = [], {}
        for key, value in row.site.items():
            name, _, rest = key.partition(".")
            if rest:
                classes.setdefault(name, []).append(f"    {rest} = {value}")
            else:
                lines.append(f"{key} = {value}")
        for name, keys in classes.items():
            lines += [f'class {name} {{', *keys, "}"]
        (self.directory / "detshare.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "detshare.conf").chmod(0o644)
        node = {"runtime_dir": self.directory / "detshare", "spool_dir": self.directory / "spool"} | self.node | row.node
        path = self.directory / "node.conf"
        path.write_text("".join(f"{key} = {value if str(value).isdigit() else json.dumps(str(value))}\n" for key, value in node.items()))
        path.chmod(0o644)
        return path

    @contextlib.contextmanager
    def share(self, row, program, share):
        """An allocation of detshare; gives the path of its port."""
        config = self.write_configuration(row)
        command = [self.detshare, "run", "--share", str(share), "--class", program.workload, "--gpu", self.gpu, "--config",
                   str(config), "--", self.python, "-c", HOLD]
        holder = subprocess.Popen(command, env=self.base_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            told = holder.stdout.readline()
            if not told:
                raise Trouble(f"detshare run: {holder.communicate(timeout=END_S)[1].strip()}")
            task = json.loads(told)
            self.learned = {name: task[name] for name in LEARNED if name in task}
            yield task["DETSHARE_PORT"]
        finally:
            try:
                holder.communicate(timeout=END_S)  # closes its input: the command ends, and so does the allocation
            except subprocess.TimeoutExpired:
                holder.kill()
                holder.communicate()

    def learn(self, row):
        """Ask detshare once what its tasks' environment is."""
        if not self.learned:
            with self.share(row, Program("none", 0.1), 0.1):
                pass
            self.wait_until_empty()

    # What it is

    def versions(self):
        def said(*command):
            try:
                done = subprocess.run(command, env=self.base_environment(), capture_output=True, text=True, timeout=20, check=False)
                return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None
            except (OSError, subprocess.TimeoutExpired):
                return None
        return {"gpu": said("nvidia-smi", "--query-gpu=name,driver_version,compute_mode,mig.mode.current", "--format=csv,noheader",
                            "-i", self.gpu) if self.backend == "torch" else "emulated",
                "detshare": said(self.detshare, "--version"), "commit": said("git", "-C", str(HERE), "rev-parse", "HEAD"),
                "kernel": platform.release(), "python": platform.python_version(), "cpus": len(os.sched_getaffinity(0))}


def emulated(build, name="colocate", shape=()):
    """A machine with an emulated GPU, made anew, of that shape (options of emugpu-host). (machine, what to remove in the end)"""
    build = Path(build).resolve()
    emugpu = build / "tests" / "emugpu"
    host = Path(tempfile.mkdtemp(prefix=f"{name}-gpu-"))
    subprocess.run([emugpu / "emugpu-host", "create", host / "gpus", "--gpus", "1", *shape], check=True, stdout=subprocess.DEVNULL)
    libraries = str(emugpu / ".libs")
    node = {"gpu_info_dir": host / "gpus" / "proc", "cuda_library": emugpu / ".libs" / "libcuda.so.1",
            "noderuntime": build / "noderuntime" / "detshare-noderuntime", "mps_control": emugpu / "nvidia-cuda-mps-control",
            "coroutine_library": build / "noderuntime" / "coroutine" / ".libs" / "libdetshare-cuda.so"}
    return Machine("emulated", str(build / "noderuntime" / "command" / "detshare"), str(emugpu / "nvidia-cuda-mps-control"),
                   name=name, environment={"EMUGPU_DIR": str(host / "gpus"), "LD_LIBRARY_PATH": libraries}, node=node), host
