# SPDX-License-Identifier: Apache-2.0
"""How far a program runs ahead of the GPU, and what it says of its need, with a node runtime that the tests play."""

import os
import random
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402

from coroutine_host import GPU, LIBRARY  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="DETSHARE_BUILD does not name a build (contrib/check sets it)"),
    pytest.mark.timeout(300),
]

FIXED, WINDOW, TELL_IDLE = 1, 2, 4
UNSAID, ACTIVE, IDLE = 0, 1, 2


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, condition
        time.sleep(0.005)
    return value


class Said:
    """The later part of a port: noderuntime/port_protocol.h."""

    SKETCH = 4 * (16 + 30 * 16)
    LAYOUT = struct.Struct("<IIQQQQQ128s")
    OFFSET = 88 + 4 * 8 + SKETCH

    def __init__(self, memory):
        (self.demand, self.whole_wanted, self.windows, self.waits, self.expired, self.drain_us, self.overlong_since_ns,
         name) = self.LAYOUT.unpack_from(memory, self.OFFSET)
        self.overlong = name.split(b"\0")[0].decode()


class Program:
    """ahead_program, inside; `granter` is the node runtime."""

    def __init__(self, host, granter, preload=True, **more):
        self.granter = granter
        self.run = subprocess.Popen([GPU / "ahead_program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                    env=host.environment(granter if preload else None, preload, **more))
        assert self.run.stdout.readline() == "ready\n"

    def ask(self, line):
        self.tell(line)
        return self.hear()

    def tell(self, line):
        self.run.stdin.write(line + "\n")
        self.run.stdin.flush()

    def hear(self):
        return self.run.stdout.readline().strip()

    def ahead(self, line):
        return int(self.ask(line).split()[1])

    def in_window(self, line, most):
        """Not further ahead than `most`, and launches that a slow machine made pass."""
        before = self.said().expired
        return self.ahead(line) <= most + self.said().expired - before

    def said(self):
        return Said(self.granter.ports[0])

    def end(self):
        self.run.stdin.close()
        assert self.run.wait(60) == 0


@pytest.fixture
def program(host, runtime):
    made = []

    def make(flags=0, window_us=0, groups=(0, 1), preload=True, overlong_ms=0, **more):
        granter = runtime(groups=groups)
        granter.overlong_after(overlong_ms)
        granter.flags(flags, window_us, tell=False)
        made.append(Program(host, granter, preload, **more))
        return made[-1]

    yield make
    for one in made:
        if one.run.poll() is None:
            one.run.kill()
            one.run.wait()
        one.run.stdin.close()
        one.run.stdout.close()


# The window

def runs_free(one):
    """Whether launches go as far ahead as they like, while nothing comes to its end."""
    one.ask("block 1")
    free = one.ahead("spin 1 100 60") == 60
    one.ask("release")
    one.ask("sync")
    return free


def test_alone_there_is_no_bound(program):
    one = program()
    assert runs_free(one)
    assert one.said().waits == 0
    one.end()


@pytest.mark.parametrize("what", ["spin 1", "spin 0", "graph 2"])
def test_long_kernels_two_at_a_time(program, what):
    one = program(WINDOW, 100)
    assert one.in_window(f"{what} 3000 40", 2)
    said = one.said()
    # After a wait in which a slow machine let both kernels end, the next two launches need not wait.
    assert said.waits >= 10 and said.expired < said.waits
    one.end()


def test_short_kernels_by_the_time_they_take(program):
    """1 ms of kernels of 100 us: about ten, whatever they were taken for at first."""
    one = program(WINDOW, 1000)
    one.ask("spin 1 100 200")
    assert one.in_window("spin 1 100 400", 12)
    # Longer ones on the same stream: it is learnt again.
    one.ask("spin 1 4000 16")
    assert one.in_window("spin 1 4000 20", 3)
    one.end()


def test_long_kernels_among_short_ones(program):
    """A long one is ahead alone, or with another: not with as many as would be short ones."""
    one = program(WINDOW, 2000)
    begin = time.monotonic()
    one.ask("mix 1 100 10000 90")
    before = one.said().expired
    ahead_us = one.ahead("mix 1 100 10000 180")
    assert ahead_us <= 2 * 10000 + 2000 + 10000 * (one.said().expired - before)
    # And that is what it says of itself; on a busy machine 10 ms may take any time; but no two take more than all.
    one.ask("sync")
    assert 10000 <= wait_for(lambda: one.said().drain_us) <= (time.monotonic() - begin) * 1e6
    one.end()


def test_short_again_after_long_ones(program):
    """What a program says of its kernels is of late: a long one at its start is not for ever."""
    one = program(WINDOW, 2000)

    def is_long():
        one.ask("mix 1 100 300000 9")
        return one.said().drain_us >= 300000

    def is_short():
        one.ask("spin 1 100 500")
        return one.said().drain_us < 200000  # much more than they take: the machine may be busy
    wait_for(is_long, 60)
    wait_for(is_short, 60)
    one.end()


def test_a_window_that_comes_and_goes(program):
    one = program()
    assert runs_free(one)
    one.granter.wait_for(one.granter.flags(WINDOW, 100))
    one.ask("spin 1 2000 30")
    assert one.in_window("spin 1 2000 30", 2)
    one.granter.wait_for(one.granter.flags(0))
    one.ask("sync")
    assert runs_free(one)
    one.end()


def test_what_was_queued_before_is_worked_off(program):
    """200 ms of it; the bound holds in the end."""
    one = program()
    one.ask("block 1")
    one.ask("spin 1 2000 100")
    one.granter.wait_for(one.granter.flags(WINDOW, 100))
    one.ask("release")
    one.ask("spin 1 2000 30")
    assert one.in_window("spin 1 2000 20", 2)
    one.end()


def test_the_window_is_soft(program):
    """The host lets a stream go on only after it has queued much behind it."""
    one = program(WINDOW, 100)
    one.ask("block 1")
    assert one.ahead("spin 1 10 40") >= 39
    assert 0 < one.said().expired <= 40
    one.ask("release")
    assert one.ask("sync") == "idle"
    # And is one again.
    one.ask("spin 1 3000 30")
    assert one.in_window("spin 1 3000 20", 2)
    one.end()


def test_who_waits_goes_when_the_window_does(program):
    one = program(WINDOW, 100)
    one.tell("spin 1 300000 10")  # one of them waits, wherever the machine stands still for a while
    wait_for(lambda: one.said().waits)
    one.granter.flags(0)
    assert one.hear().startswith("ahead ")
    assert one.ask("sync") == "idle"
    one.end()


def test_a_window_over_a_reset(program):
    one = program(WINDOW, 100)
    assert one.in_window("spin 1 2000 20", 2)
    assert one.ask("reset") == "reset"
    assert one.in_window("spin 1 2000 20", 2)
    one.end()


@pytest.mark.parametrize("flags", [0, WINDOW])
def test_in_a_window_results_are_the_same(host, runtime, flags):
    for experiment in "work", "order", "order-chains", "capture", "graphs", "reset", "threads", "wake":
        alone = host.experiment(experiment, preload=False, check=False)
        if alone.returncode == 77:
            continue
        granter = runtime(groups=tuple(range(6)))
        granter.flags(flags, 50, tell=False)
        inside = host.experiment(experiment, granter, DETSHARE_CHAOS="3:5")
        assert inside.stdout == alone.stdout, experiment
        assert inside.stderr == ""


def test_how_long_the_rest_takes_is_said_when_it_is_known(program):
    one = program()
    one.ask("block 1")
    one.ask("spin 1 2000 100")
    one.granter.wait_for(one.granter.flags(WINDOW, 100))
    assert one.said().drain_us == 0, "what was queued before is not counted"
    one.ask("release")
    one.ask("sync")
    begin = time.monotonic()
    one.ask("spin 1 2000 60")
    one.ask("sync")
    took_us = (time.monotonic() - begin) * 1e6  # 120 ms; on a busy machine any time
    assert 2000 <= wait_for(lambda: one.said().drain_us) <= took_us
    one.granter.wait_for(one.granter.flags(0))
    assert one.said().drain_us == 0
    one.end()


# Idle or not

def wake_ups(one):
    """How often the library's thread has slept so far."""
    tasks = Path(f"/proc/{one.run.pid}/task")

    def follower():
        # It gives itself its name.
        return next((task for task in tasks.iterdir() if (task / "comm").read_text() == "detshare\n"), None)

    status = (wait_for(follower) / "status").read_text()
    return sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)


def rests(one, seconds=0.5):
    """Whether the thread comes to rest: it may have been about to when it was seen to have done what it had to."""
    def slept():
        before = wake_ups(one)
        time.sleep(seconds)
        return wake_ups(one) == before

    return wait_for(slept)


def test_idle_and_active_are_told_when_asked_for(program):
    one = program(TELL_IDLE)
    for i in range(5):
        one.ask("block 1")
        assert one.said().demand == ACTIVE
        one.ask("release")
        wait_for(lambda: one.said().demand == IDLE)
    wait_for(lambda: one.granter.demands >= 10)
    one.ask("set 2")
    wait_for(lambda: one.granter.demands >= 12)  # what is no kernel is heard of, too
    wait_for(lambda: one.said().demand == IDLE)
    one.end()


def test_whoever_waits_for_the_gpu_is_not_idle(program):
    one = program(TELL_IDLE)
    one.ask("block 3")
    for _ in range(50):
        assert one.said().demand == ACTIVE
        time.sleep(0.005)
    one.ask("release")
    wait_for(lambda: one.said().demand == IDLE)
    one.end()


def test_nothing_slips_in_while_idle_is_being_said(program):
    """An operation that comes at any time is followed by the word, whatever was about to be said."""
    rounds = int(os.environ.get("DETSHARE_IDLE_ROUNDS", "150"))
    one = program(TELL_IDLE)
    drawn = random.Random(7)
    for _ in range(rounds):
        one.ask("block 1")
        assert one.said().demand == ACTIVE
        time.sleep(drawn.uniform(0, 0.004))
        assert one.said().demand == ACTIVE
        one.ask("release")
        one.ask("sync")
        time.sleep(drawn.uniform(0, 0.006))
    one.end()


def test_an_idle_program_costs_nothing(program):
    one = program(TELL_IDLE)
    wait_for(lambda: one.said().demand == IDLE)
    assert rests(one)
    one.end()


def test_who_is_not_asked_says_nothing_and_looks_at_nothing(program):
    one = program()
    one.ask("block 1")
    assert rests(one)
    assert (one.said().demand, one.granter.demands) == (UNSAID, 0)
    one.granter.wait_for(one.granter.flags(TELL_IDLE))
    assert one.said().demand == ACTIVE
    one.ask("release")
    wait_for(lambda: one.said().demand == IDLE)
    one.granter.wait_for(one.granter.flags(0))
    assert one.said().demand == UNSAID
    one.end()


def test_without_a_runtime_nobody_looks(program):
    one = program(TELL_IDLE)
    one.ask("block 1")
    for connection in one.granter.connections:
        connection.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: one.said().demand == UNSAID)
    assert rests(one)
    one.ask("release")
    assert one.ask("sync") == "idle"
    one.end()


