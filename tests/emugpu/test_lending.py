# SPDX-License-Identifier: Apache-2.0
"""Idle groups at work elsewhere, and back when they are wanted: the real node runtimes, programs that speak to the port."""
import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402
from runtime_host import ACTIVE, BUILD, IDLE, TELL_IDLE, WINDOW, Host, asleep, follower, held, stop, switches  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

LENDING = ",policy=lend,lend={},borrow={},reclaim={}"
EAGER = LENDING.format("yes", "yes", 500)


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def wait_for(condition, seconds=60):
    return runtime_host.wait_for(condition, seconds)


def planned(host, name):
    return host.resident(name)["groups_planned"]


def stays(condition, seconds=0.3):
    """It holds, and goes on to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.02)


@pytest.fixture
def pair(host):
    """A latency job and a throughput job, half of the GPU each, with a program each; both active."""
    host.begin("job-1", share=500, kind="latency", lending=EAGER)
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    programs = follower(host, "job-1"), follower(host, "job-2")
    wait_for(lambda: held(host, "job-1") == "0-7" and held(host, "job-2") == "8-14+rest")
    wait_for(lambda: host.resident("job-2")["drain_us"] == 112)
    return programs


def test_idle_groups_are_lent_and_come_back(host, pair):
    latency, training = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    assert held(host, "job-1") == "0"
    wait_for(lambda: training.ask("page")["groups"] == 0xfffe)
    resident = host.resident("job-1")
    assert resident["demand"] == "idle" and resident["groups_own"] == "0-7"
    assert resident["lends_to"] == [{"to": "job-2", "groups": "1-7"}]
    assert host.resident("job-2")["borrows_from"] == [{"from": "job-1", "groups": "1-7"}]
    text = host.status_text()
    assert "policy: lend\n" in text and "job-2 has groups 1-7 of job-1\n" in text
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0-7" and held(host, "job-2") == "8-14+rest")
    wait_for(lambda: latency.ask("page")["groups"] == 0xff)


def test_the_other_way_round(host, pair):
    pair[1].ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0-7,9-14+rest")
    assert held(host, "job-2") == "8"


def test_nothing_is_lent_without_the_sites_word(host):
    for name in "job-1", "job-2":
        host.begin(name)
    for name, said in (("job-1", IDLE), ("job-2", ACTIVE)):
        follower(host, name, said)
    stays(lambda: [held(host, n) for n in ("job-1", "job-2")] == ["0-7", "8-14+rest"])
    assert host.program("job-1").answer["flags"] == 0
    assert host.gpu()["policy"] == {"name": "static", "built_in": True, "failed": False}


def lend(host, pair):
    """Job 1 lends, and job 2's program may be there: until then nothing is to be waited for."""
    latency, training = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    wait_for(lambda: training.ask("page")["groups"] == 0xfffe)
    return latency, training


def test_the_owner_works_in_what_it_has_until_the_rest_is_back(host, pair):
    latency, training = lend(host, pair)
    stop(training.pid)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: planned(host, "job-1") == "0-7")
    stays(lambda: held(host, "job-1") == "0" and latency.ask("page")["groups"] == 1)
    assert "job-1 waits for groups 1-7 of job-2" in host.status_text()
    second = host.program("job-1")
    assert second.answer["refused"] == 0 and second.answer["groups"] == 1
    second.kill()
    os.kill(training.pid, signal.SIGCONT)
    wait_for(lambda: held(host, "job-1") == "0-7")


def entered(host, name):
    """The groups that its programs are entered for in the ledger."""
    return [program["groups"] for program in host.resident(name)["programs"]]


