# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs in programs that move between partitions, on the emulated GPU."""

import json
import random
import struct
import subprocess
import time

import pytest

from runtime_host import wait_for
from coroutine_host import BUILD, GPU, LIBRARY, sms_of

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

EVERYWHERE = tuple(range(6))
EXPERIMENTS = ["replay", "fork", "by-hand", "updates", "errors", "child-update", "large", "consecutive", "waits", "threads",
               "memory", "frees", "gone"]


def run(host, experiment, runtime=None, **more):
    ended = host.run(GPU / "graph_program", experiment, runtime=runtime, preload=bool(runtime), **more)
    assert "Sanitizer" not in ended.stderr, ended.stderr
    assert "detshare:" not in ended.stderr, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_same_as_alone_and_inside(host, runtime, experiment):
    alone = run(host, experiment)
    host.clear()
    granter = runtime(groups=(1, 3))
    assert run(host, experiment, granter) == alone
    assert host.sms() and host.sms() <= sms_of((1, 3))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_same_when_moved_at_every_launch(host, runtime, experiment, seed):
    alone = run(host, experiment)
    granter = runtime(groups=EVERYWHERE)
    assert run(host, experiment, granter, DETSHARE_CHAOS=f"1:{seed}") == alone
    assert granter.port().remaps > 3


class Endless:
    """A program that launches a graph until it is told to end."""

    def __init__(self, host, granter, experiment, **more):
        self.program = subprocess.Popen([GPU / "graph_program", experiment], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=host.environment(granter, **more), text=True)
        wait_for(lambda: self.program.stdout.readline() == "launching\n", 60)

    def end(self):
        out, _ = self.program.communicate(timeout=60)
        assert out == "right 1\n"
        assert self.program.returncode == 0


@pytest.fixture
def endless(host):
    made = []

    def make(*arguments, **more):
        made.append(Endless(host, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.program.kill()
        one.program.wait()


def test_a_graph_follows_its_partition(host, runtime, endless):
    granter = runtime(groups=(0, 1, 2))
    program = endless(granter, "endless")
    for groups in [(0, 1), (1,), (1, 3, 4), (3, 4), (2,), (0, 1, 2)]:
        epoch = granter.grant(groups)
        granter.wait_for(epoch)
        assert granter.port().groups == set(groups)
        host.clear()
        time.sleep(0.2)
        assert wait_for(host.sms, 60) <= sms_of(groups)
    program.end()
    assert granter.port().pinned == set()


def test_a_graph_whose_memory_is_gone_is_left_alone(host, runtime, endless):
    """The driver, and the emulated one, dies of making such a graph executable; nobody launches it."""
    granter = runtime(groups=(0, 1, 2))
    program = endless(granter, "endless-gone")
    for groups in [(3, 4), (1,), (2, 4), (0, 3), (1, 2, 3)]:
        granter.wait_for(granter.grant(groups))
        assert granter.port().groups == set(groups)
    program.end()


@pytest.mark.parametrize("chaos", ["", "3:5"])
def test_a_graph_outlives_partitions_that_come_and_go(host, runtime, endless, chaos):
    """More partitions than are kept: executables go with theirs, and are made again."""
    draw = random.Random(7)
    granter = runtime(groups=EVERYWHERE)
    program = endless(granter, "endless", DETSHARE_CHAOS=chaos)
    for _ in range(1500):
        groups = draw.sample(range(5), draw.randint(1, 4))
        granter.wait_for(granter.grant(groups))
        assert granter.port().groups == set(groups)
    program.end()


def test_a_larger_partition_is_used_once_prepared(host, runtime, endless):
    granter = runtime(groups=(0,))
    program = endless(granter, "endless")
    granter.wait_for(granter.grant((0, 1, 2)))
    wait_for(lambda: host.sms() & sms_of((1, 2)), 60)
    assert host.sms() <= sms_of((0, 1, 2))
    program.end()


def test_graphs_are_uploaded_where_the_program_goes(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    program = subprocess.Popen([GPU / "graph_program", "endless"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=host.environment(granter, EMUGPU_TELL="upload"), text=True)
    assert program.stdout.readline() == "launching\n"
    for groups in [(1,), (3, 4), (2,), (0, 1)]:
        granter.wait_for(granter.grant(groups))
        host.clear()
        wait_for(host.sms, 60)
    out, err = program.communicate(timeout=60)
    assert out == "right 1\n"
    # Where it began, as alone. A busy machine may come to a launch before an upload is over, but not at every move.
    assert 1 <= err.count("not uploaded") <= 3


def test_a_graph_that_cannot_move_keeps_its_groups(host, runtime, endless):
    granter = runtime(groups=(0, 1))
    program = endless(granter, "endless-pinned")
    epoch = granter.grant((2, 3))
    granter.wait_for(epoch)
    port = granter.port()
    assert port.pinned == {0, 1}
    assert struct.unpack_from("<Q", granter.ports[0], 80) == (1,), "pinned_graphs"
    assert port.groups == {0, 1, 2, 3}
    host.clear()
    wait_for(lambda: host.sms() & sms_of((0, 1)))
    time.sleep(0.2)
    assert host.sms() <= sms_of((0, 1, 2, 3))
    program.end()



def test_the_benchmark_moves_a_graph_about(host):
    """What it finds is a matter of the machine; bars hold on a GPU (tests/gpu)."""
    done = subprocess.run([BUILD / "tests" / "bench" / "bench_graph", LIBRARY, "100", "5"], capture_output=True, text=True,
                          env=host.environment(preload=False), timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == ["instantiate", "instantiate", "launch", "move", "kernel"]
    launch, move = lines[2], lines[3]
    # On a busy machine all launches may fall into a move, or none; and the program may end before the last moves.
    assert all(launch[way]["n"] for way in ("without", "still")) and launch["moving"]["n"] + launch["moved"]["n"], done.stdout
    assert 0 < move["acknowledged"]["n"] <= 5 and launch["remaps"] >= move["acknowledged"]["n"], done.stdout
