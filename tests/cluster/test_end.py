# SPDX-License-Identifier: Apache-2.0
"""The ways in which a job can end. That nothing is left is looked for after each test."""

import os
import signal
import time

import pytest

from slurm import until

SLEEP = "sleep 300"


@pytest.fixture
def running(slurm):
    """A job that holds half a GPU of node1, and whose script has begun."""
    job = slurm.sbatch("--gres=detshare:0.5", "-w", "node1", wrap=f"echo begun; {SLEEP}")
    slurm.wait_running(job)
    until("the script has begun", lambda: "begun" in slurm.output(job))
    return job


def _runtime_pid(slurm, job) -> int:
    file = slurm.cluster.layout.runtime_dir("node1") / f"job-{job}" / "runtime.pid"
    return int(until("the node runtime runs", lambda: file.exists() and file.read_text()).split()[0])


def test_scancel(slurm, running):
    slurm.cancel(running)
    assert slurm.wait_end(running) == "CANCELLED"


def test_scancel_kill(slurm, running):
    """The signal goes to the job's steps; the script dies of it and the job ends."""
    slurm.command("scancel", "--signal=KILL", "--full", str(running))
    assert slurm.wait_end(running) in ("CANCELLED", "FAILED", "COMPLETED")


def test_a_job_that_ignores_sigterm(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap="trap '' TERM; while :; do sleep 1; done")
    slurm.wait_running(job)
    slurm.cancel(job)
    assert slurm.wait_end(job) == "CANCELLED"


def test_time_limit(slurm):
    """Limits are whole minutes, so the end is moved nearer; the controller looks every half minute."""
    job = slurm.sbatch("--gres=detshare:0.5", "--time=1", wrap=SLEEP)
    slurm.wait_running(job)
    slurm.command("scontrol", "update", f"job={job}", "EndTime=now+1seconds")
    assert slurm.wait_end(job, deadline_s=100) == "TIMEOUT"


def test_the_program_fails(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap="exit 3")
    assert slurm.wait_end(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "3:0"


def test_the_node_runtime_is_killed(slurm, running, residents):
    """kill -9 of the runtime: the job goes on and ends as usual, the GPU's other half is usable."""
    os.kill(_runtime_pid(slurm, running), signal.SIGKILL)
    other = slurm.sbatch("--gres=detshare:0.5", "-w", "node1", wrap=SLEEP)
    slurm.wait_running(other)
    assert slurm.state(running) == "RUNNING"
    slurm.cancel(running, other)
    assert slurm.wait_end(running) == "CANCELLED"


def test_the_node_runtime_is_killed_and_a_neighbours_has_something_to_say(slurm):
    """What that leaves beside the port (tests/emugpu has one that does) is told where the job's user looks."""
    job, go_on = slurm.sbatch_until_told("--gres=detshare:0.5", "-w", "node1")
    slurm.wait_running(job)
    os.kill(_runtime_pid(slurm, job), signal.SIGKILL)
    with (slurm.cluster.layout.runtime_dir("node1") / f"job-{job}" / "notes").open("a") as notes:
        notes.write("process 1 is ended\nprocess 2 is ended\n")
    go_on()
    assert slurm.wait_end(job) == "COMPLETED"
    said = [line.partition("detshare: ")[2] for line in slurm.output(job).splitlines() if " is ended" in line]
    assert said == [f"job {job} on node1: process {n} is ended" for n in (1, 2)], slurm.output(job)


def test_slurmd_is_stopped_and_started_under_a_job(slurm, running):
    pid = _runtime_pid(slurm, running)
    slurm.cluster.stop_node("node1")
    time.sleep(0.5)
    os.kill(pid, 0)
    slurm.cluster.start_node("node1")
    assert slurm.state(running) == "RUNNING"
    os.kill(pid, 0)
    slurm.cancel(running)
    assert slurm.wait_end(running) == "CANCELLED"


def test_the_job_ends_while_slurmd_is_away(slurm):
    job, go_on = slurm.sbatch_until_told("--gres=detshare:0.5", "-w", "node1", then="touch gone-$SLURM_JOB_ID")
    slurm.wait_running(job)
    slurm.cluster.stop_node("node1")
    go_on()
    until("its script has ended", (slurm.work / f"gone-{job}").exists)
    slurm.cluster.start_node("node1")
    assert slurm.wait_end(job) == "COMPLETED"


def test_requeue(slurm, running):
    slurm.command("scontrol", "requeue", str(running))
    until("the job is back in the queue or runs again", lambda: slurm.job(running)["Restarts"] == "1")


def test_suspend_and_resume(slurm, running):
    slurm.command("scontrol", "suspend", str(running))
    assert slurm.state(running) == "SUSPENDED"
    slurm.command("scontrol", "resume", str(running))
    slurm.wait_running(running)


def test_srun_is_interrupted(slurm):
    """The terminal's Ctrl-C, twice within a second, ends the step and the allocation."""
    import subprocess
    child = subprocess.Popen(["srun", "--gres=detshare:0.5", "sleep", "300"], env=slurm.cluster.environment(),
                             cwd=slurm.work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    until("the job runs", lambda: slurm.command("squeue", "-h", "-t", "R", "-o", "%A").stdout.strip())
    # Two that come before srun has looked are one to it, on a busy machine.
    def interrupted():
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
        return child.poll() is not None
    until("srun has ended", interrupted)
    assert child.returncode != 0
