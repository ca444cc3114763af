# SPDX-License-Identifier: Apache-2.0
"""One run: programs beside each other, in one way of sharing."""
import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

from .figures import summary
from .machine import HERE, Trouble
from .settings import partition_of

WARM_S, SETTLE_S = 120, 0.3
PROGRAMS = HERE / "programs"


class Worker:
    """A program, started before it may use the GPU, so that others' measurements can go on meanwhile."""

    def __init__(self, machine, program, index, environment):
        self.program, self.index, self.ended = program, index, False
        spec = {"backend": machine.backend, "name": program.name}
        self.process = subprocess.Popen([machine.python, "-B", str(PROGRAMS), json.dumps(spec)], env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        start_new_session=True)

    def say(self, words):
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.trouble("has ended") from None

    def hear(self, seconds):
        if not select.select([self.process.stdout], [], [], max(0, seconds))[0]:
            raise self.trouble(f"says nothing within {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise self.trouble("has ended")
        return json.loads(line)

    def trouble(self, what):
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.5)  # it may just be about to end
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.ended = True
        lines = self.process.communicate()[1].strip().splitlines()
        return Trouble(f"{self.program.name} {what}: {lines[-1] if lines else 'no reason given'}")

    def end(self):
        if self.ended:
            return
        self.ended = True
        if self.process.poll() is None:
            try:
                self.process.communicate(timeout=10)  # end of its input and of the work
            except (subprocess.TimeoutExpired, ValueError):
                pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Prepared:
    """A run whose programs are started and have not touched CUDA: that takes seconds, in which another run goes on."""

    def __init__(self, machine, run):
        self.run = run
        self.ports = [machine.directory / f"port-{Prepared.count}-{index}" for index in range(len(run.group.programs))]
        Prepared.count += 1
        self.workers = []
        try:
            for index in run.works:
                program = run.group.programs[index]
                self.workers.append(Worker(machine, program, index, environment(machine, run.row, program, self.ports[index])))
        except OSError:
            self.end()
            raise
        self.imported = False

    count = 0

    def wait(self):
        """Until all programs have only the GPU to wait for. What goes wrong is told when the run is to begin."""
        if not self.imported:
            for worker in self.workers:
                worker.hear(WARM_S)
        self.imported = True

    def reported(self, index):
        """What the coroutine library counted in a program that has ended, or None; without the list of kernels."""
        try:
            found = json.loads(Path(f"{self.ports[index]}.report").read_text())
            return {name: value for name, value in found.items() if not isinstance(value, list)}
        except (OSError, ValueError):
            return None

    def end(self):
        for worker in self.workers:
            worker.end()
        for port in self.ports:
            port.unlink(missing_ok=True)

    def pids(self):
        return [worker.process.pid for worker in self.workers]


def environment(machine, row, program, port):
    """Of a program, before there is what it will use."""
    found = machine.base_environment()
    if row.kind == "detshare":
        return found | machine.learned | {"DETSHARE_PORT": str(port), "DETSHARE_CLASS": program.workload, "DETSHARE_REPORT": f"{port}.report"}
    found["CUDA_VISIBLE_DEVICES"] = machine.gpu
    if row.kind in ("mps", "partitions"):
        found["CUDA_MPS_PIPE_DIRECTORY"] = str(machine.mps_pipe())
    else:
        found["CUDA_MPS_PIPE_DIRECTORY"] = str(machine.directory / "no-mps")  # not the machine's, if it has one
    if row.percent:
        found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(max(1, round(100 * program.share)))
    if row.priority:
        found["CUDA_MPS_CLIENT_PRIORITY"] = "0" if program.workload == "latency" else "1"
    return found


def set_up(machine, prepared, stack):
    """Begin what the programs will use."""
    row = prepared.run.row
    if row.kind in ("mps", "partitions"):
        stack.enter_context(machine.mps())
    if row.kind == "detshare":
        group = prepared.run.group
        for index, (program, port) in enumerate(zip(group.programs, prepared.ports)):
            port.symlink_to(stack.enter_context(machine.share(row, program, row.share_of(group, index))))


def execute(machine, prepared, seconds, capacities, meanwhile=lambda: None):
    """What became of a run, as it goes into the results. `capacities`: steps each request and ms a step, of programs with
    a load; a run alone finds them. `meanwhile` is called once the programs are on their way, and gives the next run
    prepared, or None."""
    run, following = prepared.run, []
    result = {"key": run.key, "row": run.row.name, "group": run.group.name, "works": list(run.works), "repetition": run.repetition}

    def others():
        return [pid for each in following if each for pid in each.pids()]

    try:
        prepared.wait()
        with contextlib.ExitStack() as stack:
            set_up(machine, prepared, stack)
            try:
                result["programs"] = measure(machine, prepared, seconds, capacities, lambda: following.append(meanwhile()))
            finally:
                prepared.end()
        machine.wait_until_empty(others())
        for program in result["programs"]:
            program["library"] = prepared.reported(program["index"])
        result["ok"] = True
    except (Trouble, OSError, subprocess.SubprocessError, ValueError, KeyError) as trouble:
        result |= {"ok": False, "why": str(trouble) if isinstance(trouble, Trouble) else f"{type(trouble).__name__}: {trouble}"}
        prepared.end()  # before all must be gone
        with contextlib.suppress(Trouble):
            machine.wait_until_empty(others())
    finally:
        prepared.end()
    return result


def measure(machine, prepared, seconds, capacities, meanwhile):
    run, workers = prepared.run, prepared.workers
    for worker in workers:
        groups = partition_of(run.group.programs, worker.index, machine.groups) if run.row.kind == "partitions" else None
        worker.say({"partition": groups})
    meanwhile()
    for worker in workers:
        warm = worker.hear(WARM_S)
        if run.row.kind == "alone" and worker.program.load:
            capacities.setdefault(worker.program.name, [warm["steps_each"], warm["step_ms"]])
    at = time.monotonic() + SETTLE_S
    for worker in workers:
        rate = 0
        if worker.program.load:
            if worker.program.name not in capacities:
                raise Trouble(f"{worker.program.name} has not run alone yet, so what is {worker.program.load:.0%} is not known")
            steps_each, step_ms = capacities[worker.program.name]
            rate = worker.program.load * 1e3 / (steps_each * step_ms)
        worker.say({"at": at, "seconds": seconds, "rate": rate})
    end = at + 4 * seconds + WARM_S
    return [{"name": worker.program.name, "index": worker.index} | summary(worker.hear(end - time.monotonic())) for worker in workers]
