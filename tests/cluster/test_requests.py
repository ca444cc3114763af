# SPDX-License-Identifier: Apache-2.0
"""Requests: what is understood, what is refused and how that reads, what cannot be forged."""

import pytest

# Options, and a word that the one line must name.
WRONG = [
    (["--gres=detshare:0"], "detshare:0"),
    (["--gres=detshare:1.5"], "detshare:1.5"),
    (["--gres=detshare:1001"], "detshare:1001"),
    (["--gres=detshare:-0.5"], "detshare:-0.5"),
    (["--gres=detshare:half"], "detshare:half"),
    (["--gres=detshare:0.0001"], "detshare:0.0001"),
    (["--gres=detshare:nosuch:0.5"], "nosuch"),
    (["--gres=detshare:latency:"], "detshare:latency"),
    (["--gres=detshare:0.5,detshare:0.5"], "detshare"),
    (["--gres=detshare:latency:0.5", "--detshare-class=throughput"], "--detshare-class"),
    (["--gres=detshare:0.5", "--detshare-class=nosuch"], "nosuch"),
    (["--gres=detshare:0.5,gpu:1"], "gpu"),
    (["--gres=detshare:0.5", "--gpus=1"], "--gpus"),
    (["--gres=detshare:0.5", "--gpus-per-node=1"], "--gpus-per-node"),
    (["--gres=detshare:0.5", "--gpus-per-task=1", "--ntasks=1"], "--gpus-per-task"),
    (["--gres=detshare:0.5", "--gpu-bind=closest"], "--gpu-bind"),
    (["--gres=detshare:0.5", "--gpu-freq=low"], "--gpu-freq"),
    (["--gres=detshare:0.5", "--mem-per-gpu=1G"], "--mem-per-gpu"),
    (["--gres=detshare:0.5", "--cpus-per-gpu=1"], "--cpus-per-gpu"),
    (["--gres=detshare:0.5", "--ntasks-per-gpu=1"], "--ntasks-per-gpu"),
    (["--gres=detshare:0.5", "--exclusive"], "--exclusive"),
    (["--gres=shard:500"], "shard"),
]


@pytest.mark.parametrize("options,named", WRONG, ids=[" ".join(options) for options, _ in WRONG])
@pytest.mark.parametrize("command", ["srun", "sbatch"])
def test_a_wrong_request_costs_one_line(slurm, command, options, named):
    program = ["true"] if command == "srun" else ["--wrap=true"]
    lines = slurm.refused(command, *options, *program)
    ours = [line for line in lines if "detshare" in line and named in line]
    assert len(ours) == 1, lines
    assert len(lines) <= 2, f"more than our line and Slurm's own: {lines}"


@pytest.mark.parametrize("gres,options,tres", [
    ("detshare:0.5", [], "gres/detshare:throughput=500"),
    ("detshare:500", [], "gres/detshare:throughput=500"),
    ("detshare:throughput:.25", [], "gres/detshare:throughput=250"),
    ("detshare:latency:0.25", [], "gres/detshare:latency=250"),
    ("detshare:latency:250", [], "gres/detshare:latency=250"),
    ("gres:detshare:latency:250", [], "gres/detshare:latency=250"),
    ("detshare:latency:250,shard:250", [], "gres/detshare:latency=250"),
    ("detshare:latency:250,shard:999", [], "gres/detshare:latency=250"),
    ("detshare:0.25", ["--detshare-class=latency"], "gres/detshare:latency=250"),
    ("detshare:latency:0.25", ["--detshare-class=latency"], "gres/detshare:latency=250"),
])
def test_what_is_understood(slurm, gres, options, tres):
    job = slurm.sbatch(f"--gres={gres}", *options, wrap="sleep 300")
    slurm.wait_running(job)
    counted = slurm.job(job)["TRES"].split(",")
    assert tres in counted
    assert f"gres/shard={tres.rpartition('=')[2]}" in counted


def test_none_means_nothing(slurm):
    env = slurm.srun("--gres=none", "env").stdout
    assert "DETSHARE_PORT" not in env and "libdetshare-cuda" not in env


def test_without_our_client_plugin_the_controller_still_decides(slurm, own_conf):
    """A user's own SLURM_CONF leaves cli_filter out; job_submit canonicalises and refuses the same."""
    job = slurm.sbatch("--gres=detshare:latency:500,shard:7", wrap="sleep 300", env=own_conf)
    slurm.wait_running(job)
    assert "gres/shard=500" in slurm.job(job)["TRES"].split(",")
    lines = slurm.refused("sbatch", "--gres=detshare:1500", "--wrap=true", env=own_conf)
    assert any("detshare" in line and "1500" in line for line in lines), lines
    lines = slurm.refused("sbatch", "--gres=shard:500", "--wrap=true", env=own_conf)
    assert any("shard" in line for line in lines), lines


def test_a_forged_grant_is_stripped(slurm, residents):
    """DETSHARE_GRANT that a client sends to the prolog never arrives."""
    lie = "v=1,class=latency,kind=latency,share=1000,isolation=none,config=0000000000000000"
    env = {"SPANK_DETSHARE_GRANT": lie, "DETSHARE_GRANT": lie, "_SLURM_SPANK_OPTION_x_DETSHARE_GRANT": lie}
    job = slurm.sbatch("--gres=detshare:throughput:0.25", "-w", "node1", wrap="sleep 300", env=env)
    slurm.wait_running(job)
    found = residents("node1")[job]
    assert (found["class"], found["share_milli"]) == ("throughput", 250)


def test_the_share_of_a_submitted_job_stays(slurm):
    """A grant is stamped once, so scontrol update may not change what it says."""
    job = slurm.sbatch("--gres=detshare:0.5", "--hold", wrap="true")
    for gres in ("detshare:1.5", "detshare:0.25", "detshare:latency:0.5", "gpu:1"):
        assert slurm.refused("scontrol", "update", f"job={job}", f"gres={gres}")
    slurm.command("scontrol", "update", f"job={job}", "gres=detshare:0.5,shard:7")
    assert "gres/shard=500" in slurm.job(job)["TRES"].split(",")
    other = slurm.sbatch("--hold", wrap="true")
    assert slurm.refused("scontrol", "update", f"job={other}", "gres=detshare:0.5")
