# SPDX-License-Identifier: Apache-2.0
"""Steps, scripts, arrays and heterogeneous jobs."""

from slurm import until

SHARE = "echo share=${DETSHARE_SHARE-none}"


def _shares(text: str) -> list:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith("share=")]


def test_a_step_without_gres_has_all_of_the_job(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap=f"srun sh -c '{SHARE}'")
    assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
    assert _shares(slurm.output(job)) == ["0.5"]


def test_the_batch_script_itself_has_all_of_the_job(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap=SHARE)
    assert slurm.wait_end(job) == "COMPLETED"
    assert _shares(slurm.output(job)) == ["0.5"]


def test_a_step_may_ask_for_a_part(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap=f"srun --gres=detshare:0.2 sh -c '{SHARE}'")
    assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
    assert _shares(slurm.output(job)) == ["0.2"]


def test_a_step_with_gres_none_has_nothing(slurm):
    script = f"srun --gres=none sh -c '{SHARE}; echo gpus=${{CUDA_VISIBLE_DEVICES-none}}; echo port=${{DETSHARE_PORT-none}}'"
    job = slurm.sbatch("--gres=detshare:0.5", wrap=script)
    assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
    assert _shares(slurm.output(job)) == ["none"]
    assert "port=none" in slurm.output(job)


def test_two_steps_side_by_side(slurm):
    script = ("srun -n1 --exact --gres=detshare:0.2 sh -c 'sleep 1; {0}' & "
              "srun -n1 --exact --gres=detshare:0.3 sh -c 'sleep 1; {0}' & wait").format(SHARE)
    job = slurm.sbatch("--ntasks=2", "--gres=detshare:0.5", wrap=script)
    assert slurm.wait_end(job) == "COMPLETED", slurm.output(job)
    assert sorted(_shares(slurm.output(job))) == ["0.2", "0.3"]


def test_a_step_cannot_have_more_than_its_job(slurm):
    job = slurm.sbatch("--gres=detshare:0.25", wrap="srun --immediate=2 --gres=detshare:0.5 true; echo status=$?")
    assert slurm.wait_end(job) == "COMPLETED"
    assert "status=0" not in slurm.output(job)
    assert "status=" in slurm.output(job)


def test_a_wrong_step_request_costs_one_line(slurm):
    job = slurm.sbatch("--gres=detshare:0.5", wrap="srun --gres=detshare:1.5 true; echo status=$?")
    assert slurm.wait_end(job) == "COMPLETED"
    lines = [line for line in slurm.output(job).splitlines() if "detshare:1.5" in line]
    assert len(lines) == 1, slurm.output(job)
    assert "status=0" not in slurm.output(job)


def test_a_script_with_directives(slurm, tmp_path):
    script = slurm.work / "directives.sh"
    script.write_text(f"#!/bin/sh\n#SBATCH --gres=detshare:0.4\n#SBATCH --detshare-class=latency\n{SHARE}\n"
                      "echo class=$DETSHARE_CLASS\n")
    job = slurm.sbatch(script=str(script))
    assert slurm.wait_end(job) == "COMPLETED"
    assert _shares(slurm.output(job)) == ["0.4"]
    assert "class=latency" in slurm.output(job)


def test_an_array(slurm):
    job = slurm.sbatch("--array=0-5", "--gres=detshare:0.5", wrap=SHARE)
    files = [slurm.work / f"{job}_{i}.out" for i in range(6)]
    until("all elements have written", lambda: all(f.exists() and _shares(f.read_text()) for f in files), 60)
    assert [_shares(f.read_text()) for f in files] == [["0.5"]] * 6


def test_a_heterogeneous_job(slurm):
    run = slurm.srun("--gres=detshare:0.25", "-n1", "sh", "-c", SHARE, ":",
                     "--gres=detshare:latency:0.5", "-n1", "sh", "-c", SHARE)
    assert sorted(_shares(run.stdout)) == ["0.25", "0.5"]


def test_two_nodes(slurm):
    run = slurm.srun("-N2", "-n2", "--gres=detshare:0.5", "sh", "-c", f"{SHARE}; echo node=$SLURMD_NODENAME")
    assert _shares(run.stdout) == ["0.5", "0.5"]
    assert "node=node1" in run.stdout and "node=node2" in run.stdout


def test_salloc(slurm):
    run = slurm.command("salloc", "--gres=detshare:0.5", "srun", "sh", "-c", SHARE)
    assert _shares(run.stdout) == ["0.5"]