def test_idle_and_a_window(program):
    one = program(TELL_IDLE | WINDOW, 100)
    for _ in range(3):
        one.ask("spin 1 3000 20")
        assert one.in_window("spin 1 3000 20", 2)
        wait_for(lambda: one.said().demand == IDLE)
    one.ask("block 1")
    assert one.said().demand == ACTIVE
    one.ask("release")
    one.end()


def test_no_context_is_idle(program):
    one = program(TELL_IDLE)
    wait_for(lambda: one.said().demand == IDLE)
    assert one.ask("reset") == "reset"
    wait_for(lambda: one.said().demand == IDLE)
    one.ask("block 1")
    assert one.said().demand == ACTIVE
    one.ask("release")
    one.end()


# Kernels that run too long

@pytest.mark.parametrize("flags,what,name", [(0, "spin", "spin_us"), (TELL_IDLE, "spin", "spin_us"),
                                             (TELL_IDLE | WINDOW, "graph", "(graph)")])
def test_an_overlong_kernel_is_named_until_it_ends(program, flags, what, name):
    one = program(flags, 100, overlong_ms=200)
    one.ask("spin 2 100 20")
    one.ask("sync")
    assert (one.said().overlong, one.said().overlong_since_ns) == ("", 0)
    one.ask(f"{what} 1 4000000 1")
    wait_for(lambda: one.said().overlong_since_ns)
    said = one.said()
    assert said.overlong == name
    assert 0.1e9 < time.clock_gettime_ns(time.CLOCK_BOOTTIME) - said.overlong_since_ns < 30e9
    assert said.demand == (ACTIVE if flags & TELL_IDLE else UNSAID)
    wait_for(lambda: not one.said().overlong_since_ns)
    assert one.said().overlong == ""
    one.end()


