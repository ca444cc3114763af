# SPDX-License-Identifier: Apache-2.0
"""A node that cannot serve a job: the user sees why, the node stays, nothing hangs.

The node runtime's program is replaced by a script for one test. That no node is drained and nothing
is left is looked for after each test.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster import daemons
from slurm import until

HALF = "--gres=detshare:0.5"
REASON = "the GPU does not answer"
FAIL = f'[ "$1" != begin ] || {{ echo "{REASON}" >&2; exit 1; }}'
HANG = '[ "$1" != begin ] || sleep 300'
LIMIT_S = 15  # no prolog or epilog takes longer: they give up after 3 s, where what hangs takes minutes


@pytest.fixture
def node_program(cluster):
    """Put shell lines before the node runtime's program on all nodes; $1 is its command."""
    program = cluster.layout.bin / "detshare-noderuntime"
    real = program.with_suffix(".real")
    program.rename(real)

    def replace(lines):
        draft = program.with_suffix(".new")
        draft.write_text(f'#!/bin/sh\n{lines}\nexec {real} "$@"\n')
        draft.chmod(0o755)
        draft.rename(program)

    replace("")
    yield replace
    real.rename(program)


@pytest.fixture
def slurm(node_program, slurm):
    """As elsewhere, but what a test replaced is there until its jobs are gone, epilogs included."""
    return slurm


def _comment(slurm, job) -> str:
    text = slurm.command("scontrol", "show", "job", str(job)).stdout
    return text.partition("AdminComment=")[2]


def _srun(slurm):
    """srun with half a GPU, in the background."""
    return subprocess.Popen(["srun", HALF, "true"], env=slurm.cluster.environment(), cwd=slurm.work, text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _script_s(cluster, which, deadline_s=60) -> float:
    """How long the next SPANK prolog or epilog of any node takes. slurmd runs each in a process of its own."""
    parents = {daemons.running(cluster.layout, f"slurmd-{node.name}").pid for node in cluster.nodes}

    def runs():
        for parent in parents:
            for child in Path(f"/proc/{parent}/task").glob("*/children"):
                for pid in child.read_text().split():
                    if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"spank", which.encode()]:
                        return True
        return False

    def safely():
        try:
            return runs()
        except OSError:  # it ended while we looked
            return False

    until(f"a {which} runs", safely, deadline_s)
    begin = time.monotonic()
    until(f"the {which} has ended", lambda: not safely(), 2 * LIMIT_S)
    return time.monotonic() - begin


def _log_has(cluster, node, text) -> bool:
    return text in (cluster.layout.log / f"slurmd-{node}.log").read_text()


# ---- begin fails ------------------------------------------------------------------------------


def test_srun_is_told_on_the_terminal(slurm, node_program):
    node_program(FAIL)
    run = slurm.srun(HALF, "-w", "node1", "--job-name=told", "true", check=False)
    assert run.returncode != 0
    told = [line for line in run.stderr.splitlines() if REASON in line]
    assert len(told) == 1 and "node1 could not serve job" in told[0], run.stderr
    until("sacct has it as cancelled", lambda: "CANCELLED" in slurm.command(
        "sacct", "-n", "-P", "-X", "--name=told", "-o", "state").stdout)


def test_salloc_is_told_on_the_terminal(slurm, node_program):
    node_program(FAIL)
    run = slurm.command("salloc", HALF, "sh", "-c", "echo inside", check=False)
    assert run.returncode != 0
    assert REASON in run.stderr
    assert "inside" not in run.stdout


def test_a_user_is_told_too(slurm, node_program):
    node_program(FAIL)
    run = slurm.srun(HALF, "true", user="nobody", check=False)
    assert run.returncode != 0
    assert REASON in run.stderr


def test_a_batch_job_is_requeued_with_the_reason(slurm, node_program):
    node_program(FAIL)
    job = slurm.sbatch("--hold", HALF, wrap="echo ran")
    slurm.command("scontrol", "update", f"jobid={job}", "admincomment=text of the site")
    slurm.command("scontrol", "release", str(job))
    until("the job is back in the queue", lambda: slurm.job(job)["Restarts"] == "1")
    slurm.wait_state(job, "PENDING")
    assert slurm.wait_pending_reason(job) == "BeginTime"
    assert _comment(slurm, job).startswith("text of the site\n")
    assert REASON in _comment(slurm, job)
    assert "ran" not in slurm.output(job)


