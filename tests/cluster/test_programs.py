# SPDX-License-Identifier: Apache-2.0
"""Unmodified programs in a share: what they see, and on which SMs their blocks really ran."""

import json

from slurm import until

# Blocks long enough for the trace, which keeps the last 65536, to go back for seconds.
SPIN = "spin --seconds 600 --block-us 20000"


def test_two_programs_side_by_side_use_different_sms(slurm, gpuwork, emulated_trace):
    """The blocks of two halves on one emulated GPU: disjoint SMs, overlapping times."""
    jobs = [slurm.sbatch("--gres=detshare:0.5", "-w", "node1", wrap=f"echo $$; exec {gpuwork} {SPIN}") for _ in range(2)]
    slurm.wait_running(*jobs)
    pids = [int(until("the script says who it is", lambda job=job: slurm.output(job).strip())) for job in jobs]

    def side_by_side():
        first, second = ([block for block in emulated_trace(0) if block["pid"] == pid] for pid in pids)
        return first and second and min(max(b["end_ns"] for b in first), max(b["end_ns"] for b in second)) > \
            max(min(b["begin_ns"] for b in first), min(b["begin_ns"] for b in second)) and (first, second)

    first, second = until("the two programs run at the same time", side_by_side)
    assert not {b["sm"] for b in first} & {b["sm"] for b in second}
    slurm.cancel(*jobs)
    for job in jobs:
        assert slurm.wait_end(job) == "CANCELLED", slurm.output(job)


def test_results_are_those_of_the_whole_gpu(slurm, gpuwork):
    """The same program in a share and on a whole GPU of its own prints the same hash."""
    for work in ("add", "reduce"):
        whole = json.loads(slurm.srun("--gres=gpu:1", gpuwork, work).stdout)
        for share in ("0.25", "0.5", "1"):
            part = json.loads(slurm.srun(f"--gres=detshare:{share}", gpuwork, work).stdout)
            assert part["result"] == whole["result"], (work, share)


def test_variables_of_a_task(slurm):
    out = slurm.srun("--gres=detshare:latency:0.25", "env").stdout.splitlines()
    env = dict(line.partition("=")[::2] for line in out)
    assert env["DETSHARE_SHARE"] == "0.25"
    assert env["DETSHARE_CLASS"] == "latency"
    assert env["DETSHARE_PORT"].endswith("/port")
    assert env["CUDA_VISIBLE_DEVICES"].startswith("GPU-")
    assert "libdetshare-cuda.so" in env["LD_PRELOAD"]
    # Anything but 100 changes the SM count that programs see, and with it their results.
    assert env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100") == "100"


def test_variables_of_the_user_are_overwritten(slurm):
    lies = {"DETSHARE_PORT": "/tmp/lie", "DETSHARE_SHARE": "1", "DETSHARE_CLASS": "lie",
            "CUDA_MPS_PIPE_DIRECTORY": "/tmp/lie", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50",
            "DETSHARE_STEPD_GRANTED_MILLI": "1000"}
    run = slurm.srun("--gres=detshare:0.25", "-n2", "--oversubscribe", "sh", "-c", "[ $SLURM_PROCID = 1 ] || env", env=lies)
    assert run.stderr.count("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50 is ignored") == 1, run.stderr
    out = run.stdout
    env = dict(line.partition("=")[::2] for line in out.splitlines())
    assert env["DETSHARE_SHARE"] == "0.25"
    assert env["DETSHARE_CLASS"] == "throughput"
    assert "lie" not in out
    # Anything but 100 changes the SM count that programs see, and with it their results.
    assert env.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "100") == "100"


def test_ld_preload_is_kept_and_not_doubled(slurm):
    own = "/lib/x86_64-linux-gnu/libSegFault.so"
    print_it = ("sh", "-c", "echo $LD_PRELOAD")
    once = slurm.srun("--gres=detshare:0.5", *print_it, env={"LD_PRELOAD": own}).stdout.strip()
    words = once.replace(":", " ").split()
    assert words[1:] == [own] and words[0].endswith("/libdetshare-cuda.so")
    again = slurm.srun("--gres=detshare:0.5", *print_it, env={"LD_PRELOAD": once}).stdout.strip()
    assert again == once


def test_a_job_without_a_share_is_left_alone(slurm):
    out = slurm.srun("env").stdout
    assert "libdetshare-cuda.so" not in out
    assert "DETSHARE_PORT" not in out


def test_a_program_that_leaves_children_behind(slurm):
    """Background children end with the job; leftovers are looked for after the test."""
    job = slurm.sbatch("--gres=detshare:0.5", wrap="sleep 300 & setsid sleep 300 & exit 0")
    assert slurm.wait_end(job) == "COMPLETED"


def test_ten_short_jobs_after_each_other(slurm):
    jobs = [slurm.sbatch("--gres=detshare:0.5", wrap="true") for _ in range(10)]
    until("all ten have ended", lambda: all(slurm.state(job) == "COMPLETED" for job in jobs), 60)