@contextlib.contextmanager
def locked(path):
    """The ledger is somebody's, who takes his time."""
    with open(path, "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield


def test_who_gives_back_has_all_written_and_the_owners_page_waits_for_no_lock(host, pair):
    latency, training = lend(host, pair)
    owner = host.runtime_pid("job-1")
    stop(training.pid)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: planned(host, "job-1") == "0-7")
    stop(owner)
    os.kill(training.pid, signal.SIGCONT)
    wait_for(lambda: held(host, "job-1") == "0-7" and entered(host, "job-1") == ["0-7"])
    assert latency.ask("page")["groups"] == 1
    with locked(host.run_dir / f"gpu-{host.uuid()}" / "ledger"):
        os.kill(owner, signal.SIGCONT)
        wait_for(lambda: latency.ask("page")["groups"] == 0xff)


def test_what_a_stopped_runtime_was_lent_is_back_at_once(host, pair):
    """Its program has not heard of it, and is not entered for it by anybody else."""
    latency, _ = pair
    borrower = host.runtime_pid("job-2")
    stop(borrower)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    assert entered(host, "job-2") == ["8-14+rest"]
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0-7")
    os.kill(borrower, signal.SIGCONT)


def test_a_borrower_that_dies_gives_back(host, pair):
    latency, training = lend(host, pair)
    stop(training.pid)
    latency.ask("demand", ACTIVE, 100, 0)
    stays(lambda: held(host, "job-1") == "0")
    training.kill()
    # And its own are lent now, since it has no program any more.
    wait_for(lambda: held(host, "job-1") == "0-7,9-14+rest")


def test_a_borrower_whose_runtime_died_keeps_what_it_has_until_its_end(host, pair):
    latency, training = lend(host, pair)
    os.kill(host.runtime_pid("job-2"), signal.SIGKILL)
    wait_for(lambda: not host.resident("job-2")["runtime_alive"])
    latency.ask("demand", ACTIVE, 100, 0)
    stays(lambda: held(host, "job-1") == "0")
    training.kill()
    wait_for(lambda: held(host, "job-1") == "0-14+rest")


def test_an_allocation_without_a_program_lends_and_its_first_program_gets_what_is_its_own(host):
    host.begin("job-1", share=500, kind="throughput", lending=EAGER)
    other = follower(host, "job-1")
    wait_for(lambda: held(host, "job-1") == "0-14+rest")
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    wait_for(lambda: held(host, "job-2") == "8")
    assert host.resident("job-2")["demand"] == "idle"
    wait_for(lambda: held(host, "job-1") == "0-7,9-14+rest")
    first = host.program("job-2")
    assert first.answer["groups"] & 1 << 8
    wait_for(lambda: first.ask("page")["groups"] == 0xff00)
    wait_for(lambda: other.ask("page")["groups"] == 0xff)
    # A program that says nothing counts as active.
    stays(lambda: held(host, "job-2") == "8-14+rest")


def test_all_programs_must_be_idle(host, pair):
    latency, _ = pair
    second = follower(host, "job-1")
    latency.ask("demand", IDLE, 100, 0)
    stays(lambda: held(host, "job-1") == "0-7")
    second.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0")
    second.kill()
    stays(lambda: held(host, "job-1") == "0")
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0-7")


@pytest.mark.parametrize("drain_us", [0, 501, 1 << 63])
def test_latency_lends_only_to_who_is_off_in_time(host, pair, drain_us):
    latency, training = pair
    training.ask("demand", ACTIVE, drain_us, 0)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: host.resident("job-1")["demand"] == "idle")
    stays(lambda: held(host, "job-2") == "8-14+rest" and held(host, "job-1") == "0-7")
    training.ask("demand", ACTIVE, 400, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    training.ask("demand", ACTIVE, drain_us, 0)
    wait_for(lambda: held(host, "job-1") == "0-7")


def test_who_has_an_overlong_kernel_borrows_nothing_and_is_not_idle(host, pair):
    latency, training = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    training.ask("demand", ACTIVE, 100, 12345)
    wait_for(lambda: held(host, "job-1") == "0-7" and held(host, "job-2") == "8-14+rest")
    assert host.resident("job-2")["demand"] == "overlong"
    training.ask("demand", IDLE, 100, 12345)
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: host.resident("job-1")["demand"] == "active")
    stays(lambda: held(host, "job-2") == "8-14+rest")


