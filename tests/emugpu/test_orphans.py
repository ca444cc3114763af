# SPDX-License-Identifier: Apache-2.0
"""Programs whose node runtime was killed: who is guaranteed what they have gets it back, and nobody else is touched."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import ACTIVE, BUILD, IDLE, Host, follower, held, is_running, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

EAGER = ",policy=lend,lend=yes,borrow=yes,reclaim=500"
SHARES = {"job-1": 500, "job-2": 250, "job-3": 250}
PATIENCE_S = 60


@pytest.fixture
def make_host():
    made = []

    def make(kind="latency", **config):
        made.append(Host(**{"acknowledge_deadline_s": 1} | config))
        for name, share in SHARES.items():
            made[-1].begin(name, share=share, kind=kind if name == "job-1" else "throughput", lending=EAGER)
        return made[-1]

    yield make
    made[-1].close()


def has_its_own(host, name="job-1"):
    resident = host.resident(name)
    return resident["groups_held"] == resident["groups_planned"] and not resident["lends_to"]


def entry(host, pid):
    """What status says of a program, or None."""
    found = [p for r in host.gpu()["residents"] for p in r["programs"] if p["pid"] == pid]
    return found[0] if found else None


def kill_runtime(host, name="job-2"):
    pid = host.runtime_pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid), PATIENCE_S)


def borrowed(host, lender="job-1"):
    """What others than the lender have of its groups."""
    return {loan["to"] for loan in host.resident(lender)["lends_to"]}


def is_on(host, pid, name="job-2", lender="job-1"):
    """The program is on whole groups of the lender's, and nothing of its allocation's is about to change."""
    resident, seen = host.resident(name), entry(host, pid)
    lent = [loan["groups"] for loan in host.resident(lender)["lends_to"] if loan["to"] == name]
    return lent not in ([], ["rest"]) and seen and seen["groups"] == resident["groups_held"] == resident["groups_planned"]


def await_end(host, pid):
    try:
        wait_for(lambda: not is_running(pid), PATIENCE_S)
    except AssertionError as late:
        raise AssertionError(f"process {pid} was not ended:\n{host.status_text()}") from late


def last_notes(host, name="job-2"):
    return (host.run_dir / name / "notes").read_text().splitlines()



def test_a_latency_job_gets_its_groups_back_and_nobody_else_is_touched(make_host):
    host = make_host()
    lender, late, other = (follower(host, name, demand) for name, demand in (("job-1", IDLE), ("job-2", ACTIVE), ("job-3", ACTIVE)))
    wait_for(lambda: borrowed(host) == {"job-2", "job-3"} and is_on(host, late.pid), PATIENCE_S)
    pid = late.pid
    kill_runtime(host)
    text = host.status_text()
    assert f"process {late.pid} still runs there" not in text, "somebody waits, though the lender is idle"
    assert f"job-2: its node runtime, process {host.runtime_pid('job-2')}, was killed: its programs go on where they are, on groups " \
           f"{entry(host, late.pid)['groups']}, and no other can begin; those that keep what an active neighbour is guaranteed have " \
           "acknowledge_deadline_s" in text
    lender.ask("demand", ACTIVE, 100, 0)
    await_end(host, late.pid)
    late.join()
    wait_for(lambda: has_its_own(host), PATIENCE_S)
    wait_for(lambda: host.resident("job-2") is None, PATIENCE_S)
    assert is_running(other.pid) and is_running(lender.pid)
    (note,) = last_notes(host)
    assert note.startswith(f"process {pid} has not left SM groups ") and note.endswith("; it is ended if it is still on the GPU")
    assert ", guaranteed to job-1, within 1 s (acknowledge_deadline_s): its node runtime was killed" in note
    # The others lend and borrow as before.
    lender.ask("demand", IDLE, 100, 0)
    wait_for(lambda: borrowed(host) == {"job-3"} and other.ask("page")["groups"] & 0xff == 0xfe, PATIENCE_S)
    assert host.notes("job-1") == host.notes("job-3") == last_notes(host, "job-1") == []
    for name in SHARES:
        host.end(name)
    said = {job: (host.record(job).get("late_programs"), host.record(job).get("ended_programs")) for job in (1, 2, 3)}
    assert said == {1: (None, None), 2: (1, 1), 3: (None, None)}
    host.assert_clean()


def test_one_that_had_left_before_is_spared(make_host):
    """Two of one job, both asked to leave: one has, when their runtime is killed."""
    host = make_host()
    lender = follower(host, "job-1", IDLE)
    late, gone = follower(host, "job-2"), follower(host, "job-2")
    own = host.resident("job-2")["groups_own"]
    wait_for(lambda: borrowed(host) == {"job-2"}, PATIENCE_S)
    wait_for(lambda: entry(host, late.pid)["groups"] == entry(host, gone.pid)["groups"] == held(host, "job-2") != own, PATIENCE_S)
    stop(late.pid)
    lender.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: entry(host, gone.pid)["groups"] == own, PATIENCE_S)
    kill_runtime(host)
    await_end(host, late.pid)
    late.join()
    wait_for(lambda: has_its_own(host), PATIENCE_S)
    assert is_running(gone.pid) and entry(host, gone.pid)["groups"] == own


@pytest.mark.parametrize("together", [False, True])
def test_of_several_who_wait_one_acts(make_host, together):
    host = make_host()
    lenders = [follower(host, "job-1", IDLE), follower(host, "job-3", IDLE)]
    late = follower(host, "job-2")
    wait_for(lambda: borrowed(host, "job-1") == borrowed(host, "job-3") == {"job-2"}, PATIENCE_S)
    wait_for(lambda: is_on(host, late.pid) and is_on(host, late.pid, lender="job-3"), PATIENCE_S)
    kill_runtime(host)
    if together:  # whichever of them is first
        for pid in (host.runtime_pid("job-1"), host.runtime_pid("job-3")):
            os.kill(pid, signal.SIGSTOP)
    for lender in lenders:
        lender.ask("demand", ACTIVE, 100, 0)
    if together:
        for pid in (host.runtime_pid("job-3"), host.runtime_pid("job-1")):
            os.kill(pid, signal.SIGCONT)
    await_end(host, late.pid)
    late.join()
    wait_for(lambda: host.resident("job-2") is None, PATIENCE_S)
    assert len(last_notes(host)) == 1
    host.end("job-2")
    assert host.record(2)["late_programs"] == host.record(2)["ended_programs"] == 1
    assert all(is_running(lender.pid) for lender in lenders)


def test_it_is_only_shown_where_the_site_wants_that(make_host):
    host = make_host(on_no_acknowledgement="warn")
    lenders = [follower(host, "job-1", IDLE), follower(host, "job-3", IDLE)]
    late = follower(host, "job-2")
    wait_for(lambda: borrowed(host, "job-1") == borrowed(host, "job-3") == {"job-2"}, PATIENCE_S)
    wait_for(lambda: is_on(host, late.pid) and is_on(host, late.pid, lender="job-3"), PATIENCE_S)
    kill_runtime(host)
    for lender in lenders:
        lender.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: entry(host, late.pid)["late_s"] is not None, PATIENCE_S)
    text = host.status_text()
    assert f"job-2: process {late.pid} does not leave groups that are guaranteed to others, for " in text
    assert f"whose process {late.pid} still runs there" in text
    wait_for(lambda: last_notes(host), PATIENCE_S)
    # Both have had their deadline, when it has come once more.
    wait_for(lambda: entry(host, late.pid)["late_s"] >= 4, PATIENCE_S)
    (note,) = last_notes(host)
    assert note.startswith(f"process {late.pid} has not left SM groups ") and note.endswith("nobody could tell it to")
    assert is_running(late.pid) and not has_its_own(host)
    # Nobody wants it any more.
    for lender in lenders:
        lender.ask("demand", IDLE, 100, 0)
    wait_for(lambda: entry(host, late.pid)["late_s"] is None, PATIENCE_S)
    late.kill()
    host.end("job-2")
    assert host.record(2)["late_programs"] == 1 and "ended_programs" not in host.record(2)


def test_one_that_left_the_gpu_by_exec_is_left_alone(make_host):
    host = make_host()
    lender, gone = follower(host, "job-1", IDLE), follower(host, "job-2")
    wait_for(lambda: borrowed(host) == {"job-2"} and is_on(host, gone.pid), PATIENCE_S)
    kill_runtime(host)
    gone.ours.send(b'["exec", "sleep", "600"]')
    wait_for(lambda: Path(f"/proc/{gone.pid}/comm").read_text() == "sleep\n", PATIENCE_S)
    lender.ask("demand", ACTIVE, 100, 0)
    wait_for(lambda: has_its_own(host), PATIENCE_S)
    assert is_running(gone.pid) and entry(host, gone.pid) is None
    gone.kill()
    host.end("job-2")
    assert host.record(2)["late_programs"] == 1 and "ended_programs" not in host.record(2)


def test_a_cuda_program_is_ended_and_its_user_is_told(make_host):
    """With the library and `detshare run`: what is beside it does not notice. Its kernels are long, so it is never idle."""
    host = make_host(kind="throughput", overlong_kernel_s=0)
    (host.dir / "detshare.conf").write_text("policy = lend\n")
    host.end("job-2")
    lender = follower(host, "job-1", IDLE)
    follower(host, "job-3")  # so that what is beside it is not idle either: it would lend the late one groups, and end it for them
    run = host.run("--share", "0.25", "--class", "throughput", "--gpu", "0", "--", host.gpuwork, "spin", "--seconds", "600",
                   "--block-us", "8000000", env={"SLURM_CONF": str(host.dir / "slurm.conf")})
    beside = subprocess.Popen([host.gpuwork, "spin", "--seconds", "600", "--block-us", "500"], stdin=subprocess.DEVNULL,
                              env=host.env | host.task_env("job-3"), stdout=subprocess.DEVNULL)
    name = f"run-{run.pid}"
    try:
        wait_for(lambda: {c["pid"] for c in host.clients() if c["sms"]} > {beside.pid}, PATIENCE_S)
        (late,) = {c["pid"] for c in host.clients()} - {beside.pid}
        wait_for(lambda: is_on(host, late, name), PATIENCE_S)
        kill_runtime(host, name)
        lender.ask("demand", ACTIVE, 100, 0)
        await_end(host, late)
        _, said = run.communicate(timeout=PATIENCE_S)
        assert f"detshare run: process {late} has not left SM groups " in said
        wait_for(lambda: has_its_own(host), PATIENCE_S)
        assert beside.poll() is None
        assert {c["pid"]: c["fault"] for c in host.clients()}[beside.pid] == 0
        assert not (host.run_dir / name).exists()
    finally:
        for process in (run, beside):
            process.kill()
            process.wait()
