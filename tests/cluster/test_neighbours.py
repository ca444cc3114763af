# SPDX-License-Identifier: Apache-2.0
"""One job ends in the middle of a long kernel; the job on the GPU's other half must not notice.

Under MPS, a program that is killed there takes its neighbours along. So before Slurm's signals that kill,
the proctrack plugin has MPS take the program off the GPU.
"""

import json
import os
import signal

import pytest

from slurm import until

HALF = ("--gres=detshare:0.5", "-w", "node1")
LONG = "spin --seconds 600 --block-us 8000000"  # no kernel of it ends within a test


@pytest.fixture
def busy(slurm, cluster, emulated_trace):
    """Wait until `n` programs beside those known before have a kernel on the GPU; returns their pids."""
    tool = cluster.build / "tests" / "emugpu" / "emugpu-host"

    def clients():
        text = cluster.run(tool, "clients", cluster.layout.emugpu, "0").stdout
        return {client["pid"] for client in map(json.loads, text.splitlines()) if client["sms"]}

    def wait(known=(), n=1):
        return until(f"{n} programs run a kernel", lambda: (lambda now: now if len(now) >= n else None)(
            clients() - set(known)))

    return wait


@pytest.fixture
def neighbour(slurm, gpuwork, busy):
    """A job that computes in half of the GPU. When the test is over it must have been well all along."""
    job = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} spin --seconds 600 --block-us 500")
    pids = busy()
    yield pids
    assert slurm.state(job) == "RUNNING", slurm.output(job)
    assert all(_lives(pid) for pid in pids), slurm.output(job)


def _lives(pid) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _check_well(slurm, cluster, neighbour):
    """New work of the neighbour's still gets through, long after the other's end."""
    tool = cluster.build / "tests" / "emugpu" / "emugpu-host"
    text = cluster.run(tool, "clients", cluster.layout.emugpu, "0").stdout
    states = {client["pid"]: client["fault"] for client in map(json.loads, text.splitlines())}
    assert [states.get(pid) for pid in neighbour] == [0]


SCRIPTS = {
    "the script is the program": "exec {work}",
    "the script waits for the program": "{work}; true",
    "a step of two tasks": "srun -n2 {work}",
    "the script handles SIGTERM": "trap : TERM; {work} & while :; do wait; done",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_scancel(slurm, cluster, gpuwork, busy, neighbour, script):
    job = slurm.sbatch(*HALF, "-n2", wrap=script.format(work=f"{gpuwork} {LONG}"))
    busy(neighbour, 2 if "srun" in script else 1)
    slurm.cancel(job)
    assert slurm.wait_end(job) == "CANCELLED"
    _check_well(slurm, cluster, neighbour)


def test_scancel_kill(slurm, cluster, gpuwork, busy, neighbour):
    job = slurm.sbatch(*HALF, wrap=f"srun {gpuwork} {LONG}")
    busy(neighbour)
    slurm.cancel(f"{job}.0", signal="KILL")
    slurm.wait_end(job)
    _check_well(slurm, cluster, neighbour)


def test_time_limit(slurm, cluster, gpuwork, busy, neighbour):
    job = slurm.sbatch(*HALF, "--time=1", wrap=f"exec {gpuwork} {LONG}")
    busy(neighbour)
    slurm.command("scontrol", "update", f"job={job}", "EndTime=now+1seconds")
    assert slurm.wait_end(job, deadline_s=100) == "TIMEOUT"
    _check_well(slurm, cluster, neighbour)


def test_requeue(slurm, cluster, gpuwork, busy, neighbour):
    job = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} {LONG}")
    busy(neighbour)
    slurm.command("scontrol", "requeuehold", str(job))
    slurm.wait_state(job, "PENDING")
    _check_well(slurm, cluster, neighbour)
    slurm.cancel(job)


def test_one_task_fails_and_the_others_are_killed(slurm, cluster, gpuwork, busy, neighbour):
    flag = slurm.work / "fail"
    script = f'if [ $SLURM_PROCID = 1 ]; then until [ -e {flag} ]; do sleep 0.1; done; exit 3; fi; exec {gpuwork} {LONG}'
    job = slurm.sbatch(*HALF, "-n2", wrap=f"srun -n2 --kill-on-bad-exit=1 sh -c '{script}'")
    busy(neighbour)
    flag.touch()
    slurm.wait_end(job)
    flag.unlink()
    _check_well(slurm, cluster, neighbour)


def test_a_program_is_left_behind(slurm, cluster, gpuwork, busy, neighbour):
    flag = slurm.work / "leave"
    job = slurm.sbatch(*HALF, wrap=f"setsid {gpuwork} {LONG} & until [ -e {flag} ]; do sleep 0.1; done")
    busy(neighbour)
    flag.touch()
    assert slurm.wait_end(job) == "COMPLETED"
    flag.unlink()
    _check_well(slurm, cluster, neighbour)


def test_the_node_runtime_hangs(slurm, cluster, gpuwork, busy):
    """Then there is nobody to ask: the job ends all the same, within its time."""
    job = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} {LONG}")
    busy()
    pid = cluster.layout.runtime_dir("node1") / f"job-{job}" / "runtime.pid"
    os.kill(int(pid.read_text().split()[0]), signal.SIGSTOP)
    slurm.cancel(job)
    assert slurm.wait_end(job) == "CANCELLED"


def test_what_nobody_can_prevent(slurm, gpuwork, busy):
    """A kill by the user's own hand, or by the kernel when memory is out: the neighbour fails, as on an H200."""
    neighbour = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} spin --seconds 600 --block-us 500")
    known = busy()
    job = slurm.sbatch(*HALF, wrap=f"{gpuwork} {LONG}; true")
    (victim,) = busy(known)
    os.kill(victim, signal.SIGKILL)
    assert slurm.wait_end(neighbour) == "FAILED"
    assert "ILLEGAL_ADDRESS" in slurm.output(neighbour)
    slurm.cancel(job)
