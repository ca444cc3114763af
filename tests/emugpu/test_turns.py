# SPDX-License-Identifier: Apache-2.0
"""Shares below a group, which take turns in one: real node runtimes, real programs, block by block."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import ACTIVE, BUILD, IDLE, Host, asleep, is_running, stat_fields, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.skipif(os.geteuid() != 0, reason="detshare run keeps another user than root out of these directories"),
    pytest.mark.timeout(300),
]
TURNS = 40  # to be judged by: at 20 ms each, some seconds on an idle machine


@pytest.fixture(name="make")
def fixture_make():
    made = []

    def make(**config):
        made.append(Host(**config))
        return made[-1]

    yield make
    for host in made:
        host.close()


@pytest.fixture(name="host")
def fixture_host(make):
    return make()


class Job:
    """A job with a program that has work until it is ended."""

    def __init__(self, host, share, block_us=1000):
        self.host = host
        self.run = host.run("--share", str(share), "--gpu", "0", "--", host.gpuwork, "spin", "--blocks", "8", "--block-us",
                            str(block_us), "--seconds", "10000")
        self.name = f"run-{self.run.pid}"
        wait_for(lambda: self.program() is not None, 60)
        self.pid = self.program()["pid"]
        wait_for(lambda: self.launches(), 60)

    def program(self):
        resident = self.host.resident(self.name)
        return resident["programs"][0] if resident and resident["programs"] else None

    def launches(self):
        program = self.program()
        return program.get("reported_by_program", {}).get("launches", 0) if program else 0

    def turn(self):
        return self.host.resident(self.name)["turn"]

    def end(self):
        if is_running(self.pid):
            os.kill(self.pid, signal.SIGKILL)
        self.run.communicate(timeout=60)

    def goes_on(self):
        """It gets to launch some more."""
        before = self.launches()
        wait_for(lambda: self.launches() > before + 20, 60)


def turns(*jobs):
    return sum(job.turn()["turns"] for job in jobs)


def launches_in_turns(*jobs):
    """How much each of them launched, over some turns."""
    first = turns(*jobs)
    before = [job.launches() for job in jobs]
    wait_for(lambda: turns(*jobs) > first + TURNS, 120)
    return [job.launches() - launched for job, launched in zip(jobs, before)]


def assert_one_at_a_time(host):
    """No two were on an SM at an instant, or could have been."""
    done = subprocess.run([Path(BUILD) / "tests/emugpu/emugpu-host", "check", host.dir / "host", "0"], text=True,
                          capture_output=True, check=False, timeout=60)
    seen = json.loads(done.stdout)
    assert seen["blocks"] and not seen["overlaps"] and not seen["meetings"], seen


def test_in_proportion_to_their_shares_and_never_two_at_a_time(host):
    jobs = [Job(host, 0.015), Job(host, 0.045)]
    assert len({job.turn()["group"] for job in jobs}) == 1
    few, many = launches_in_turns(*jobs)
    assert few and many > 1.5 * few  # three times as much; a busy machine leaves less of a shorter turn
    text = host.status_text()
    assert f"group {jobs[0].turn()['group']} is shared in turns by {jobs[0].name} (" in text
    assert " (its turn)" in text
    for job in jobs:
        job.end()
    assert_one_at_a_time(host)
    host.assert_clean()


def test_three_of_whom_one_ends(host):
    jobs = [Job(host, share) for share in (0.01, 0.02, 0.03)]
    launched = launches_in_turns(*jobs)
    assert 0 < launched[0] < launched[2]
    os.kill(jobs[1].pid, signal.SIGKILL)
    for job in jobs[0], jobs[2]:
        job.goes_on()
    for job in jobs:
        job.end()
    assert_one_at_a_time(host)
    host.assert_clean()


def test_beside_who_is_idle_there_are_no_turns_and_nobody_wakes(host):
    host.begin("job-1", share=15)
    host.begin("job-2", share=45)
    programs = [host.program(f"job-{i}") for i in (1, 2)]
    for program in programs:
        program.ask("obey", 0)
    programs[0].ask("demand", IDLE, 0, 0)
    programs[1].ask("demand", ACTIVE, 0, 0)
    wait_for(lambda: host.resident("job-2")["turn"]["state"] == "has" and programs[1].ask("page")["groups"])
    assert host.resident("job-1")["turn"]["state"] == "idle"
    before = host.resident("job-2")["turn"]["turns"]
    # Once without any wake-up; what happened last may still be under way at first.
    runtimes = [host.runtime_pid(f"job-{i}") for i in (1, 2)]
    wait_for(lambda: asleep(runtimes, 0.5))
    assert host.resident("job-2")["turn"]["turns"] == before
    # Work again, and both have their turns.
    programs[0].ask("demand", ACTIVE, 0, 0)
    wait_for(lambda: host.resident("job-1")["turn"]["turns"] > 2 and host.resident("job-2")["turn"]["turns"] > before + 2)
    text = host.status_text()
    assert "job-1 (waits for its turn)" in text or "job-2 (waits for its turn)" in text


def test_alone_one_has_no_turns(host):
    host.begin("job-1", share=15)
    program = host.program("job-1")
    assert host.resident("job-1")["turn"] is None
    assert program.ask("page")["flags"] == 0
    host.begin("job-2", share=15)
    wait_for(lambda: host.resident("job-1")["turn"]["state"] == "has")
    host.end("job-2")
    wait_for(lambda: host.resident("job-1")["turn"] is None)
    wait_for(lambda: program.ask("page")["flags"] == 0)


def test_a_killed_runtime_ends_the_turns_and_nobody_waits(host):
    jobs = [Job(host, 0.02), Job(host, 0.02), Job(host, 0.02)]
    launches_in_turns(*jobs)
    os.kill(host.runtime_pid(jobs[0].name), signal.SIGKILL)
    wait_for(lambda: jobs[1].turn()["state"] == "beside")
    assert jobs[1].turn()["side_by_side_because"] == "a program's node runtime is dead"
    assert "side by side, without turns" in host.status_text()
    for job in jobs[1:]:
        job.goes_on()
    # With the last of its programs its place is gone, and there are turns again.
    os.kill(jobs[0].pid, signal.SIGKILL)
    wait_for(lambda: jobs[1].turn()["state"] in ("has", "waits"), 60)
    launches_in_turns(*jobs[1:])
    for job in jobs:
        job.end()


def stop_in_its_turn(job, other, over):
    """Stop its program while it is on the GPU, so that the other one waits: until over() says so. Else it goes on, and once more."""
    for _ in range(200):
        wait_for(lambda: over() or job.turn()["state"] == "has", 60)
        if not over():
            stop(job.pid)
        before = other.launches()
        wait_for(lambda: over() or other.launches() > before + 20, 60)
        if over():
            return
        os.kill(job.pid, signal.SIGCONT)
    pytest.fail("never stopped in its turn")


def test_one_that_is_stopped_in_its_turn_is_waited_for(make):
    host = make(acknowledge_deadline_s=0)
    job, other = jobs = [Job(host, 0.03), Job(host, 0.03)]

    def is_waited_for():
        """It is stopped; and its runtime has answered since then, so what it said before is not on its way."""
        return (stat_fields(job.pid)[0] == "T" and "reported_by_program" in job.program() and
                host.resident(other.name)["waits_for"])

    stop_in_its_turn(job, other, is_waited_for)
    assert host.resident(other.name)["waits_for"][0]["pid"] == job.pid
    assert job.turn()["state"] == "waits" and other.turn()["state"] == "has"
    assert f"has its turn when process {job.pid} of {job.name}, which is stopped, is off the group" in host.status_text()
    os.kill(job.pid, signal.SIGCONT)
    launches_in_turns(*jobs)
    for one in jobs:
        one.end()
    assert_one_at_a_time(host)


def test_one_that_is_stopped_in_its_turn_is_late(make):
    host = make(acknowledge_deadline_s=1)
    job, other = Job(host, 0.03), Job(host, 0.03)
    stop_in_its_turn(job, other, lambda: not is_running(job.pid))
    other.goes_on()
    for one in job, other:
        one.end()
    assert_one_at_a_time(host)


def test_who_is_not_moved_works_side_by_side(make):
    host = make(move_programs="no")
    jobs = [Job(host, 0.02), Job(host, 0.02)]
    for job in jobs:
        assert job.turn()["state"] == "beside"
        assert job.turn()["side_by_side_because"] == "programs are not moved (move_programs = no)"
        job.goes_on()
    for job in jobs:
        job.end()


def test_who_cannot_be_moved_keeps_nobody_waiting(host):
    host.begin("job-1", share=20)
    host.begin("job-2", share=20)
    still = host.program("job-1")
    page = still.ask("page")
    still.ask("acknowledge", page["epoch"], page["groups"])
    still.ask("immovable", 1)
    other = host.program("job-2")
    other.ask("obey", 0)
    other.ask("demand", ACTIVE, 0, 0)
    wait_for(lambda: host.resident("job-2")["turn"]["side_by_side_because"] == "a program cannot be moved")
    wait_for(lambda: other.ask("page")["groups"])


def test_results_are_those_of_alone(host):
    commands = [[Path(BUILD) / "tests/emugpu/random_program", str(seed), "200", "2", "0"] for seed in (3, 4, 5)]
    commands += [[host.gpuwork, "reduce", "--n", "65536", "--launches", "200"]]

    def result(text):
        return json.loads(text)["result"] if text.startswith("{") else text

    alone = [subprocess.run(command, env=host.env, text=True, capture_output=True, check=True, timeout=60).stdout
             for command in commands]
    subprocess.run([Path(BUILD) / "tests/emugpu/emugpu-host", "clear", host.dir / "host", "0"], check=True)
    busy = Job(host, 0.01)
    runs = [host.run("--share", "0.012", "--gpu", "0", "--", *command) for command in commands]
    for run, expected in zip(runs, alone):
        out, err = run.communicate(timeout=150)
        assert run.returncode == 0, err
        assert result(out) == result(expected)
    busy.goes_on()
    busy.end()
    assert_one_at_a_time(host)
    host.assert_clean()


def test_a_window_for_the_whole_gpu_in_a_shared_group(host):
    busy = [Job(host, 0.015), Job(host, 0.015)]
    whole = host.run("--share", "0.03", "--gpu", "0", "--", Path(BUILD) / "tests/gpu/whole_program", "cooperative", "2", "0", "2000")
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    assert "error 0, sum" in out
    for job in busy:
        job.goes_on()
    for job in busy:
        job.end()
    host.assert_clean()
