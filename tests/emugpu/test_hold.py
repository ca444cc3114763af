# SPDX-License-Identifier: Apache-2.0
"""Kernels that saturate memory bandwidth wait while a latency neighbour is in a step, within their budget."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402
from runtime_host import ACTIVE, HOLDING, HOLDING_AT, IDLE, TELL_IDLE, follower, wait_for  # noqa: E402
from test_ahead import Program  # noqa: E402
from coroutine_host import GPU, LIBRARY  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="DETSHARE_BUILD does not name a build (contrib/check sets it)"),
    pytest.mark.timeout(300),
]

STEP_AT = HOLDING_AT + HOLDING.size - 4
HELD_AT = 2312  # struct ds_port: held_back, held_back_ns
LONG_US = 1000000


def hold_back(granter, kernels, milli=1000, us=LONG_US):
    """Before any program has come."""
    os.pwrite(granter.page, HOLDING.pack(milli, us, kernels.encode(), 0), HOLDING_AT)


def step(granter, number):
    """The page's word: odd while a neighbour is in a step. Nobody is told."""
    os.pwrite(granter.page, struct.pack("=I", number), STEP_AT)


def held(granter, index=0):
    """Launches that were held back, and how long, in s."""
    count, ns = struct.unpack_from("=QQ", granter.ports[index], HELD_AT)
    return count, ns / 1e9


@pytest.fixture
def program(host, runtime):
    made = []

    def make(kernels, milli=1000, us=LONG_US):
        granter = runtime(groups=(0, 1))
        hold_back(granter, kernels, milli, us)
        made.append(Program(host, granter))
        time.sleep(0.05)  # something is earned
        return made[-1]

    yield make
    for one in made:
        if one.run.poll() is None:
            one.run.kill()
            one.run.wait()
        one.run.stdin.close()
        one.run.stdout.close()


def launch(one, what="spin 1 10", n=20):
    one.ask(f"{what} {n}")
    one.ask("sync")


def test_each_launch_waits_while_a_neighbour_is_in_a_step(program):
    one = program("nothing,spin_*", us=100)
    launch(one)
    assert held(one.granter) == (0, 0), "nobody is in a step"
    step(one.granter, 1)
    launch(one)
    count, seconds = held(one.granter)
    assert count == 20 and seconds >= 20 * 100e-6
    step(one.granter, 2)
    launch(one)
    assert held(one.granter) == (count, seconds)
    one.end()


def rounds(one):
    """A launch that is held back for a second unless its neighbour's step ends before; anew if this machine was so slow."""
    for number in range(1, 20, 2):
        time.sleep(1)  # as much can be earned
        before = held(one.granter)
        step(one.granter, number)
        one.tell("spin 1 10 1")
        yield number + 1, before
    raise AssertionError("it never came in time")


def test_who_waits_goes_when_the_step_is_over(program):
    one = program("*")
    for over, (count, seconds) in rounds(one):
        time.sleep(0.02)
        step(one.granter, over)
        one.hear()
        assert held(one.granter)[0] in (count, count + 1)
        if held(one.granter)[0] > count and held(one.granter)[1] - seconds < 0.9:
            break
    one.end()


@pytest.mark.parametrize("kernels, what", [("other_*", "spin 1 10"), ("", "spin 1 10"), ("spin_us", "graph 1 10"),
                                           ("(graph)", "spin 1 10")])
def test_no_other_kernel_waits(program, kernels, what):
    """And what is launched into a capture is not delayed, whatever its name."""
    one = program(kernels)
    step(one.granter, 1)
    launch(one, what)
    assert held(one.granter) == (0, 0)
    one.end()


def test_a_graph_that_is_named_waits(program):
    one = program("(graph)", us=100)
    step(one.granter, 1)
    launch(one, "graph 1 10")
    assert held(one.granter)[0] == 20
    one.end()


def test_no_longer_than_its_part_of_the_time(program):
    """A neighbour that never ends its step: a tenth of the time, after a tenth of a second at once."""
    began = time.monotonic()
    one = program("*", milli=100, us=20000)
    step(one.granter, 1)
    while time.monotonic() < began + 2:
        launch(one, n=200)
    count, seconds = held(one.granter)
    launches = one.granter.port().launches
    assert 0 < count < launches / 2
    # A thread that naps may be woken late, once.
    assert seconds <= 0.1 * (time.monotonic() - began + 1) + 0.3
    one.end()


def test_without_a_runtime_nothing_is_held_back(program):
    one = program("*", us=100)
    step(one.granter, 1)
    launch(one)
    assert held(one.granter)[0] == 20
    for connection in one.granter.connections:
        connection.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not one.granter.open, 20)
    time.sleep(0.2)
    before = held(one.granter)
    launch(one)
    assert held(one.granter) == before
    one.end()


