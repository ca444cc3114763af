# SPDX-License-Identifier: Apache-2.0
"""What becomes of jobs that fail by a neighbour's fault: told, requeued, or only recorded, as the site configured.

Under MPS a program's fatal error is that of all on its GPU. A job with an illegal access is let loose on one
that computes beside it.
"""

import json
import subprocess

import pytest

from slurm import until

HALF = ("--gres=detshare:0.5", "-w", "node1")
SPIN = "spin --seconds 600 --block-us 500"


@pytest.fixture
def node_conf(cluster):
    """Add keys to the nodes' configuration for one test."""
    file = cluster.layout.node_conf
    before = file.read_text()
    yield lambda **keys: file.write_text(before + "".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    file.write_text(before)


@pytest.fixture
def slurm(node_conf, slurm):
    """As elsewhere, but what a test configured holds until its jobs are gone, epilogs included."""
    return slurm


@pytest.fixture
def busy(cluster, emulated_trace):
    """Wait until so many programs have a kernel on the first GPU of node1."""
    tool = cluster.build / "tests" / "emugpu" / "emugpu-host"

    def working():
        text = cluster.run(tool, "clients", cluster.layout.emugpu, "0").stdout
        return sum(1 for client in map(json.loads, text.splitlines()) if client["sms"])

    return lambda n=1: until(f"{n} programs run kernels", lambda: working() >= n)


@pytest.fixture
def fault(cluster, slurm, gpuwork):
    """Submit a job beside those that are there, and have it make the GPU fail; returns its number. MPS can tell
    whose fault it was."""
    (cluster.layout.emugpu / "mps-tells").touch()

    def harm():
        job = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} trap")
        assert slurm.wait_end(job) == "FAILED", slurm.output(job)
        return job
    return harm


def notes(slurm, job, culprit):
    return [line for line in slurm.output(job).splitlines()
            if f"by a fault of job {culprit} beside it (MPS's log names it)" in line]


def restarts(slurm, job):
    return int(slurm.job(job)["Restarts"])


def start_again(slurm, job):
    """Slurm lets a requeued job wait for two minutes, and refuses it in the second in which it ended."""
    until(f"job {job} waits for its time", lambda: slurm.job(job)["Reason"] == "BeginTime")
    slurm.command("scontrol", "update", f"jobid={job}", "StartTime=now+3seconds")
    until(f"job {job} is started again", lambda: slurm.state(job) != "PENDING", 60)


def test_the_victim_is_requeued_and_runs_to_its_end_and_the_culprit_is_not(slurm, gpuwork, node_conf, busy, fault):
    node_conf(on_neighbour_fault="requeue")
    victim = slurm.sbatch(*HALF, wrap=f'[ -z "$SLURM_RESTART_COUNT" ] || exec {gpuwork} add; exec {gpuwork} {SPIN}')
    busy()
    culprit = fault()
    until("the victim is back in the queue", lambda: restarts(slurm, victim) == 1 and slurm.state(victim) == "PENDING")
    assert len(notes(slurm, victim, culprit)) == 1, slurm.output(victim)
    assert "a batch job that fails by it is requeued" in slurm.output(victim)
    comment = slurm.command("scontrol", "show", "job", str(victim)).stdout.partition("AdminComment=")[2]
    assert "detshare: node1 requeued this job: process " in comment
    assert f"by a fault of job {culprit} beside it" in comment
    start_again(slurm, victim)
    assert slurm.wait_end(victim) == "COMPLETED", slurm.output(victim)
    assert restarts(slurm, culprit) == 0 and slurm.state(culprit) == "FAILED"
    assert "beside it" not in slurm.output(culprit)
    # Its second run had no fault, though its GPU remembers the first.
    def usage():
        return [row[0] for row in slurm.sacct(victim, "AdminComment") if '"restarts":1' in row[0]]

    assert '"fault"' not in until("the usage is in sacct", usage, 60)[0]


def test_not_for_ever(slurm, gpuwork, node_conf, busy, fault):
    node_conf(on_neighbour_fault="requeue", neighbour_fault_requeues="1")
    victim = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} {SPIN}")
    busy()
    fault()
    until("the victim is back in the queue", lambda: restarts(slurm, victim) == 1 and slurm.state(victim) == "PENDING")
    start_again(slurm, victim)
    busy()
    culprit = fault()
    assert slurm.wait_end(victim) == "FAILED"
    assert len(notes(slurm, victim, culprit)) == 1
    # Whoever were to requeue it would have done so before the next job's epilog has ended on that node.
    slurm.srun(*HALF, gpuwork, "add")
    assert slurm.state(victim) == "FAILED" and restarts(slurm, victim) == 1


@pytest.mark.parametrize("how", ["--no-requeue", "notify"])
def test_the_victim_is_only_told(slurm, gpuwork, node_conf, busy, fault, how):
    node_conf(on_neighbour_fault="notify" if how == "notify" else "requeue")
    more = [how] if how == "--no-requeue" else []
    victim = slurm.sbatch(*HALF, *more, wrap=f"srun {gpuwork} {SPIN}")
    busy()
    culprit = fault()
    assert slurm.wait_end(victim) == "FAILED"
    slurm.srun(*HALF, gpuwork, "add")
    assert slurm.state(victim) == "FAILED" and restarts(slurm, victim) == 0
    assert len(notes(slurm, victim, culprit)) == 1, slurm.output(victim)


def test_one_that_ends_well_all_the_same_is_left_alone(slurm, gpuwork, node_conf, busy, fault):
    node_conf(on_neighbour_fault="requeue")
    victim = slurm.sbatch(*HALF, wrap=f"{gpuwork} {SPIN}; exec {gpuwork} add")
    busy()
    culprit = fault()
    assert slurm.wait_end(victim) == "COMPLETED", slurm.output(victim)
    slurm.srun(*HALF, gpuwork, "add")
    assert slurm.state(victim) == "COMPLETED" and restarts(slurm, victim) == 0
    assert len(notes(slurm, victim, culprit)) == 1, slurm.output(victim)


def test_nothing_is_said_unless_the_site_wants_it(slurm, gpuwork, busy, fault):
    victim = slurm.sbatch(*HALF, wrap=f"exec {gpuwork} {SPIN}")
    busy()
    fault()
    assert slurm.wait_end(victim) == "FAILED"
    assert "detshare" not in slurm.output(victim) and restarts(slurm, victim) == 0


def test_who_waits_at_a_terminal_is_told_there(slurm, cluster, gpuwork, node_conf, busy, fault):
    node_conf(on_neighbour_fault="requeue")
    with subprocess.Popen(["srun", *HALF, str(gpuwork), *SPIN.split()], env=cluster.environment(), cwd=slurm.work, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        busy()
        culprit = fault()
        _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert errors.count(f"by a fault of job {culprit} beside it") == 1, errors
