# SPDX-License-Identifier: Apache-2.0
"""A latency job beyond its share while it works, paid for with what it lent: the real node runtimes."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402
from runtime_host import ACTIVE, BUILD, IDLE, WINDOW, Host, asleep, follower, stop  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

LENDING = ",policy=lend,lend=yes,borrow=yes,reclaim={}"
# Groups in pages: all of the latter's and one of the former's, which is 0.6 of 15.
OWN, MORE, OTHERS, LESS, ALL_BUT_ONE = 0xff, 0x2ff, 0xff00, 0xfd00, 0xfffe


def wait_for(condition, seconds=60):
    return runtime_host.wait_for(condition, seconds)


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def groups(of):
    return of.ask("page")["groups"]


def begin(host, advance=",advance=100", reclaim=500):
    """A latency job and a throughput job, half of the GPU each, and a program of the former; that lends."""
    host.begin("job-1", share=500, kind="latency", lending=LENDING.format(reclaim) + advance)
    host.begin("job-2", share=500, kind="throughput", lending=LENDING.format(5000))
    return follower(host, "job-1")


@pytest.fixture
def pair(host):
    programs = begin(host), follower(host, "job-2")
    wait_for(lambda: [groups(p) for p in programs] == [OWN, OTHERS] and host.resident("job-2")["drain_us"] == 112)
    return programs


def owed(host):
    """What job 2 owes job 1, in group seconds; 0 also if job 1's runtime does not come to answer."""
    return sum(entry["group_s"] for entry in host.resident("job-1")["advance"]["owed"] if entry["by"] == "job-2")


def lend(host, pair, group_s=1.7):
    """Job 1 is idle until job 2 owes it so much; 0.25 s times the seven groups that are its own are the most."""
    latency, training = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: groups(training) == ALL_BUT_ONE)
    wait_for(lambda: owed(host) >= group_s)


def burst(host, pair):
    """Job 1 works until it has a group of job 2's; again if a busy machine did not let us see that in time."""
    for _ in range(10):
        lend(host, pair)
        pair[0].ask("demand", ACTIVE, 100, 0)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if groups(pair[0]) == MORE:
                return
            time.sleep(0.002)
    raise AssertionError("nothing was taken in advance")


def stays(condition, seconds=0.3):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.02)


def test_it_takes_while_it_works_and_gives_back(host, pair):
    latency, training = pair
    for _ in range(3):
        burst(host, pair)
        assert groups(training) in (LESS, OTHERS)  # OTHERS: it is over already
        assert training.ask("page")["flags"] & WINDOW  # or nobody would know how soon it is off
        latency.ask("demand", IDLE, 100, 0)
        wait_for(lambda: groups(training) == ALL_BUT_ONE)
        assert groups(latency) == 1


def test_it_is_over_when_all_is_paid_back(host, pair):
    latency, training = pair
    burst(host, pair)
    wait_for(lambda: groups(latency) == OWN and groups(training) == OTHERS)
    # Nothing is left of it, and it comes not again while the job works on.
    assert owed(host) < 0.1
    assert host.resident("job-1")["demand"] == "active" and host.resident("job-1")["advance"]["has"] == []
    stays(lambda: groups(latency) == OWN and groups(training) == OTHERS)
    wait_for(lambda: asleep([host.runtime_pid(name) for name in ("job-1", "job-2")], 0.5))


def test_nothing_is_taken_when_nothing_is_owed(host, pair):
    advance = host.resident("job-1")["advance"]
    assert advance["share"] == 0.1 and advance["has"] == [] and owed(host) <= 0
    stays(lambda: [groups(p) for p in pair] == [OWN, OTHERS])


def test_a_class_without_an_advance_takes_nothing(host):
    pair = begin(host, advance=""), follower(host, "job-2")
    latency, training = pair
    wait_for(lambda: host.resident("job-2")["drain_us"] == 112)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: groups(training) == ALL_BUT_ONE)
    time.sleep(0.5)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: groups(latency) == OWN)
    stays(lambda: groups(latency) == OWN and groups(training) == OTHERS)
    assert host.resident("job-1")["advance"] is None


