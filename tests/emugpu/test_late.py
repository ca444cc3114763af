# SPDX-License-Identifier: Apache-2.0
"""Programs that do not leave what is guaranteed to others: shown, ended, or left alone, as configured and as they deserve."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402
from runtime_host import ACTIVE, BUILD, IDLE, Host, follower, held, is_running  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

EAGER = ",policy=lend,lend=yes,borrow=yes,reclaim=500"


def wait_for(condition, seconds=60):
    return runtime_host.wait_for(condition, seconds)


def said_of(host, program):
    """What status says of a program, or None."""
    found = [p for r in host.gpu()["residents"] for p in r["programs"] if p["pid"] == program.pid]
    return found[0] if found else None


class Loan:
    """Job 1 lends all but a group to job 2, which has programs there; wanted() has it want them back."""

    def __init__(self, kind="latency", **config):
        self.host = Host(**{"acknowledge_deadline_s": 1} | config)
        self.host.begin("job-1", share=500, kind=kind, lending=EAGER)
        self.host.begin("job-2", share=500, kind="throughput", lending=EAGER)
        self.lender = self.program("job-1", IDLE)

    def program(self, name="job-2", demand=ACTIVE):
        return follower(self.host, name, demand)

    def borrower(self):
        made = self.program()
        wait_for(lambda: made.ask("page")["groups"] == 0xfffe)
        wait_for(lambda: said_of(self.host, made)["groups"] == "1-14+rest")
        return made

    def wanted(self):
        assert held(self.host, "job-2") == "1-14+rest"
        self.lender.ask("demand", ACTIVE, 100, 0)

    def has_back(self):
        """Its own, and perhaps more: what has no program lends."""
        return held(self.host, "job-1").startswith("0-7")


@pytest.fixture
def loan():
    made = []

    def make(**config):
        made.append(Loan(**config))
        return made[-1]

    yield make
    made[-1].host.close()


def stop(program):
    runtime_host.stop(program.pid)


def garbage(program):
    """Everything in its port is nonsense, and it follows nothing."""
    program.ask("obey", 1000)
    program.ask("write", [255] * 4096)


@pytest.mark.parametrize("harm", [stop, garbage])
def test_a_borrower_that_does_not_leave_is_ended_and_nobody_else_is(loan, harm):
    made = loan()
    host, late, other = made.host, made.borrower(), made.borrower()
    pid = late.pid
    harm(late)
    made.wanted()
    wait_for(made.has_back)
    wait_for(lambda: not is_running(pid))
    late.join()
    assert is_running(other.pid) and is_running(made.lender.pid)
    assert other.ask("page")["groups"] == 0xff00
    # The other one is as good as before: it borrows again.
    made.lender.ask("demand", IDLE, 100, 0)
    wait_for(lambda: other.ask("page")["groups"] == 0xfffe)

    wait_for(lambda: host.resident("job-2")["programs_ended"] == 1)
    assert host.resident("job-1")["programs_ended"] == 0
    assert "job-2: 1 of its programs ended for not leaving groups that are guaranteed to others" in host.status_text()
    (note,) = host.notes("job-2")
    stopped = ", which is stopped," if harm is stop else ""
    assert f"process {pid}{stopped} has not left SM groups 1-7, guaranteed to job-1, within 1 s" in note
    assert note.endswith(": it is ended")
    assert host.notes("job-1") == []
    assert host.notes("job-2", only_new=True) == [] and host.notes("job-2") == [note]
    assert host.notes("job-2", since_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME)) == [], "told to who came later"
    for name in ("job-1", "job-2"):
        host.end(name)
    said = {job: (host.record(job).get("late_programs"), host.record(job).get("ended_programs")) for job in (1, 2)}
    assert said == {1: (None, None), 2: (1, 1)}
    host.assert_clean()


def test_it_is_only_shown_where_the_site_wants_that(loan):
    made = loan(on_no_acknowledgement="warn")
    host, late = made.host, made.borrower()
    stop(late)
    made.wanted()
    wait_for(lambda: said_of(host, late)["late_s"] is not None)
    assert said_of(host, late)["late_s"] >= 1
    assert said_of(host, made.lender)["late_s"] is None
    text = host.status_text()
    assert f"job-2: process {late.pid}, which is stopped, does not leave groups that are guaranteed to others, for " in text
    assert f"job-1 waits for groups 1-7 of job-2, whose process {late.pid} still runs there" in text
    (note,) = host.notes("job-2")
    assert note.endswith("(acknowledge_deadline_s)")
    assert is_running(late.pid) and not made.has_back()
    # It goes on, and all is well.
    os.kill(late.pid, signal.SIGCONT)
    wait_for(made.has_back)
    wait_for(lambda: said_of(host, late)["late_s"] is None)
    assert host.resident("job-2")["programs_ended"] == 0
    # Stopped once more, it is a new case.
    made.lender.ask("demand", IDLE, 100, 0)
    wait_for(lambda: late.ask("page")["groups"] == 0xfffe)
    wait_for(lambda: said_of(host, late)["groups"] == "1-14+rest")
    stop(late)
    made.wanted()
    wait_for(lambda: said_of(host, late)["late_s"] is not None)
    os.kill(late.pid, signal.SIGCONT)
    host.end("job-2")
    host.end("job-1")
    assert host.record(2)["late_programs"] == 2 and "ended_programs" not in host.record(2)
    host.assert_clean()


def test_who_cannot_move_or_has_acknowledged_is_not_late(loan):
    """One is pinned, one says that it cannot be moved now; both keep what they have. The third was stopped after them."""
    made = loan()
    host = made.host
    pinned, stuck, late = made.borrower(), made.borrower(), made.borrower()
    pinned.ask("obey", 1000)  # it does not follow the page by itself any more
    stuck.ask("obey", 1000)
    stuck.ask("immovable", 1)
    stop(late)
    made.wanted()
    wait_for(lambda: pinned.ask("page")["groups"] == 0xff00)
    pinned.ask("acknowledge", pinned.ask("page")["epoch"], 0xfffe)
    wait_for(lambda: not is_running(late.pid))
    late.join()
    wait_for(lambda: host.resident("job-2")["programs_ended"] == 1)
    assert not made.has_back()
    for program in (pinned, stuck):
        assert is_running(program.pid)
        assert said_of(host, program)["late_s"] is None and said_of(host, program)["groups"] == "1-14+rest"
    # When it can be moved, it is awaited like any other: its runtime looks from time to time.
    stuck.ask("immovable", 0)
    wait_for(lambda: not is_running(stuck.pid))
    stuck.join()
    wait_for(lambda: host.resident("job-2")["programs_ended"] == 2)
    assert is_running(pinned.pid) and said_of(host, pinned)["late_s"] is None
    pinned.ask("acknowledge", pinned.ask("page")["epoch"], 0xff00)
    wait_for(made.has_back)


def test_a_group_that_is_nobodys_right_is_not_worth_a_program(loan):
    """Job 3 has what is guaranteed to it and would borrow more, where job 2's stopped program borrows already."""
    made = loan()
    host = made.host
    for name in ("job-1", "job-2"):
        host.end(name)
    for name in ("job-1", "job-2", "job-3"):
        host.begin(name, share=330, kind="throughput", lending=EAGER)
    made.program("job-1", IDLE)
    third = made.program("job-3")
    third.ask("demand", ACTIVE, 100, 12345)  # in an overlong kernel: it borrows nothing
    stopped = made.program("job-2")
    wait_for(lambda: host.resident("job-3")["demand"] == "overlong")
    wait_for(lambda: [loan["to"] for loan in host.resident("job-1")["lends_to"]] == ["job-2"]
             and held(host, "job-1") == "0" and said_of(host, stopped)["groups"] == held(host, "job-2"))
    stop(stopped)
    third.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: "job-3 waits for groups" in host.status_text())
    # Elsewhere, later, and with a right: when that one is ended, the first has been spared.
    host.begin("job-4", share=500, kind="throughput", lending=EAGER, gpu=1)
    host.begin("job-5", share=500, kind="throughput", lending=EAGER, gpu=1)
    lender, late = made.program("job-4", IDLE), made.program("job-5")
    wait_for(lambda: late.ask("page")["groups"] == 0xfffe)
    wait_for(lambda: [p["groups"] for p in host.resident("job-5")["programs"]] == ["1-14+rest"])
    stop(late)
    lender.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: not is_running(late.pid))
    late.join()
    assert is_running(stopped.pid) and said_of(host, stopped)["late_s"] is None
    assert "job-3 waits for groups" in host.status_text()