def test_a_batch_job_that_may_not_be_requeued_is_cancelled_with_the_reason_in_its_output(slurm, node_program):
    node_program(FAIL)
    job = slurm.sbatch("--no-requeue", HALF, wrap="echo ran")
    assert slurm.wait_end(job) == "CANCELLED"
    assert REASON in slurm.output(job), slurm.output(job)
    assert "ran" not in slurm.output(job)
    assert REASON in _comment(slurm, job)


def test_only_the_faulty_element_of_an_array_is_given_back(slurm, node_program):
    """The last element has the array's own number: the rest must not be cancelled with it."""
    job = slurm.sbatch("--hold", "--no-requeue", "--array=0-2", HALF, wrap="sleep 2; echo ran")
    node_program(f'case "$*" in "begin --allocation job-{job} "*) echo "{REASON}" >&2; exit 1;; esac')
    slurm.command("scontrol", "release", str(job))
    files = [slurm.work / f"{job}_{i}.out" for i in range(3)]
    until("all elements have ended", lambda: not slurm.command("squeue", "-h", "-j", str(job),
                                                               check=False).stdout.strip())
    assert [("ran" in f.read_text(), REASON in f.read_text()) for f in files] == [
        (True, False), (True, False), (False, True)]


def test_one_faulty_node_of_two(slurm, node_program):
    """The script runs on the good node, where the reason is in its output before the job ends."""
    node_program(f'case "$*" in "begin "*"--node-name node2"*) echo "{REASON}" >&2; exit 1;; esac')
    job = slurm.sbatch("--no-requeue", "-N2", HALF, wrap="echo ran; sleep 300")
    assert slurm.wait_end(job) == "CANCELLED"
    assert REASON in slurm.output(job), slurm.output(job)
    assert "node2 could not serve" in slurm.output(job)


def test_a_node_without_the_program(slurm, cluster, node_program):
    program = cluster.layout.bin / "detshare-noderuntime"
    program.unlink()
    run = slurm.srun(HALF, "true", check=False)
    node_program("")
    assert run.returncode != 0
    assert "No such file or directory" in run.stderr


# ---- something hangs --------------------------------------------------------------------------


def test_begin_hangs(slurm, node_program):
    node_program(HANG)
    with _srun(slurm) as child:
        assert _script_s(slurm.cluster, "prolog") < LIMIT_S
        _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "did not end within" in errors


def test_begin_ignores_signals_and_leaves_children(slurm, node_program):
    node_program('[ "$1" != begin ] || { trap "" TERM INT HUP; sleep 300 & wait; sleep 300; }')
    with _srun(slurm) as child:
        assert _script_s(slurm.cluster, "prolog") < LIMIT_S
        child.communicate(timeout=60)
    assert child.returncode != 0


def test_begin_and_the_controller_hang(slurm, cluster, node_program):
    """The prolog does not wait for the controller; the task says what the prolog could not."""
    node_program(HANG)
    job = slurm.sbatch("--no-requeue", "-w", "node1", HALF, wrap="echo ran")
    until("the prolog runs", lambda: _log_has(cluster, "node1", f"Running spank/prolog for jobid [{job}]"))
    controller = daemons.running(cluster.layout, "slurmctld").pid
    os.kill(controller, signal.SIGSTOP)
    try:
        assert _script_s(cluster, "prolog") < LIMIT_S
        until("the reason is in the output", lambda: "did not end within" in slurm.output(job), 30)
    finally:
        os.kill(controller, signal.SIGCONT)
    assert slurm.wait_end(job) in ("FAILED", "CANCELLED")
    assert "ran" not in slurm.output(job)


def test_end_hangs(slurm, cluster, node_program):
    """slurmd is done with the epilog in time and says loudly what is left; the next end cleans up."""
    node_program('[ "$1" != end ] || sleep 300')
    job = slurm.sbatch("-w", "node1", HALF, wrap="true")
    assert _script_s(cluster, "epilog") < LIMIT_S
    slurm.wait_state(job, "COMPLETED")
    assert _log_has(cluster, "node1", f"detshare: job {job}: cannot end its node runtime")
    assert _log_has(cluster, "node1", f"job-{job} is still there")
    node_program("")
    cluster.run(cluster.layout.bin / "detshare-noderuntime", "end", "--allocation", f"job-{job}",
                "--node-name", "node1", "--config", cluster.layout.node_conf)


