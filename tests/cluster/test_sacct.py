# SPDX-License-Identifier: Apache-2.0
"""What Slurm's accounting shows."""

import json

from slurm import until

SHARE = "gres/detshare:throughput=500"


def test_alloctres_of_job_and_step(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap="srun true")
    assert slurm.wait_end(job) == "COMPLETED"
    rows = until("accounting has the job and both steps", lambda: (lambda rows: rows if len(rows) == 3 and all(
        row[1] == "COMPLETED" for row in rows) else None)(slurm.sacct(job, "jobid", "state", "alloctres", steps=True)))
    for name, _, tres in rows:
        assert SHARE in tres.split(","), name
        assert "gres/shard=500" in tres.split(","), name


def test_the_usage_line_arrives(slurm, gpuwork):
    job = slurm.sbatch("--gres=detshare:0.5", "--comment=mine", wrap=f"{gpuwork} add")
    assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
    line = until("the usage line is in AdminComment",
                 lambda: next((row[0] for row in slurm.sacct(job, "admincomment") if "{" in row[0]), None), 60)
    usage = json.loads(line[line.index("{"):])["detshare"]
    assert usage["class"] == "throughput" and usage["programs"] == 1 and usage["granted_sm_s"] > 0


def test_the_sites_own_admincomment_is_kept(slurm):
    job, go_on = slurm.sbatch_until_told("--gres=detshare:0.5")
    slurm.wait_running(job)
    slurm.command("scontrol", "update", f"job={job}", "admincomment=ticket 4711")
    go_on()
    slurm.wait_end(job)
    lines = until("the usage line is in AdminComment", lambda: (lambda rows: rows if any(
        "{" in row[0] for row in rows) else None)(slurm.sacct(job, "admincomment")), 60)
    assert lines[0] == ["ticket 4711"], "the site's text comes first"
    assert json.loads(lines[1][0])["detshare"]["share_milli"] == 500
