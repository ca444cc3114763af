# SPDX-License-Identifier: Apache-2.0
"""Who waits for groups that are given back may spin: while that lasts, when the site lets it, and not for long."""
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import ACTIVE, BUILD, IDLE, Host, asleep, follower, held, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

LENDING = ",policy=lend,lend=yes,borrow=yes,reclaim={}"


@pytest.fixture
def make():
    """A node with these keys in its configuration."""
    made = []

    def begin(**config):
        made.append(Host(gpus=1, **config))
        return made[-1]
    yield begin
    for host in made:
        host.close()


def begin(host, reclaim_us=500):
    host.begin("job-1", share=500, kind="latency", lending=LENDING.format(reclaim_us))
    host.begin("job-2", share=500, kind="throughput", lending=LENDING.format(500))


def pair(host):
    begin(host)
    programs = follower(host, "job-1"), follower(host, "job-2")
    wait_for(lambda: held(host, "job-1") == "0-7" and held(host, "job-2") == "8-14+rest", 60)
    wait_for(lambda: host.resident("job-2")["drain_us"] == 112, 60)
    return programs


def lend(host, latency):
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest", 60)


def spin(program):
    return program.ask("page")["spin"]


@pytest.mark.parametrize("us", [0, 700])
def test_the_page_says_for_how_long_while_groups_are_lent(make, us):
    host = make(reclaim_spin_us=us, reclaim_spin_cpus=2)
    latency, training = pair(host)
    assert spin(latency) == spin(training) == [0, 2]
    lend(host, latency)
    wait_for(lambda: latency.ask("page")["groups"] == 1, 60)
    assert spin(latency) == [us, 2]
    # Who has them need not hurry before they are wanted back.
    wait_for(lambda: training.ask("page")["groups"] == 0xfffe, 60)
    assert spin(training) == [0, 2]
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: latency.ask("page")["groups"] == 0xff, 60)
    assert spin(latency) == [0, 2]
    assert training.ask("page")["groups"] == 0xff00 and spin(training) == [us, 2]


def test_groups_come_and_go_with_runtimes_that_spin(make):
    host = make(reclaim_spin_us=10000, reclaim_spin_cpus=1)
    latency, training = pair(host)
    for _ in range(20):
        lend(host, latency)
        latency.ask("demand", ACTIVE, 100, 0)
        wait_for(lambda: latency.ask("page")["groups"] == 0xff, 60)
    wait_for(lambda: training.ask("page")["groups"] == 0xff00, 60)


def computed_ns(pids):
    return [int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids]


def test_nobody_spins_for_what_does_not_come(make):
    host = make(reclaim_spin_us=10000, reclaim_spin_cpus=1)
    latency, training = pair(host)
    lend(host, latency)
    stop(training.pid)
    runtimes = [host.runtime_pid(name) for name in ("job-1", "job-2")]
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: host.resident("job-1")["groups_planned"] == "0-7", 60)

    def do_nothing():
        before = computed_ns(runtimes)
        return asleep(runtimes, 1) and computed_ns(runtimes) == before
    wait_for(do_nothing, 60)
    assert held(host, "job-1") == "0"


def test_a_real_borrower_that_spins_leaves_before_its_groups_are_given_back(make):
    host = make(reclaim_spin_us=10000, reclaim_spin_cpus=1)
    begin(host, 100000)
    latency = follower(host, "job-1")
    training = subprocess.Popen([host.gpuwork, "spin", "--block-us", "200", "--seconds", "100"], env=host.env | host.task_env("job-2"),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: host.resident("job-2")["drain_us"] and held(host, "job-2") == "8-14+rest", 60)
        for _ in range(5):
            lend(host, latency)
            latency.ask("demand", ACTIVE, 100, 0)
            wait_for(lambda: latency.ask("page")["groups"] == 0xff, 60)
    finally:
        training.kill()
        training.wait()