def test_status_says_so(host, pair):
    for _ in range(10):
        burst(host, pair)
        resident, text = host.resident("job-1"), host.status_text()
        if resident["advance"]["has"] and " in advance\n" in text and " owes " in text:
            break
    assert resident["advance"]["has"] == [{"of": "job-2", "groups": "9"}] and resident["advance"]["share"] == 0.1
    assert resident["borrows_from"] == [{"from": "job-2", "groups": "9"}]
    assert "job-1 has groups 9 of job-2 in advance\n" in text
    assert "job-2 owes job-1 " in text or "job-1 owes job-2 " in text
    assert host.resident("job-2")["advance"] is None


def test_kernels_that_are_longer_for_it_are_lent_to_all_the_same(host, pair):
    """With less than its own a neighbour is off a group later; but it is in more when it has to leave what it was lent."""
    training = pair[1]
    for _ in range(10):
        burst(host, pair)
        training.ask("demand", ACTIVE, 510, 0)  # 512 when it is rounded, which is more than is allowed; it has 60 of 68 SMs
        entered = wait_for(lambda: (us := host.resident("job-2")["drain_us"]) != 112 and us)
        if entered != 512:
            break
        training.ask("demand", ACTIVE, 100, 0)  # the advance had been over for seconds
        wait_for(lambda: host.resident("job-2")["drain_us"] == 112)
    assert entered == 452


def test_one_that_is_stopped_has_it_to_make_up_for(host, pair):
    latency, training = pair
    for _ in range(10):
        burst(host, pair)
        stop(latency.pid)
        wait_for(lambda: host.resident("job-1")["groups_planned"] == "0-7")
        if host.resident("job-2")["groups_held"] != "8-14+rest":
            break
        os.kill(latency.pid, signal.SIGCONT)  # it was over before it was stopped
    stays(lambda: groups(training) == LESS)
    wait_for(lambda: owed(host) < -0.1)
    wait_for(lambda: "which it had in advance for too long\n" in host.status_text())
    os.kill(latency.pid, signal.SIGCONT)
    wait_for(lambda: groups(training) == OTHERS)
    debt = wait_for(lambda: (now := owed(host)) < -0.1 and now)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: owed(host) > debt)


def test_nothing_is_kept_for_one_whose_runtime_died(host, pair):
    latency, training = pair
    for _ in range(10):
        burst(host, pair)
        os.kill(host.runtime_pid("job-1"), signal.SIGSTOP)  # its timer does not matter any more
        if groups(latency) == MORE:
            break
        os.kill(host.runtime_pid("job-1"), signal.SIGCONT)
    os.kill(host.runtime_pid("job-1"), signal.SIGKILL)
    wait_for(lambda: host.resident("job-2")["groups_planned"] == "8-14+rest")
    stays(lambda: groups(training) == LESS)  # the program cannot hear of it
    latency.kill()
    wait_for(lambda: groups(training) & OTHERS == OTHERS)


def remaps(host):
    """How often job 2's program says that it was moved."""
    return sum(p.get("reported_by_program", {}).get("remaps", 0) for p in host.resident("job-2")["programs"])


def test_a_real_program_gives_and_gets_back_while_it_launches(host):
    latency = begin(host, reclaim=100000)
    training = subprocess.Popen([host.gpuwork, "spin", "--block-us", "200", "--seconds", "100"], env=host.env | host.task_env("job-2"),
                                text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: host.resident("job-2")["drain_us"])
        for _ in range(3):
            before = remaps(host)
            latency.ask("demand", IDLE, 100, 0)
            wait_for(lambda: host.resident("job-2")["groups_held"] == "1-14+rest" and owed(host) > 1.5)
            moved = wait_for(lambda before=before: (now := remaps(host)) > before and now)
            latency.ask("demand", ACTIVE, 100, 0)
            wait_for(lambda: groups(latency) & OWN == OWN)
            wait_for(lambda moved=moved: remaps(host) > moved)
    finally:
        training.kill()
        training.communicate()
    done = subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "check", host.dir / "host", "0"], text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