def test_groups_go_back_while_a_launch_waits(program):
    one = program("*")
    places = [(0, 1), (2, 3)]
    for over, (count, _) in rounds(one):
        time.sleep(0.02)
        places.reverse()
        one.granter.wait_for(one.granter.grant(places[0]))
        in_time = held(one.granter)[0] == count
        step(one.granter, over)
        one.hear()
        one.ask("sync")
        assert one.granter.port().groups == set(places[0])
        if in_time and held(one.granter)[0] == count + 1:
            break
    one.end()


def test_results_are_as_alone(host, runtime):
    for experiment in ("work", "order-chains", "capture", "graphs", "reset", "threads", "wake", "fork-after",
                       "overlaps"):
        alone = host.experiment(experiment, preload=False, check=False)
        if alone.returncode == 77:
            continue
        granter = runtime(groups=tuple(range(6)))
        hold_back(granter, "*", us=300)
        ended = threading.Event()

        def steps(granter=granter, ended=ended):
            number = 0
            while not ended.wait(0.003):
                number += 1
                step(granter, number)

        stepping = threading.Thread(target=steps)
        stepping.start()
        try:
            inside = host.experiment(experiment, granter, DETSHARE_CHAOS="3:5")
        finally:
            ended.set()
            stepping.join()
        assert inside.stdout == alone.stdout, experiment
        assert inside.stderr == ""


# With the real node runtimes

EAGER = ",policy=lend,lend=yes,borrow=yes,reclaim=500"


@pytest.fixture
def node():
    if not runtime_host.BUILD or not Path(runtime_host.BUILD, "noderuntime", "detshare-noderuntime").exists():
        pytest.skip("DETSHARE_BUILDDIR does not name a built tree")
    made = runtime_host.Host(hold_back="yes", hold_back_most="0.5", hold_back_us="300", hold_back_kernels="spin*")
    yield made
    made.close()


def begin(node, *kinds, lending=EAGER):
    """Allocations job-1, job-2 … of a quarter of the GPU each."""
    for i, kind in enumerate(kinds):
        node.begin(f"job-{i + 1}", share=250, kind=kind, lending=lending)


def in_step(program):
    return program.ask("page")["step"]


def test_the_page_says_when_a_neighbour_is_in_a_step(node):
    begin(node, "latency", "throughput", "besteffort", "latency")
    latency, training, filler, other = (follower(node, f"job-{i}", demand=None) for i in (1, 2, 3, 4))
    for one in training, filler:
        assert one.ask("page")["hold_back"] == [500, 300, "spin*"]
    for one in latency, other:
        assert one.ask("page")["hold_back"] == [0, 0, ""] and one.ask("page")["flags"] & TELL_IDLE
    for one in latency, other, training:
        one.ask("demand", IDLE, 100, 0)
    wait_for(lambda: not in_step(training) and not in_step(filler), 20)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: in_step(training) and in_step(filler), 20)
    other.ask("demand", ACTIVE, 100, 0)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: node.resident("job-1")["demand"] == "idle", 20)
    assert in_step(training) and in_step(filler) and not in_step(latency) and not in_step(other)
    other.kill()
    wait_for(lambda: not in_step(training) and not in_step(filler), 20)


def test_a_latency_job_with_one_group_says_when_it_is_idle(node):
    """It has nothing to lend."""
    node.begin("job-1", share=60, kind="latency", lending=EAGER)
    node.begin("job-2", share=250, kind="throughput", lending=EAGER)
    assert node.program("job-1").answer["flags"] & TELL_IDLE


def test_nothing_is_held_back_where_nothing_is_lent(node):
    begin(node, "latency", "throughput", lending="")
    latency, training = follower(node, "job-1", demand=None), follower(node, "job-2", demand=None)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: node.resident("job-1")["demand"] == "active", 20)
    assert not in_step(training) and latency.ask("page")["flags"] == 0


def test_nothing_is_held_back_unless_the_site_wants_it(node):
    node.config["hold_back"] = "no"
    node.write_conf()
    begin(node, "latency", "throughput")
    latency, training = follower(node, "job-1", demand=None), follower(node, "job-2", demand=None)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: node.resident("job-1")["demand"] == "active", 20)
    page = training.ask("page")
    assert page["hold_back"] == [0, 0, ""] and not page["step"]


