# SPDX-License-Identifier: Apache-2.0
"""The programs of bench_reclaim on one machine, for one length of kernels: alone, and beside each other."""
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import time
from dataclasses import dataclass

from colocation.machine import Trouble
from colocation.settings import Row

from .figures import Kernels, Run, groups_of

READY_S, END_S, LOAN_S, SETTLE_S = 60, 30, 30, 0.3
OWNER, BORROWER = "latency", "throughput"
RUN = struct.Struct("=qqII")  # struct gpu_run


@dataclass(frozen=True)
class Settings:
    kernel_us: float
    budget_us: int
    owner_us: float  # its kernels, on its own groups
    cycles: int
    pause_us: float
    work_us: float
    seconds: float  # of each rate
    limit_s: float  # of all cycles
    seed: int
    poll_ns: int
    node: dict  # keys of detshare-node.conf


class Program:
    """reclaim_program, in an allocation or, with `share` None, without detshare."""

    def __init__(self, machine, program, role, runs, *, launches, share=None, workload=BORROWER, config=None, **options):
        self.runs_path = runs
        words = [str(program), role, "--capacity", str(int(launches) + 4096), "--runs", str(runs)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        environment = machine.base_environment()
        if share is None:
            environment |= {"CUDA_VISIBLE_DEVICES": machine.gpu, "CUDA_MPS_PIPE_DIRECTORY": str(machine.directory / "no-mps")}
        else:
            words = [machine.detshare, "run", "--share", str(share), "--class", workload, "--gpu", machine.gpu, "--config", str(config), "--", *words]
        self.what = " ".join(words)
        self.process = subprocess.Popen(words, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)
        self.ready = None

    def wait(self):
        self.ready = self.hear(READY_S)
        return self

    def hear(self, seconds):
        if not select.select([self.process.stdout], [], [], max(0, seconds))[0]:
            raise Trouble(f"says nothing within {seconds:.0f} s: {self.what}")
        line = self.process.stdout.readline()
        if not line:
            why = self.process.communicate(timeout=END_S)[1].strip().splitlines()
            raise Trouble(f"has ended with status {self.process.returncode}: {self.what}: {why[-1] if why else 'no reason given'}")
        return json.loads(line)

    def say(self, line):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Trouble(f"has ended: {self.what}") from None

    def result(self, seconds):
        """Of one that has come to its end, or was told to."""
        told = self.hear(seconds)
        self.close_input()
        _, err = self.process.communicate(timeout=END_S)
        if self.process.returncode:
            raise Trouble(f"ended with status {self.process.returncode}: {self.what}: {err.strip()}")
        if told.get("full"):
            raise Trouble(f"had more launches than were thought possible, so that the end was not measured: {self.what}")
        return told

    def stop(self):
        self.close_input()
        return self.result(READY_S)

    def close_input(self):
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.stdin = None  # or communicate() would use it

    def runs(self):
        return [Run(*fields[:3]) for fields in RUN.iter_unpack(self.runs_path.read_bytes())]

    def end(self):
        if self.process.poll() is None:
            self.close_input()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.close_input()
        self.process.communicate()


def launches_in(seconds, kernel_us):
    """More than there can be."""
    return 2 * seconds * 1e6 / kernel_us


@contextlib.contextmanager
def started(*arguments, **options):
    program = Program(*arguments, **options)
    try:
        yield program.wait()
    finally:
        program.end()


def rate_of(program, seconds):
    """The program, and its kernels a second once it has settled."""
    time.sleep(SETTLE_S)
    begin = time.monotonic_ns()
    time.sleep(seconds)
    end = time.monotonic_ns()
    program.stop()
    return Kernels(program.runs()).rate([(begin, end)])


def configuration(machine, settings):
    site = {"policy": "lend", f"{OWNER}.reclaim_budget": settings.budget_us}
    return machine.write_configuration(Row("reclaim", "detshare", "", site=site, node=settings.node))


def residents(machine, config):
    done = subprocess.run([machine.detshare, "status", "--json", "--config", str(config)], env=machine.base_environment(), text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=END_S, check=False)
    if done.returncode:
        raise Trouble(f"detshare status: {done.stderr.strip()}")
    gpus = [gpu for gpu in json.loads(done.stdout)["gpus"] if gpu.get("residents")]
    if len(gpus) != 1:
        raise Trouble(f"the two programs are on {len(gpus)} GPUs, not on one")
    return gpus[0]["shape"], {resident["class"]: resident for resident in gpus[0]["residents"]}


def await_loan(machine, config, settings):
    """The GPU's shape, and whose groups are whose, once the borrower has what the owner leaves idle."""
    end = time.monotonic() + LOAN_S
    while True:
        shape, found = residents(machine, config)
        if BORROWER in found and OWNER in found and found[BORROWER]["borrows_from"] and \
                found[BORROWER]["groups_held"] == found[BORROWER]["groups_planned"]:
            return shape, found
        if time.monotonic() > end:
            raise Trouble(f"nothing is lent: the borrower needs {found.get(BORROWER, {}).get('drain_us')} us to be off a group, and "
                          f"--budget-us is {settings.budget_us}; the owner is {found.get(OWNER, {}).get('demand')}")
        time.sleep(0.05)


def mask(groups):
    bits = sum(1 << group for group in groups)
    return f"{bits & (1 << 64) - 1:x} {bits >> 64:x}"


def alone(machine, program, settings, folder):
    """What is measured before there is a neighbour: the rate on the whole GPU, and that in an allocation without a window."""
    launches = launches_in(settings.seconds + READY_S, settings.kernel_us)
    with started(machine, program, "borrow", folder / "whole", launches=launches, kernel_us=settings.kernel_us) as whole:
        out = {"device": whole.ready["device"], "units": whole.ready["units"], "whole": rate_of(whole, settings.seconds)}
    config = configuration(machine, settings)
    with started(machine, program, "borrow", folder / "share", launches=launches, share=1, config=config, units=out["units"]) as share:
        if share.ready["window"] or not share.ready["library"]:
            raise Trouble("a program in a share of 1 has a window, or has not loaded the coroutine library")
        out["windowless"] = rate_of(share, settings.seconds)
    machine.wait_until_empty()
    return out


def beside(machine, program, settings, folder, units):
    """An owner that comes and goes, and a borrower."""
    config = configuration(machine, settings)
    budget_s = settings.seconds + settings.limit_s + READY_S
    # About half of the SMs have so much to do.
    owner_units = max(1, round(units * settings.owner_us / settings.kernel_us / 2))
    cycle_us = settings.pause_us + settings.work_us
    owner_launches = settings.cycles * (16 + 4 * cycle_us / settings.owner_us)
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(started(machine, program, "own", folder / "owner", launches=owner_launches, share=0.5, workload=OWNER,
                                            config=config, units=owner_units))
        borrower = stack.enter_context(started(machine, program, "borrow", folder / "borrower", share=0.5, config=config, units=units,
                                               launches=launches_in(budget_s, settings.kernel_us)))
        shape, found = await_loan(machine, config, settings)
        time.sleep(SETTLE_S)
        begin = time.monotonic_ns()
        time.sleep(settings.seconds)
        steady = begin, time.monotonic_ns()
        groups = {who: groups_of(found[who]["groups_own"], shape["groups"]) for who in (OWNER, BORROWER)}
        owner.say(f"{mask(groups[OWNER])} {settings.cycles} {settings.pause_us} {settings.work_us} {settings.limit_s} {settings.seed} "
                  f"{settings.poll_ns}")
        told = owner.result(settings.limit_s + READY_S)
        stopped = borrower.stop()
        out = {"shape": shape, "owner_groups": groups[OWNER], "borrower_groups": groups[BORROWER], "steady": steady,
               "owner_runs": owner.runs(), "borrower_runs": borrower.runs(), "cycles": told["cycles"], "failure": told["failure"],
               "error_ns": max(told["clock_error_ns"], stopped["clock_error_ns"]), "outside_ns": told["outside_ns"]}
    if not out["failure"] and len(out["cycles"]) < settings.cycles:
        out["failure"] = f"time was over after {len(out['cycles'])} of {settings.cycles} cycles"
    machine.wait_until_empty()
    return out


def measure(machine, program, settings, folder, tell):
    """All of one length of kernels, as figures.entry() takes it."""
    tell(f"kernels of {settings.kernel_us:g} us: alone")
    found = alone(machine, program, settings, folder)
    tell(f"kernels of {settings.kernel_us:g} us: {found['whole']:.0f}/s on the whole GPU; beside an owner of half of it")
    return {"kernel_us": settings.kernel_us, "budget_us": settings.budget_us} | found | \
        beside(machine, program, settings, folder, found["units"])
