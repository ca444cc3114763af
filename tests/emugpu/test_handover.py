# SPDX-License-Identifier: Apache-2.0
"""Groups that change hands while their user runs: the real node runtimes, programs that speak to the port."""
import fcntl
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import (ACKNOWLEDGED, BUILD, EPOCH, HELLO, MAGIC, NOTICE, REPORT, STEP, VERSION, Host, held,  # noqa: E402
                          stop, wait_for)

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

# What 0.95 of a GPU has alone, and beside a newcomer with 0.05: less the last group, and the rest.
REST, LAST = 1 << 15, 1 << 14
ALONE = REST - 1
BESIDE = LAST - 1 | REST


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def groups_of(host, program):
    return [p["groups"] for gpu in host.gpus() for r in gpu["residents"] for p in r["programs"]
            if p["pid"] == program.pid]


def stays(condition, seconds=0.3):
    """It holds, and goes on to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.02)


@pytest.fixture
def busy(host):
    """A program that has the whole GPU."""
    host.begin("job-1", share=950)
    program = host.program("job-1")
    assert program.answer["groups"] == ALONE
    return program


def test_a_group_comes_and_goes_under_a_running_program(host, busy):
    busy.ask("obey", 0)
    host.begin("job-2", share=50)
    wait_for(lambda: held(host, "job-2") == "14")
    assert busy.ask("page")["groups"] == BESIDE
    assert groups_of(host, busy) == ["0-13+rest"]
    second = host.program("job-2")
    assert second.answer["groups"] == LAST
    host.end("job-2")
    wait_for(lambda: busy.ask("page")["groups"] == ALONE)
    wait_for(lambda: groups_of(host, busy) == ["0-14"])
    # And once more, to see that what came back can go again.
    host.begin("job-3", share=50)
    wait_for(lambda: held(host, "job-3") == "14")


def test_what_new_work_may_use_shrinks_at_once_and_what_is_held_when_that_is_acknowledged(host, busy):
    host.begin("job-2", share=50)
    epoch = busy.ask("notice", 30)
    seen = busy.ask("page")
    assert seen["epoch"] == epoch == 4 and seen["groups"] == BESIDE
    assert busy.ask("notice", 0.1) is None, "one change, one notice"
    stays(lambda: held(host, "job-2") == "none" and groups_of(host, busy) == ["0-14+rest"])
    assert busy.ask("acknowledge", epoch, BESIDE) == "done"
    wait_for(lambda: held(host, "job-2") == "14")


def test_a_slow_program_is_waited_for(host, busy):
    busy.ask("obey", 0.5)
    host.begin("job-2", share=50)
    stays(lambda: held(host, "job-2") == "none")
    wait_for(lambda: held(host, "job-2") == "14")


def test_every_program_of_an_allocation_must_acknowledge(host, busy):
    other = host.program("job-1")
    host.begin("job-2", share=50)
    for program in other, busy:
        stays(lambda: held(host, "job-2") == "none")
        program.ask("acknowledge", program.ask("notice", 30), BESIDE)
    wait_for(lambda: held(host, "job-2") == "14")


def test_a_program_that_dies_instead_gives_its_groups_back(host, busy):
    other = host.program("job-1")
    other.ask("obey", 0)
    host.begin("job-2", share=50)
    assert busy.ask("notice", 30) == 4
    stays(lambda: held(host, "job-2") == "none")
    busy.kill()
    wait_for(lambda: held(host, "job-2") == "14")
    assert host.program("job-1").answer["groups"] == BESIDE


def test_a_stopped_program_is_waited_for_and_nobody_else_is_held_up(host, busy):
    busy.ask("obey", 0)
    stop(busy.pid)
    host.begin("job-2", share=50)
    waiting = host.program("job-2", wait=False)
    stays(lambda: held(host, "job-2") == "none")
    assert host.program("job-1").answer["groups"] == BESIDE, "its runtime goes on"
    host.programs[-1].kill()
    os.kill(busy.pid, signal.SIGCONT)
    assert waiting.hear()["groups"] == LAST
    assert held(host, "job-2") == "14"


def test_work_that_cannot_be_moved_keeps_its_group_until_it_is_over(host, busy):
    host.begin("job-2", share=50)
    epoch = busy.ask("notice", 30)
    busy.ask("acknowledge", epoch, ALONE & ~1 | REST)  # pinned on 14 still, and off 0, which is granted
    stays(lambda: held(host, "job-2") == "none")
    assert groups_of(host, busy) == ["0-14+rest"]
    busy.ask("acknowledge", epoch, 2)
    wait_for(lambda: held(host, "job-2") == "14")
    assert groups_of(host, busy) == ["0-13+rest"], "what is granted it may use without another word"


def test_lies_are_as_if_nothing_were_said(host, busy):
    host.begin("job-2", share=50)
    epoch = busy.ask("notice", 30)
    lies = [(epoch + 2, 1), (1 << 63, 1), (epoch - 2, 1), (0, 1), (epoch, 1 << 100), (epoch, ALONE | 1 << 20)]
    for lie in lies:
        busy.ask("acknowledge", *lie)
    busy.ask("write port", epoch + 1, 0)
    busy.ask("send", [255] * 200)
    busy.ask("write", [255] * 200)
    for notice in (MAGIC, VERSION, ACKNOWLEDGED, epoch), (MAGIC, VERSION, EPOCH, epoch), (0, 0, 0, 0):
        busy.ask("send", list(NOTICE.pack(*notice)))
    busy.ask("write", [0] * 200)
    busy.ask("send", [])
    stays(lambda: held(host, "job-2") == "none" and groups_of(host, busy) == ["0-14+rest"])
    assert host.program("job-1").answer["refused"] == 0


def test_one_that_never_stops_talking_is_not_heard_any_more(host, busy):
    assert busy.ask("flood", 1) < 100000, "its messages are left lying"
    pid = host.runtime_pid("job-1")

    def cpu():
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    before = cpu()
    busy.ask("flood", 0.5)
    assert cpu() - before <= 5, "hundredths of a second"
    host.begin("job-2", share=50)
    stays(lambda: held(host, "job-2") == "none")
    busy.kill()
    wait_for(lambda: held(host, "job-2") == "14")


def test_one_that_reads_late_holds_nobody_up(host, busy):
    """It reads the first of many notices, and the page says all."""
    host.begin("job-2", share=25)
    for i in range(3, 9):
        host.begin("job-3", share=25)
        host.end("job-3")
    assert busy.ask("page")["epoch"] >= 4
    assert busy.ask("notice", 30) == 4
    seen = busy.ask("page")
    busy.ask("acknowledge", seen["epoch"], seen["groups"])
    wait_for(lambda: held(host, "job-2") == "14")


def test_a_late_acknowledgement_is_no_acknowledgement_of_what_came_after(host, busy):
    host.begin("job-2", share=25)
    first = busy.ask("notice", 30)
    host.end("job-2")  # it gets the group back
    second = busy.ask("notice", 30)
    assert second > first and busy.ask("page")["groups"] == ALONE
    busy.ask("acknowledge", first, BESIDE)
    host.begin("job-3", share=50)
    third = busy.ask("notice", 30)
    stays(lambda: held(host, "job-3") == "none")
    busy.ask("acknowledge", third, BESIDE)
    wait_for(lambda: held(host, "job-3") == "14")


# What programs say of themselves

def reports(host, name="job-1"):
    return [p.get("reported_by_program") for p in host.resident(name)["programs"]]


def test_status_shows_what_programs_report_and_that_it_is_their_word(host, busy):
    quiet = host.program("job-1")
    busy.ask("obey", 0)
    busy.ask("report", 12742, 0b111, 3)
    assert quiet.answer["refused"] == 0
    wait_for(lambda: reports(host)[0]["acknowledged_epoch"] == 2)
    said, other = reports(host)
    assert (said["remaps"], said["pinned"], said["pinned_graphs"], said["in_use"]) == (12742, "0-2", 3, "0-14")
    assert (other["remaps"], other["pinned"], other["in_use"]) == (0, "none", "none")
    text = host.status_text()
    assert f"job-1: process {busy.pid} reports 12742 remaps\n" in text
    assert f"process {busy.pid} reports work that cannot be moved (3 graphs) on groups 0-2\n" in text
    assert str(quiet.pid) not in text
    quiet.ask("report", (1 << 64) - 1, (1 << 128) - 1, 1 << 63)
    quiet.ask("acknowledge", 1000, 1)
    wait_for(lambda: reports(host)[1]["not_believed"] == 1)
    assert reports(host)[1]["remaps"] == (1 << 63) - 1
    assert f"process {quiet.pid} said 1 times what cannot be" in host.status_text()
    stop(host.runtime_pid("job-1"))
    begun = time.monotonic()
    assert reports(host) == [None, None]
    assert time.monotonic() - begun < 20  # it does not answer at all
    os.kill(host.runtime_pid("job-1"), signal.SIGKILL)
    wait_for(lambda: reports(host) == [None, None])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_reports_are_for_the_user_and_root(host):
    host.begin("job-1", uid=65534)
    ask = HELLO.pack(MAGIC, VERSION, REPORT, 0, 0)
    for uid, refused in (65534, False), (0, False), (1, True):
        answer = host.program("job-1", uid=uid, hello=ask, wait=True).answer
        assert bool(answer.get("refused")) == refused, answer


# Runtimes that die or stop

def test_a_killed_runtimes_programs_keep_what_they_have(host, busy):
    host.begin("job-2", share=50)
    epoch = busy.ask("notice", 30)
    os.kill(host.runtime_pid("job-1"), signal.SIGKILL)
    wait_for(lambda: not host.resident("job-1")["runtime_alive"])
    busy.ask("acknowledge", epoch, BESIDE)
    stays(lambda: held(host, "job-2") == "none")
    busy.kill()
    wait_for(lambda: held(host, "job-2") == "14")


def test_a_stopped_runtime_loses_no_acknowledgement(host, busy):
    pid = host.runtime_pid("job-1")
    stop(pid)
    host.begin("job-2", share=50)
    stays(lambda: held(host, "job-2") == "none" and busy.ask("page")["groups"] == ALONE)
    os.kill(pid, signal.SIGCONT)
    epoch = busy.ask("notice", 30)
    stop(pid)
    busy.ask("acknowledge", epoch, BESIDE)
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: held(host, "job-2") == "14")


def test_a_newcomer_that_dies_waiting_leaves_the_group_where_it_was(host, busy):
    host.begin("job-2", share=50)
    busy.ask("notice", 30)
    os.kill(host.runtime_pid("job-2"), signal.SIGKILL)
    wait_for(lambda: busy.ask("page")["groups"] == ALONE)


def test_a_ledger_that_could_not_be_had_is_looked_at_again(host, busy):
    host.begin("job-2", share=50)
    epoch = busy.ask("notice", 30)
    ledger, = (host.run_dir / f"gpu-{host.gpu()['uuid']}").glob("ledger")
    with ledger.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        busy.ask("acknowledge", epoch, BESIDE)
        time.sleep(1.3)
    wait_for(lambda: held(host, "job-2") == "14")


def test_what_the_ledger_does_not_say_no_program_is_told(host, busy):
    """A runtime that cannot write gives its programs nothing, whatever else it publishes for."""
    busy.ask("obey", 0)
    host.begin("job-2", share=50)
    wait_for(lambda: held(host, "job-2") == "14")
    pid = host.runtime_pid("job-1")
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    host.end("job-2")
    wait_for(lambda: held(host, "job-1") == "0-14")
    for _ in range(20):
        host.program("job-1", hello=HELLO.pack(MAGIC, VERSION, STEP, 0, 10), wait=True)
        assert busy.ask("page")["groups"] == BESIDE
        time.sleep(0.02)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    wait_for(lambda: busy.ask("page")["groups"] == ALONE)
    wait_for(lambda: groups_of(host, busy) == ["0-14"])


def test_a_small_share_keeps_a_group_through_joins_and_leaves(host):
    """Whatever comes and goes, every page grants a full group to who runs."""
    host.begin("job-1", share=60)
    small = host.program("job-1")
    small.ask("obey", 0)
    for i in range(6):
        names = [f"job-{10 + i * 4 + k}" for k in range(3)]
        for name, share in zip(names, (500, 60, 380)):
            host.begin(name, share=share)
            program = host.program(name)
            assert program.answer["groups"] & ~REST
            program.ask("obey", 0)
        assert small.ask("page")["groups"] & ~REST
        for name in names[i % 3:] + names[:i % 3]:
            host.end(name)
            assert small.ask("page")["groups"] & ~REST


# Real programs with the coroutine library

def users_of_groups(trace):
    """For each SM group, who ran a block there, when: (begin, end, pid) in order."""
    assert len(trace) < 65536, "the trace has lost its beginning"
    found = {}
    for block in trace:
        found.setdefault(min(block["sm"] // 8, 15), []).append((block["begin_ns"], block["end_ns"], block["pid"]))
    return {group: sorted(blocks) for group, blocks in found.items()}


def assert_one_user_at_any_instant(users):
    for group, blocks in users.items():
        busy_until = {}
        for begin, end, pid in blocks:
            for other, until in busy_until.items():
                assert other == pid or until <= begin, \
                    f"group {group}: {pid} began {until - begin} ns before {other} ended"
            busy_until[pid] = max(busy_until.get(pid, 0), end)


def spin(host, share, seconds, blocks):
    run = host.run("--share", str(share), "--gpu", "0", "--", host.gpuwork, "spin", "--blocks", str(blocks),
                   "--block-us", "20000", "--seconds", str(seconds))
    return run, f"run-{run.pid}"


def finished(run):
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    return json.loads(out)


def test_groups_move_under_running_programs_and_no_group_ever_has_two_users(host):
    """0.95 has groups 0-14; 0.05 comes, gets 14, and goes; block by block."""
    first, name = spin(host, 0.95, 5, 120)
    pid = wait_for(lambda: host.resident(name) and [p["pid"] for p in host.resident(name)["programs"]])[0]
    wait_for(lambda: host.resident(name)["programs"][0].get("reported_by_program", {}).get("launches", 0) > 20)
    second, _ = spin(host, 0.05, 1, 8)
    finished(second)
    wait_for(lambda: host.resident(name)["groups_held"] == "0-14")
    remaps = host.resident(name)["programs"][0]["reported_by_program"]["remaps"]
    finished(first)
    host.assert_clean()
    users = users_of_groups(host.trace(0))
    assert_one_user_at_any_instant(users)
    assert remaps >= 1
    runs = [who for i, (_, _, who) in enumerate(users[14]) if i == 0 or users[14][i - 1][2] != who]
    assert len(runs) == 3 and runs[0] == runs[2] == pid != runs[1], "it had the last group, lent it and got it back"
    assert {who for _, _, who in users[0]} == {pid}


def test_halves_that_join_and_leave_under_each_other(host):
    """Three come and go one after another beside one that stays; each time groups go and come back."""
    first, name = spin(host, 0.4, 6, 132)
    wait_for(lambda: host.resident(name) and host.resident(name)["programs"])
    for share in 0.6, 0.3, 0.55:
        finished(spin(host, share, 0.4, 132)[0])
    assert first.poll() is None, "it ran all the time"
    finished(first)
    assert_one_user_at_any_instant(users_of_groups(host.trace(0)))
    host.assert_clean()