@pytest.mark.parametrize("lending, kept", [(LENDING.format("no", "yes", 500), "0-7"), (EAGER, "0")])
def test_a_class_may_keep_what_it_has(host, lending, kept):
    host.begin("job-1", share=500, kind="throughput", lending=lending)
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    follower(host, "job-1", IDLE)
    follower(host, "job-2")
    wait_for(lambda: host.resident("job-2")["demand"] == "active" and held(host, "job-1") == kept)
    stays(lambda: held(host, "job-1") == kept)


def test_a_class_may_keep_to_what_it_has(host):
    host.begin("job-1", share=500, kind="throughput", lending=LENDING.format("yes", "no", 500))
    follower(host, "job-1")
    stays(lambda: held(host, "job-1") == "0-7")


def test_besteffort_yields_first(host):
    host.begin("job-1", share=100, kind="besteffort", lending=EAGER)
    follower(host, "job-1")
    wait_for(lambda: held(host, "job-1") == "0-14+rest")
    host.begin("job-2", share=200, kind="throughput", lending=EAGER)
    training = follower(host, "job-2")
    wait_for(lambda: len(host.resident("job-1")["borrows_from"]) == 0)
    wait_for(lambda: host.resident("job-2")["sms"] == 132 - host.resident("job-1")["sms"])
    training.ask("demand", IDLE, 100, 0)
    wait_for(lambda: host.resident("job-2")["sms"] == 8 and host.resident("job-1")["sms"] == 124)


def test_the_page_says_what_is_asked_of_programs(host, pair):
    latency, training = pair
    # Whoever may get groups of a latency job keeps within its window before, so that its drain is known.
    wait_for(lambda: training.ask("page")["flags"] == TELL_IDLE | WINDOW)
    assert training.ask("page")["window_us"] == 250
    seen = latency.ask("page")
    assert seen["flags"] == TELL_IDLE and seen["window_us"] == 0
    training.ask("demand", IDLE, 100, 0)
    wait_for(lambda: latency.ask("page")["flags"] == TELL_IDLE | WINDOW)
    host.end("job-1")
    wait_for(lambda: training.ask("page")["flags"] == 0)


def test_who_changes_its_mind_too_often_is_taken_to_be_active(host, pair):
    latency, _ = pair
    latency.ask("toggle", 600)
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0")  # it has calmed down
    latency.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: held(host, "job-1") == "0-7")
    assert host.gpu()["generation"] < 2000


def test_nothing_wakes_up_while_groups_are_lent(host, pair):
    latency, _ = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    wait_for(lambda: asleep([host.runtime_pid(name) for name in ("job-1", "job-2")], 1))


def test_whom_lending_does_not_concern_does_not_wake(host):
    for name, kind, share, borrows in (("job-1", "latency", 500, "yes"), ("job-2", "throughput", 300, "yes"), ("job-3", "throughput", 200, "no")):
        host.begin(name, share=share, kind=kind, lending=LENDING.format(borrows, borrows, 500))
    latency, training, _ = [follower(host, f"job-{job}") for job in (1, 2, 3)]
    wait_for(lambda: host.resident("job-2")["drain_us"] == 112 and host.resident("job-3")["drain_us"] == 112)
    bystander = host.runtime_pid("job-3")
    wait_for(lambda: asleep([bystander], 0.3))
    before = switches(bystander)  # `detshare status` would wake it
    for _ in range(5):
        latency.ask("demand", IDLE, 100, 0)
        wait_for(lambda: training.ask("page")["groups"] & 0x7e)
        latency.ask("demand", ACTIVE, 100, 0)
        wait_for(lambda: latency.ask("page")["groups"] & 0xff == 0xff)
    assert switches(bystander) == before


