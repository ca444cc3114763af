# SPDX-License-Identifier: Apache-2.0
"""Who gets onto which GPU, and who waits."""

from slurm import until

SLEEP = "sleep 300"


def test_three_large_shares_on_two_gpus(slurm):
    """0.6 + 0.6 + 0.6: one on each GPU of the node, the third waits; it starts when one ends."""
    first, second, third = (slurm.sbatch("--gres=detshare:0.6", "-w", "node1", wrap=SLEEP) for _ in range(3))
    slurm.wait_running(first, second)
    assert {slurm.where(first), slurm.where(second)} == {("node1", 0), ("node1", 1)}
    assert slurm.wait_pending_reason(third) in ("Resources", "Priority")
    slurm.cancel(first)
    slurm.wait_running(third)
    assert slurm.where(third) == ("node1", 0)


def test_small_shares_fill_one_gpu_first(slurm):
    jobs = [slurm.sbatch("--gres=detshare:0.25", "-w", "node1", wrap=SLEEP) for _ in range(5)]
    slurm.wait_running(*jobs)
    places = sorted(slurm.where(job)[1] for job in jobs)
    assert places == [0, 0, 0, 0, 1]


def test_the_second_node_has_gpus_of_its_own(slurm, residents):
    job = slurm.sbatch("--gres=detshare:0.5", "-w", "node2", wrap=SLEEP)
    slurm.wait_running(job)
    node1 = {gpu["uuid"] for gpu in slurm.status("node1")}
    found = until("the job is in a ledger of node2", lambda: residents("node2").get(job))
    assert found["uuid"] not in node1
    assert found["uuid"] == slurm.cluster.nodes[1].gpus[0].uuid


def test_halves_share_a_gpu_in_groups_of_their_own(slurm, residents):
    first, second = (slurm.sbatch("--gres=detshare:0.5", "-w", "node1", wrap=SLEEP) for _ in range(2))
    slurm.wait_running(first, second)
    found = residents("node1")
    assert found[first]["uuid"] == found[second]["uuid"]
    assert found[first]["held"] and found[second]["held"]
    assert not found[first]["held"] & found[second]["held"]


def test_a_whole_gpu_is_not_given_to_sharers(slurm):
    """gpu:1 and shares exclude each other per GPU."""
    share = slurm.sbatch("--gres=detshare:0.1", "-w", "node1", wrap=SLEEP)
    slurm.wait_running(share)
    whole = slurm.sbatch("--gres=gpu:1", "-w", "node1", wrap=SLEEP)
    slurm.wait_running(whole)
    large = slurm.sbatch("--gres=detshare:0.95", "-w", "node1", wrap=SLEEP)
    assert slurm.wait_pending_reason(large) in ("Resources", "Priority")


def test_integer_one_is_one_gpu(slurm):
    job = slurm.sbatch("--gres=detshare:1", "-w", "node1", wrap=SLEEP)
    slurm.wait_running(job)
    assert "gres/shard=1000" in slurm.job(job)["TRES"]