def test_a_program_that_left_the_gpu_by_exec_is_left_alone(loan):
    """It has hung up and is no client of MPS, so that its groups are free; it is not killed for that."""
    made = loan()
    host, gone = made.host, made.borrower()
    gone.ask("obey", 1000)
    gone.ask("hang up")
    made.wanted()
    wait_for(made.has_back)
    assert is_running(gone.pid)
    assert said_of(host, gone) is None
    assert host.resident("job-2")["programs_ended"] == 0
    (note,) = host.notes("job-2")
    assert note.endswith(": it is ended if it is still on the GPU")
    gone.kill()
    for name in ("job-1", "job-2"):
        host.end(name)
    assert host.record(2)["late_programs"] == 1 and "ended_programs" not in host.record(2)
    host.assert_clean()


def test_a_stopped_cuda_program_is_taken_off_the_gpu_first(loan):
    """With the library: MPS ends the stopped one in its long kernel, and the one beside it does not notice."""
    made = loan(kind="throughput", overlong_kernel_s=0)
    host = made.host

    def work(block_us):
        process = subprocess.Popen([host.gpuwork, "spin", "--seconds", "600", "--block-us", block_us],
                                   env=host.env | host.task_env("job-2"), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: process.pid in {c["pid"] for c in host.clients() if c["sms"]})
        return process

    late, beside = work("8000000"), work("500")
    try:
        wait_for(lambda: [p["groups"] for p in host.resident("job-2")["programs"]] == ["1-14+rest"] * 2)
        runtime_host.stop(late.pid)
        made.wanted()
        assert late.wait(60) == -signal.SIGKILL
        wait_for(made.has_back)
        assert beside.poll() is None, beside.stderr.read()
        assert [f for f in host.gpu()["faults"] if f["cuda_error"]] == []
        wait_for(lambda: [p["groups"] for p in host.resident("job-2")["programs"]] == ["8-14+rest"])
        assert beside.poll() is None and {c["pid"]: c["fault"] for c in host.clients()}[beside.pid] == 0
    finally:
        for process in (late, beside):
            process.kill()
            process.wait()