def test_who_cannot_be_rung_is_told_all_the_same(host):
    host.begin("job-1", share=500, kind="latency", lending=EAGER)
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    for name in "job-1", "job-2":
        (host.run_dir / name / "bell").unlink()
    latency, training = follower(host, "job-1"), follower(host, "job-2")
    wait_for(lambda: host.resident("job-2")["drain_us"] == 112)
    for _ in range(3):
        lend(host, (latency, training))
        latency.ask("demand", ACTIVE, 100, 0)
        wait_for(lambda: latency.ask("page")["groups"] == 0xff)


def test_what_is_lent_is_accounted_for(host, pair):
    latency, _ = pair
    latency.ask("demand", IDLE, 100, 0)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    time.sleep(1)
    begun = time.monotonic()
    for name in "job-2", "job-1":
        host.end(name)
    spent = time.monotonic() - begun
    lender, borrower = host.record(1), host.record(2)
    assert lender["lent_sm_s"] >= 56 and borrower["borrowed_sm_s"] >= 56
    assert abs(lender["lent_sm_s"] - borrower["borrowed_sm_s"]) < 56 * (spent + 1)
    # What is granted does not depend on who uses it.
    seconds = lender["end_unix_s"] - lender["begin_unix_s"]
    assert lender["granted_sm_s"] > 64 * (seconds - spent - 2)


# Real programs, through the coroutine library

