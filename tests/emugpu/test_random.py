# SPDX-License-Identifier: Apache-2.0
"""Random programs give the same result with the library as without it, moved about or not.

DETSHARE_RANDOM_SEED is the first seed, DETSHARE_RANDOM_SECONDS how long each test draws programs. A failure
names the command that shows it.
"""

import json
import os
import random
import subprocess
import threading
import time

import pytest

from coroutine_host import EMUGPU, GROUP_SMS, LIBRARY, SMS, Host, Runtime

SEED = int(os.environ.get("DETSHARE_RANDOM_SEED", "1"))
SECONDS = float(os.environ.get("DETSHARE_RANDOM_SECONDS", "4"))
GROUPS = range(SMS // GROUP_SMS)
STEPS = 250

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "gpus")


@pytest.fixture
def runtime(tmp_path, host):
    made = []

    def make(groups):
        path = tmp_path / f"port{len(made)}"
        made.append(Runtime(path, host.uuid, groups=groups))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(host, seed, threads, runtime=None, capture=None, **environment):
    """What the program printed; how it ended, if it did not end well."""
    capture = threads == 1 if capture is None else capture
    try:
        done = host.run(EMUGPU / "random_program", seed, STEPS, threads, int(capture),
                        runtime=runtime, preload=runtime is not None, check=False, **environment)
    except subprocess.TimeoutExpired:
        return "did not end"
    return done.stdout or f"{done.returncode}: {done.stderr}"


def programs():
    """Seeds and numbers of threads, until the time is over."""
    until = time.monotonic() + SECONDS
    seed = SEED
    while time.monotonic() < until:
        yield seed, 1 + seed % 3
        seed += 1


def assert_same(host, seed, threads, inside, capture=None):
    assert inside == run(host, seed, threads, capture=capture), \
        f"random_program {seed} {STEPS} {threads} {int(threads == 1 if capture is None else capture)}"


def test_alone_the_result_is_always_the_same(host):
    for seed, threads in programs():
        assert_same(host, seed, threads, run(host, seed, threads, capture=True), True)


# How often each kind of wait is forgotten: rarely enough that the program still runs.
@pytest.mark.parametrize("forget", ["stream:11", "event:3", "legacy:5", "graph:3", "launch:2"])
def test_a_driver_that_forgets_to_wait_is_found_out(host, forget):
    for seed in range(SEED, SEED + 200):
        if run(host, seed, 1) != run(host, seed, 1, EMUGPU_DROP=forget):
            return
    pytest.fail("not found in 200 programs")


@pytest.mark.parametrize("groups", [(0, 1, 2, 3, 4), (1, 2), (4,)], ids=str)
def test_in_a_partition(host, runtime, groups):
    granter = runtime(groups)
    for seed, threads in programs():
        assert_same(host, seed, threads, run(host, seed, threads, granter))


@pytest.mark.parametrize("every", ["1", "3"])
@pytest.mark.parametrize("groups", [(0, 1, 2, 3, 4), (1, 2)], ids=str)
def test_moved_by_chaos(host, runtime, groups, every):
    granter = runtime(groups)
    moved = 0
    for seed, threads in programs():
        inside = run(host, seed, threads, granter, DETSHARE_CHAOS=f"{every}:{seed}")
        moved += granter.port(-1).remaps
        assert_same(host, seed, threads, inside)
    assert moved > 0


def while_the_grant_changes(granter, body):
    over = threading.Event()
    drawn = random.Random(SEED)

    def change():
        while not over.wait(0.002):
            granter.grant(drawn.sample(GROUPS, drawn.randint(1, len(GROUPS))))

    changer = threading.Thread(target=change)
    changer.start()
    try:
        body()
    finally:
        over.set()
        changer.join()


def test_while_the_grant_changes(host, runtime):
    granter = runtime((0, 1))

    def body():
        for seed, threads in programs():
            assert_same(host, seed, threads, run(host, seed, threads, granter))

    while_the_grant_changes(granter, body)


def test_captures_of_several_threads_while_the_grant_changes(host, runtime):
    granter = runtime((0, 1))

    def body():
        for seed, threads in programs():
            assert_same(host, seed, threads, run(host, seed, threads, granter, capture=True), True)

    while_the_grant_changes(granter, body)


def test_programs_side_by_side_share_no_sm(host, runtime, tmp_path):
    """Both are moved all the time, each in its own groups, and no SM is both's at any instant."""
    pipe = tmp_path / "mps"
    (pipe / "log").mkdir(parents=True)
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(pipe / "log")}
    subprocess.run([EMUGPU / "nvidia-cuda-mps-control", "-d"], check=True,
                   env=host.environment(preload=False, **environment))
    granters = runtime((0, 1, 2)), runtime((3, 4))
    try:
        for seed, threads in programs():
            alone = [run(host, seed + i, threads) for i in (0, 1)]
            host.clear()
            inside = [None, None]

            def side(i, seed=seed, threads=threads, inside=inside):
                inside[i] = run(host, seed + i, threads, granters[i], DETSHARE_CHAOS="2",
                                **environment)

            sides = [threading.Thread(target=side, args=(i,)) for i in (0, 1)]
            for each in sides:
                each.start()
            for each in sides:
                each.join()
            assert inside == alone, f"random_program {seed} and {seed + 1}, {threads} threads"
            check = subprocess.run([EMUGPU / "emugpu-host", "check", host.directory, "0"],
                                   capture_output=True, text=True, check=False)
            assert check.returncode == 0, check.stdout
            assert json.loads(check.stdout)["blocks"] > 0
    finally:
        subprocess.run([EMUGPU / "nvidia-cuda-mps-control"], input="quit\n", text=True, check=True,
                       capture_output=True, env=host.environment(preload=False, **environment))
