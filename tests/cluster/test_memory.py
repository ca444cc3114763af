# SPDX-License-Identifier: Apache-2.0
"""GPU memory through Slurm: what is asked, granted, kept to, refused, and recorded."""

import json

import pytest

from slurm import until

OUT_OF_MEMORY = 2


@pytest.fixture
def memory_program(cluster):
    """Takes GPU memory as it is told on its standard input."""
    if cluster.host.kind != "emulated":
        pytest.skip("linked with the emulated driver")
    program = cluster.build / "tests" / "gpu" / ".libs" / "memory_program"
    program = program if program.exists() else cluster.build / "tests" / "gpu" / "memory_program"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    return program


def tell(program, *lines):
    text = "\\n".join(lines)
    return f"printf '{text}\\n' | {program}"


@pytest.mark.parametrize("how", ["option", "directive", "srun"])
def test_a_job_has_the_memory_it_asked_for_and_no_more(slurm, memory_program, how):
    talk = tell(memory_program, "total", "take linear 2040", "take linear 100", "info")
    said = ["0 2048", "0 0", f"{OUT_OF_MEMORY} 1", "0 8 2048"]
    if how == "srun":
        out = slurm.srun("--gres=detshare:0.25", "--detshare-mem=2G", "sh", "-c", talk).stdout
    else:
        options = ["--gres=detshare:0.25"]
        wrap = talk
        if how == "option":
            options.append("--detshare-mem=2048")
            job = slurm.sbatch(*options, wrap=wrap)
        else:
            script = slurm.work / "memory.sh"
            script.write_text(f"#!/bin/sh\n#SBATCH --gres=detshare:0.25\n#SBATCH --detshare-mem=2G\n{talk}\n")
            job = slurm.sbatch(script=script)
        assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
        out = slurm.output(job)
    assert out.splitlines()[1:] == said


def test_a_steps_memory_is_its_jobs(slurm, memory_program, residents):
    """Steps of a job with --detshare-mem start as always; one that asks for memory itself is told why not."""
    job = slurm.sbatch("--gres=detshare:0.25", "--detshare-mem=2G", "-w", "node1",
                       wrap=f"srun sh -c \"printf 'total\\\\n' | {memory_program}\"; "
                            "srun --detshare-mem=1G true; sleep 300")
    slurm.wait_running(job)
    assert residents("node1")[job]["memory_quota_mib"] == 2048
    until("both steps have spoken", lambda: "--detshare-mem" in slurm.output(job))
    out = slurm.output(job)
    assert "0 2048" in out.splitlines()
    assert out.count("--detshare-mem=1G: memory is given to a job, and its steps use it together") == 1, out


WRONG = [
    (["--gres=detshare:0.5", "--detshare-mem=20GB"], "20GB"),
    (["--gres=detshare:0.5", "--detshare-mem=0"], "--detshare-mem"),
    (["--gres=detshare:0.5", "--detshare-mem=1.5G"], "1.5G"),
    (["--gres=detshare:0.5", "--detshare-mem=-1G"], "-1G"),
    (["--gres=detshare:0.5", "--detshare-mem=99999T"], "99999T"),
    (["--detshare-mem=1G"], "without a share"),
]


@pytest.mark.parametrize("options,named", WRONG, ids=[" ".join(options) for options, _ in WRONG])
@pytest.mark.parametrize("command", ["srun", "sbatch"])
def test_a_wrong_size_costs_one_line(slurm, command, options, named):
    program = ["true"] if command == "srun" else ["--wrap=true"]
    lines = slurm.refused(command, *options, *program)
    ours = [line for line in lines if "detshare" in line and named in line]
    assert len(ours) == 1, lines
    assert len(lines) <= 2, f"more than our line and Slurm's own: {lines}"


def test_without_our_client_plugin_the_controller_still_refuses(slurm, own_conf):
    """A user who leaves our plugins out cannot even name the option; who forges it is refused."""
    env = own_conf | {"_SLURM_SPANK_OPTION_detshare_detshare_mem": "20GB"}
    lines = slurm.refused("sbatch", "--gres=detshare:0.5", "--detshare-mem=1G", "--wrap=true", env=env)
    assert any("detshare-mem" in line for line in lines), lines


def test_a_job_that_does_not_fit_is_given_back_with_the_reason(slurm, residents):
    """Slurm sees room, the node knows that the memory is taken."""
    first = slurm.sbatch("--gres=detshare:0.25", "--detshare-mem=100G", "-w", "node1", wrap="sleep 300")
    slurm.wait_running(first)
    assert residents("node1")[first]["memory_quota_mib"] == 102400
    # More than any GPU has: no node can serve it.
    job = slurm.sbatch("--no-requeue", "--gres=detshare:0.25", "--detshare-mem=300G", "-w", "node1", wrap="echo ran")
    assert slurm.wait_end(job) == "CANCELLED"
    assert "300G of GPU memory are asked" in slurm.output(job), slurm.output(job)
    assert "ran" not in slurm.output(job).splitlines()


@pytest.fixture
def site_conf(cluster):
    """Rules of the site for one test: slurmctld reads them with the next job."""
    file = cluster.layout.slurm_conf.parent / "detshare.conf"
    before = file.read_text()
    yield file.write_text
    file.write_text(before)


@pytest.mark.parametrize("who", ["client", "controller"])
def test_what_no_node_could_give_is_refused_at_once(slurm, cluster, site_conf, who):
    """By the client's plugin and, where a user has left that out, by the controller."""
    site_conf("gpu_memory = 139G\nshare_memory = 120G\n")
    env = None
    if who == "controller":
        lines = cluster.layout.slurm_conf.read_text().splitlines()
        (cluster.layout.work / "slurm.conf").write_text(
            "\n".join([line for line in lines if not line.startswith("CliFilterPlugins=")] + [""]))
        env = {"SLURM_CONF": str(cluster.layout.work / "slurm.conf")}
    for option, reason in (("300G", "no GPU here has more than 139G for a job"),
                           ("31G", "a job may have 30G here; ask for less, or for a share of 0.259")):
        lines = slurm.refused("sbatch", "--gres=detshare:0.25", f"--detshare-mem={option}", "--wrap=true", env=env)
        assert any(reason in line for line in lines), lines
    job = slurm.sbatch("--gres=detshare:0.25", "--detshare-mem=30G", wrap="true")
    assert slurm.wait_end(job) == "COMPLETED"


def test_the_peak_is_in_the_usage_record(slurm, cluster, memory_program):
    job = slurm.sbatch("--gres=detshare:0.25", "--detshare-mem=4G", "-w", "node1",
                       wrap=tell(memory_program, "take linear 3000", "give 0", "take linear 10"))
    assert slurm.wait_end(job) == "COMPLETED"
    def line():
        rows = slurm.sacct(job, "AdminComment")
        return rows[0][0] if rows and "memory_peak_mib" in rows[0][0] else None

    comment = until("the usage is in sacct", line, 60)
    assert json.loads(comment)["detshare"]["reported_by_program"]["memory_peak_mib"] == 3000