def gpuwork(host, name, *arguments):
    return subprocess.Popen([host.gpuwork, *map(str, arguments)], env=host.env | host.task_env(name), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check(host, gpu=0):
    """No SM of the GPU had two processes at any instant."""
    done = subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "check", host.dir / "host", str(gpu)],
                          text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_with_kernels_of_many_lengths_borrows(host):
    """Short ones and some of 20 ms: it is off within two of those, though many short ones may be ahead."""
    host.begin("job-1", share=500, kind="latency", lending=LENDING.format("yes", "yes", 40000))
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    latency = follower(host, "job-1", ACTIVE)
    with subprocess.Popen([Path(BUILD) / "tests" / "gpu" / "ahead_program"], env=host.env | host.task_env("job-2"), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        try:
            training.stdin.write("mix 1 100 20000 90\n" + "mix 1 100 20000 4000\n" * 20)
            training.stdin.flush()
            assert [training.stdout.readline().split()[0] for _ in range(2)] == ["ready", "ahead"]
            # The library learns of long ones from few that it has timed: that is many launches on a busy machine.
            wait_for(lambda: host.resident("job-2")["drain_us"] > 20000, 120)
            latency.ask("demand", IDLE, 100, 0)
            wait_for(lambda: held(host, "job-2") == "1-14+rest")
            latency.ask("demand", ACTIVE, 100, 0)
            wait_for(lambda: held(host, "job-1") == "0-7")
        finally:
            training.kill()


def remaps(host):
    """How often job 2's program says that it was moved: it may be twice while a busy machine lets it launch once."""
    return sum(p.get("reported_by_program", {}).get("remaps", 0) for p in host.resident("job-2")["programs"])


def test_a_real_program_borrows_and_gives_back_while_it_launches(host):
    host.begin("job-1", share=500, kind="latency", lending=LENDING.format("yes", "yes", 100000))
    host.begin("job-2", share=500, kind="throughput", lending=EAGER)
    latency = follower(host, "job-1", ACTIVE)
    training = gpuwork(host, "job-2", "spin", "--block-us", 200, "--seconds", 40)
    # A program that does not come to launching on a busy machine may be taken for idle meanwhile.
    wait_for(lambda: host.resident("job-2")["drain_us"] and held(host, "job-2") == "8-14+rest")
    for _ in range(3):
        before = remaps(host)
        latency.ask("demand", IDLE, 100, 0)
        wait_for(lambda: held(host, "job-2") == "1-14+rest")
        moved = wait_for(lambda before=before: (now := remaps(host)) > before and now)
        latency.ask("demand", ACTIVE, 100, 0)
        wait_for(lambda: held(host, "job-1") == "0-7")
        wait_for(lambda moved=moved: remaps(host) > moved)
    training.kill()
    training.communicate()
    check(host)


def test_two_real_programs_lend_to_each_other(host):
    for job in 1, 2:
        host.begin(f"job-{job}", share=500, kind="throughput", lending=EAGER)
    busy = gpuwork(host, "job-2", "spin", "--block-us", 200, "--seconds", 40)
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    short = gpuwork(host, "job-1", "spin", "--block-us", 200, "--launches", 200)
    wait_for(lambda: held(host, "job-1") == "0-7")
    out, error = short.communicate(timeout=60)
    assert short.returncode == 0 and out and error == ""
    wait_for(lambda: held(host, "job-2") == "1-14+rest")
    busy.kill()
    busy.communicate()
    check(host)


# Policies of a site's own

@pytest.fixture
def own_policy():
    """A host whose policy is this one of tests/unit's samples."""
    made = []

    def make(name):
        built = Path(BUILD) / "tests" / "unit" / ".libs" / f"policy_{name}.so"
        if not built.exists():
            pytest.skip(f"{built} is built by make check")
        host = Host()
        made.append(host)
        path = host.dir / "policy.so"
        shutil.copy(built, path)
        path.chmod(0o755)
        host.config["policy_library"] = path
        host.write_conf()
        return host
    yield make
    for host in made:
        host.close()


def test_a_sites_own_policy_is_asked(own_policy):
    host = own_policy("good")
    host.begin("job-1", share=500, lending=EAGER)
    follower(host, "job-1")
    wait_for(lambda: held(host, "job-1") == "0-11+rest")  # it wishes 0.75
    assert host.resident("job-1")["wish"] == 0.75
    assert host.gpu()["policy"] == {"name": "sample", "built_in": False, "failed": False}
    assert "policy: sample\n" in host.status_text()


def test_a_policy_that_wishes_what_cannot_be_is_not_asked_again(own_policy):
    host = own_policy("wild")
    host.begin("job-1", share=500, lending=EAGER)
    assert not host.gpu()["policy"]["failed"]
    first = follower(host, "job-1")
    wait_for(lambda: host.gpu()["policy"] == {"name": "wild", "built_in": False, "failed": True})
    assert held(host, "job-1") == "0-7"
    assert "policy: static, because wild failed" in host.status_text()
    host.begin("job-2", share=500, lending=EAGER)
    follower(host, "job-2", IDLE)
    first.ask("demand", ACTIVE, 100, 0)
    stays(lambda: held(host, "job-1") == "0-7" and held(host, "job-2") == "8-14+rest")
    # Who begins when all those are gone tries anew.
    for name in "job-1", "job-2":
        host.end(name)
    host.begin("job-3", share=500, lending=EAGER)
    assert not host.gpu()["policy"]["failed"]


@pytest.mark.parametrize("name", ["old", "other"])
def test_without_a_usable_policy_nothing_is_lent(own_policy, name):
    host = own_policy(name)
    host.begin("job-1", share=500, lending=EAGER)
    follower(host, "job-1")
    wait_for(lambda: host.resident("job-1")["demand"] == "active")
    assert host.gpu()["policy"]["failed"]
    assert held(host, "job-1") == "0-7"


def test_the_earliest_ones_policy_is_the_gpus(own_policy):
    host = own_policy("good")
    host.begin("job-1", share=250, lending=EAGER)
    host.config["policy_library"] = ""
    host.write_conf()
    host.begin("job-2", share=250, lending=EAGER)
    follower(host, "job-1"), follower(host, "job-2")
    wait_for(lambda: host.resident("job-2")["wish"] == 0.75)
    assert host.resident("job-1")["wish"] == 0.75
    host.end("job-1")
    wait_for(lambda: host.resident("job-2")["wish"] == 1)
    assert host.gpu()["policy"]["name"] == "lend"