def test_many_short_kernels_are_no_long_one(program):
    """One second of 2 ms kernels, all queued at once; a kernel may take 0.2 s."""
    one = program(overlong_ms=200, DETSHARE_SAMPLE=20)
    one.ask("spin 1 2000 60")
    one.ask("sync")
    for _ in range(3):
        one.ask("spin 1 2000 400")
        for _ in range(20):
            assert one.said().overlong_since_ns == 0
            time.sleep(0.02)
        one.ask("sync")
    one.end()


def test_whoever_is_idle_is_not_watched_either(program):
    one = program(overlong_ms=200)
    one.ask("spin 1 100 20")
    one.ask("sync")
    assert rests(one)
    one.ask("spin 1 4000000 1")
    wait_for(lambda: one.said().overlong == "spin_us")
    one.end()


@pytest.mark.skipif(not runtime_host.BUILD or not Path(runtime_host.BUILD, "noderuntime", "detshare-noderuntime").exists(),
                    reason="DETSHARE_BUILDDIR does not name a built tree")
def test_status_names_it():
    node = runtime_host.Host(overlong_kernel_s=1)
    try:
        run = node.run("--share", "0.5", "--gpu", "0", "--", GPU / "ahead_program", stdin=subprocess.PIPE)
        assert run.stdout.readline() == "ready\n"

        def overlong():
            one, = node.resident(f"run-{run.pid}")["programs"]
            # A runtime that does not answer at once on a busy machine is not waited for.
            return one.get("reported_by_program", {"overlong": "?"})["overlong"]

        wait_for(lambda: overlong() is None)
        run.stdin.write("spin 1 12000000 1\n")
        run.stdin.flush()
        found = wait_for(lambda: (seen := overlong()) != "?" and seen)
        assert found["kernel"] == "spin_us" and found["seconds"] >= 0.9
        wait_for(lambda: "reports kernel spin_us to run for " in node.status_text())
        wait_for(lambda: overlong() is None)
        run.communicate("", timeout=60)
        assert run.returncode == 0
    finally:
        node.close()
