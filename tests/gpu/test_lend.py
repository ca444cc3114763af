# SPDX-License-Identifier: Apache-2.0
"""Idle SMs at work elsewhere: how much a borrower gains, how soon its owner has them back, and that results stay."""

import json
import time

import pytest

from test_gpu import GPUWORK, INFORMATION, NODERUNTIME, alone, end, nothing_left, residents, run, save, task, wait_for  # noqa: F401 (fixtures)

MINUTES = 0.6
NAMES = "job-900041", "job-900042"
GRANT = "v=1,class={kind},kind={kind},share=500,isolation=user,policy=lend,lend=yes,borrow=yes,reclaim=2000,config=0000000000000000"

pytestmark = pytest.mark.skipif(
    not INFORMATION, reason="this machine has no NVIDIA GPU (no /proc/driver/nvidia/gpus)")


@pytest.fixture
def pair():
    """A latency and a throughput allocation, half of the GPU each, that lend to each other."""
    for name, kind in zip(NAMES, ("latency", "throughput")):
        run(NODERUNTIME, "begin", "--allocation", name, "--uid", "0", "--gpu", "0", "--grant", GRANT.format(kind=kind))
    yield NAMES
    for name in NAMES:
        end(name)


def resident(name):
    return next(r for r in residents() if r["allocation"] == name)


def rate(text):
    return json.loads(text)["launches_per_s"]


def spin(name, seconds, block_us=50):
    return task(name, GPUWORK, "spin", "--block-us", block_us, "--seconds", seconds, "--json")


def test_a_borrower_runs_on_what_its_neighbour_leaves_idle(pair):
    owner, borrower = pair
    run(NODERUNTIME, "end", "--allocation", owner)
    in_half = spin(borrower, 3)
    wait_for(lambda: resident(borrower)["programs"], "the program")
    gained = rate(in_half.communicate(timeout=60)[0])
    run(NODERUNTIME, "begin", "--allocation", owner, "--uid", "0", "--gpu", "0", "--grant", GRANT.format(kind="latency"))
    both = spin(borrower, 3), spin(owner, 3)
    wait_for(lambda: resident(owner)["sms"] <= 68 and resident(owner)["demand"] == "active", "the owner")
    kept = [rate(program.communicate(timeout=60)[0]) for program in both]
    save("lend.json", json.dumps({"borrowing": gained, "half, beside": kept}) + "\n")
    # 132 SMs against 68, one block per SM of the whole GPU: one wave against two.
    assert gained > 1.5 * kept[0]


def test_the_owner_has_its_groups_back_while_the_borrower_launches(pair):
    owner, borrower = pair
    busy = spin(borrower, 20)
    wait_for(lambda: len(resident(borrower)["borrows_from"]) > 0, "the loan")
    times = []
    for _ in range(5):
        short = spin(owner, 1)
        begun = time.monotonic()
        wait_for(lambda: resident(owner)["groups_held"] == resident(owner)["groups_own"] and
                 resident(owner)["demand"] == "active", "the owner to have its groups")
        times.append(time.monotonic() - begun)  # the program's start, mostly
        out, error = short.communicate(timeout=60)
        assert short.returncode == 0, error
        assert rate(out) > 0
        wait_for(lambda: len(resident(borrower)["borrows_from"]) > 0, "the next loan")
    busy.kill()
    busy.communicate()
    save("lend_back.json", json.dumps({"seconds": times}) + "\n")


def test_results_stay_while_groups_come_and_go(pair, alone):  # noqa: F811
    owner, borrower = pair
    long_one = task(borrower, GPUWORK, "reduce", "--seconds", "8", "--json")
    wait_for(lambda: resident(borrower)["programs"], "the program")
    for _ in range(4):
        out, error = task(owner, GPUWORK, "reduce", "--seconds", "0.5", "--json").communicate(timeout=60)
        assert json.loads(out)["result"] == alone["reduce"], error
    out, error = long_one.communicate(timeout=60)
    assert long_one.returncode == 0, error
    assert json.loads(out)["result"] == alone["reduce"]