def test_what_was_held_back_is_counted(node):
    begin(node, "latency", "throughput")
    latency = follower(node, "job-1", demand=None)
    latency.ask("demand", ACTIVE, 100, 0)
    training = subprocess.Popen([GPU / "ahead_program"], env=node.env | node.task_env("job-2"), text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert training.stdout.readline() == "ready\n"

        def reported():
            one, = node.resident("job-2")["programs"]
            return one["reported_by_program"]

        def spin():
            training.stdin.write("spin 1 10 50\n")
            training.stdin.flush()
            return training.stdout.readline()

        wait_for(lambda: spin() and reported()["held_back"] >= 10, 60)
        assert reported()["held_back_s"] >= 10 * 200e-6
        assert "launches held back for a neighbour, " in node.status_text()
        training.communicate("", timeout=60)
        wait_for(lambda: not node.resident("job-2")["programs"], 20)
        node.end("job-2")
        record = node.record(2)["reported_by_program"]
        assert record["held_back"] >= 10 and record["held_back_s"] >= 10 * 200e-6
    finally:
        training.kill()
        training.communicate()


# What bounds a kernel, found out by the program itself

KERNELS_AT, KERNEL, N_KERNELS = HELD_AT + 16, struct.Struct("=QQIII68s"), 8
SMS, MEMORY = 1, 2


def kernels(granter, index=0):
    """name -> what bounds it, as the port says."""
    found = (KERNEL.unpack_from(granter.ports[index], KERNELS_AT + i * KERNEL.size) for i in range(N_KERNELS))
    return {name.split(b"\0")[0].decode(): by for key, _, _, by, _, name in found if key}


ALL = tuple(range(6))


@pytest.fixture
def learning(program):
    """A program that has been in the half of the GPU that is its share, and is on all of it now."""
    one = program("", us=200)
    one.granter.wait_for(one.granter.grant(ALL))
    return one


def learn(one, *what):
    """Until it is known what bounds these."""
    end = time.monotonic() + 60
    while not set(what) <= set(kernels(one.granter)):
        assert time.monotonic() < end, kernels(one.granter)
        for kernel in what:
            one.ask(f"wide {kernel} {2000 if kernel == 'copy_us' else 500} 4")


def test_a_program_finds_out_what_bounds_its_kernels_and_holds_back_what_memory_does(learning):
    learn(learning, "spin_us", "copy_us")
    assert kernels(learning.granter) == {"spin_us": SMS, "copy_us": MEMORY}
    step(learning.granter, 1)
    learning.ask("wide spin_us 100 10")
    assert held(learning.granter)[0] == 0
    learning.ask("wide copy_us 100 10")
    assert held(learning.granter)[0] == 10
    step(learning.granter, 2)
    learning.ask("wide copy_us 100 10")
    assert held(learning.granter)[0] == 10
    learning.end()


def test_nothing_is_learnt_while_a_neighbour_takes_bandwidth(learning):
    step(learning.granter, 1)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        learning.ask("wide copy_us 2000 4")
    assert kernels(learning.granter) == {}
    learning.end()


def test_where_a_program_never_had_less_than_it_has_nothing_is_tried_out(program):
    one = program("")
    end = time.monotonic() + 2
    while time.monotonic() < end:
        one.ask("wide copy_us 2000 4")
    assert kernels(one.granter) == {} and one.granter.port().remaps == 0
    one.end()


def test_groups_go_back_in_the_middle_of_a_trial(learning):
    """Whenever it is: the page comes first, and the program is nowhere else after it."""
    for i in range(30):
        learning.ask("wide copy_us 2000 4")
        learning.tell("wide copy_us 2000 4")
        groups = (0, 1) if i % 2 == 0 else ALL
        learning.granter.wait_for(learning.granter.grant(groups))
        assert learning.granter.port().groups == set(groups)
        learning.hear()
    learning.end()


def test_results_are_as_alone_while_kernels_are_tried_out(host, runtime):
    for experiment in "work", "order-chains", "graphs", "reset", "threads", "capture":
        alone = host.experiment(experiment, preload=False, check=False)
        if alone.returncode == 77:
            continue
        granter = runtime(groups=(0, 1))
        hold_back(granter, "", us=300)
        ended = threading.Event()

        def lend(granter=granter, ended=ended):
            number = 0
            while not ended.wait(0.12):
                number += 1
                granter.grant(ALL if number % 4 else (0, 1))

        lending = threading.Thread(target=lend)
        lending.start()
        try:
            inside = host.experiment(experiment, granter)
        finally:
            ended.set()
            lending.join()
        assert inside.stdout == alone.stdout, experiment
        assert inside.stderr == ""


def test_status_names_them(node):
    begin(node, "throughput")
    training = follower(node, "job-1", demand=None)
    said = KERNEL.pack(7, 4096, 256, MEMORY, 155, b"copies\n") + KERNEL.pack(8, 132, 384, SMS, 990, b"x" * 68)
    training.ask("write at", KERNELS_AT, list(said))
    reported = node.resident("job-1")["programs"][0]["reported_by_program"]
    assert reported["kernels"] == [
        {"kernel": "copies?", "blocks": 4096, "threads": 256, "bound_by": "memory", "gain": 0.155},
        {"kernel": "x" * 67, "blocks": 132, "threads": 384, "bound_by": "sms", "gain": 0.99}]