@pytest.mark.parametrize("what", ["cuInit", "mps"])
def test_the_gpu_hangs(slurm, cluster, node_program, what):
    """The real node runtime, on a GPU that does not answer."""
    if cluster.host.kind != "emulated":
        pytest.skip("a real GPU cannot be made to hang")
    for node in cluster.nodes:
        for file in cluster.layout.runtime_dir(node.name).glob("gpu-*/topology"):
            file.unlink()
    node_program(f"export EMUGPU_HANG={what}")
    with _srun(slurm) as child:
        assert _script_s(cluster, "prolog") < LIMIT_S
        _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "could not serve job" in errors


# ---- the node is full -------------------------------------------------------------------------


@pytest.fixture
def full_run(cluster):
    """A runtime directory on a file system of its own, without a byte left."""
    folder = cluster.layout.runtime_dir("node1")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False,
                           stderr=subprocess.PIPE, text=True)
    if mount.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.strip()}")
    try:
        with open(folder / "fill", "wb", buffering=0) as fill:
            try:
                while True:
                    fill.write(b"x" * 4096)
            except OSError:
                pass
        yield folder
    finally:
        until("the file system is free", lambda: subprocess.run(["umount", folder], check=False).returncode == 0)


def test_a_full_run(slurm, full_run):
    run = slurm.srun("-w", "node1", HALF, "true", check=False)
    slurm.end_all()
    assert run.returncode != 0
    assert "could not serve job" in run.stderr and "space" in run.stderr, run.stderr


# ---- later ------------------------------------------------------------------------------------


def test_a_step_after_the_runtime_died(slurm, cluster):
    """No task runs on the whole GPU because its guard is gone; the job itself goes on."""
    script = ("srun true; echo first=$?; while [ ! -e go-$SLURM_JOB_ID ]; do sleep 0.1; done; "
              "srun echo ran; echo second=$?")
    job = slurm.sbatch("-w", "node1", HALF, wrap=script)
    until("the first step has run", lambda: "first=0" in slurm.output(job))
    pid = cluster.layout.runtime_dir("node1") / f"job-{job}" / "runtime.pid"
    os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
    (slurm.work / f"go-{job}").touch()
    slurm.wait_end(job)
    assert "second=1" in slurm.output(job), slurm.output(job)
    assert "ran" not in slurm.output(job)
    assert "its node runtime is not there" in slurm.output(job)


def test_what_a_user_sets_is_overwritten(slurm):
    env = {"DETSHARE_SHARE": "1", "DETSHARE_PORT": "/tmp/mine", "DETSHARE_EVIL": "1",
           "DETSHARE_STEPD_GRANTED_MILLI": "1000", "LD_PRELOAD": "libm.so.6"}
    run = slurm.srun(HALF, "sh", "-c", "env", env=env)
    seen = dict(line.partition("=")[::2] for line in run.stdout.splitlines())
    assert seen["DETSHARE_SHARE"] == "0.5"
    assert seen["DETSHARE_PORT"].endswith("/port") and seen["DETSHARE_PORT"] != "/tmp/mine"
    assert "DETSHARE_EVIL" not in seen and "DETSHARE_STEPD_GRANTED_MILLI" not in seen
    preload = seen["LD_PRELOAD"].split(":")
    assert preload[0].endswith("/libdetshare-cuda.so") and preload[1:] == ["libm.so.6"]


def test_a_job_without_a_share_gets_nothing_of_an_outer_job(slurm):
    """sbatch and srun hand on their environment: what was another job's must not reach this one."""
    outer = slurm.srun("-w", "node1", HALF, "env").stdout
    stale = dict(line.partition("=")[::2] for line in outer.splitlines()
                 if line.startswith(("DETSHARE_", "LD_PRELOAD=", "CUDA_MPS_")))
    assert "DETSHARE_PORT" in stale
    del stale["DETSHARE_NODE_CONF"]  # every task has it from this cluster's task prolog
    inner = slurm.srun("-w", "node1", "env", env=stale).stdout
    for name in stale:
        assert f"\n{name}=" not in "\n" + inner
