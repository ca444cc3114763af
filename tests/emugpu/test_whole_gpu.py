# SPDX-License-Identifier: Apache-2.0
"""Whole-GPU windows with real node runtimes and real programs: nobody else is on the GPU meanwhile, block by block."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import BUILD, Host, stop, wait_for  # noqa: E402
from test_handover import assert_one_user_at_any_instant, users_of_groups  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.skipif(os.geteuid() != 0, reason="detshare run keeps another user than root out of these directories"),
    pytest.mark.timeout(300),
]
SMS = 132
WHOLE = Path(BUILD or ".") / "tests" / "gpu" / "whole_program"
ALL_MET = f"error 0, sum {SMS * (SMS + 1) // 2}"


@pytest.fixture(name="host")
def fixture_host():
    host = Host()
    yield host
    host.close()


def alone(host, *arguments):
    done = subprocess.run([WHOLE, *map(str, arguments)], env=host.env, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=True, timeout=60)
    return done.stdout


def ask(host, *arguments, share=0.5, **options):
    """whole_program in a share of the first GPU, started."""
    run = host.run("--share", str(share), "--gpu", "0", "--", WHOLE, *map(str, arguments), **options)
    return run


def spin(host, share, seconds, block_us=5000, blocks=60):
    run = host.run("--share", str(share), "--gpu", "0", "--", host.gpuwork, "spin", "--blocks", str(blocks),
                   "--block-us", str(block_us), "--seconds", str(seconds))
    wait_for(lambda: host.resident(f"run-{run.pid}") and host.resident(f"run-{run.pid}")["programs"], 60)
    wait_for(lambda: (host.resident(f"run-{run.pid}")["programs"][0].get("reported_by_program") or {}).get("launches"), 60)
    return run


def output(run, timeout=60):
    out, err = run.communicate(timeout=timeout)
    assert run.returncode == 0, err
    return out


def assert_alone_when_meeting(trace):
    """While blocks that wait for each other were on the GPU, no other process was."""
    meets = sorted((block["begin_ns"], block["end_ns"], block["pid"]) for block in trace if block["kernel"] == "meet")
    assert meets
    spans = []  # of launches, of which a process has one at a time
    for begin, end, pid in meets:
        if spans and spans[-1][2] == pid and begin < spans[-1][1]:
            spans[-1][1] = max(end, spans[-1][1])
        else:
            spans.append([begin, end, pid])
    for begin, end, pid in spans:
        assert not [block for block in trace if block["pid"] != pid and block["end_ns"] > begin and block["begin_ns"] < end]


@pytest.mark.parametrize("how", ["cooperative", "attribute", "plain"])
def test_a_grid_for_the_whole_gpu_beside_a_neighbour(host, how):
    expected = alone(host, how, 3, 0, 3000)
    subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "clear", host.dir / "host", "0"], check=True)
    neighbour = spin(host, 0.5, 3)
    run = ask(host, how, 3, 0, 3000, env={"DETSHARE_WHOLE_GPU": "meet"} if how == "plain" else {})
    assert output(run) == expected
    assert json.loads(output(neighbour))["launches"] > 10
    host.assert_clean()
    trace = host.trace(0)
    assert len({block["sm"] for block in trace if block["kernel"] == "meet"}) == SMS
    assert_alone_when_meeting(trace)
    assert_one_user_at_any_instant(users_of_groups(trace))


def test_two_that_ask_beside_one_that_does_not(host):
    expected = alone(host, "cooperative", 4, 0, 2000)
    subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "clear", host.dir / "host", "0"], check=True)
    neighbour = spin(host, 0.3, 3)
    runs = [ask(host, "cooperative", 4, 0, 2000, share=0.35) for _ in range(2)]
    assert [output(run) for run in runs] == [expected] * 2
    output(neighbour)
    host.assert_clean()
    assert_alone_when_meeting(host.trace(0))


def test_among_programs_of_its_own_job_that_never_leave_the_gpu(host):
    """It has all groups anyway, so no window comes of it: the GPU itself has to bring its blocks together."""
    spinning = f"{host.gpuwork} spin --blocks 60 --block-us 10000 --seconds 10000"
    run = host.run("--share", "1", "--gpu", "0", "--", "sh", "-c", f"{spinning} & first=$!; {spinning} & second=$!; "
                   f"{WHOLE} cooperative 3 0 2000; ended=$?; kill $first $second; exit $ended")
    assert "error 0, sum" in output(run, timeout=90)
    host.assert_clean()


def whole(host, name):
    return host.resident(name)["whole_gpu"]


@pytest.fixture(name="hasty")
def fixture_hasty():
    """Windows of 0.3 s, patience of 1.5 s."""
    host = Host(whole_gpu_deadline_ms=300, whole_gpu_patience_ms=1500)
    yield host
    host.close()


def test_a_stopped_neighbour_is_waited_for_no_longer_than_patience_lasts(hasty):
    neighbour = spin(hasty, 0.5, 1)
    name = f"run-{neighbour.pid}"
    pid = hasty.resident(name)["programs"][0]["pid"]
    stop(pid)
    line = output(ask(hasty, "cooperative", 1, 0, 0)).splitlines()[-1]
    assert line.endswith("error 720, sum 0")
    os.kill(pid, signal.SIGCONT)
    assert json.loads(output(neighbour))["launches"] > 0
    hasty.assert_clean()


def test_who_does_not_give_it_back_gets_it_no_more(hasty):
    """A kernel four times as long as a window: it ends, its neighbour goes on after it, the next one is refused."""
    neighbour = spin(hasty, 0.5, 4)
    slow = hasty.run("--share", "0.5", "--gpu", "0", "--", "sh", "-c", f"{WHOLE} cooperative 2 0 1200000; exec sleep 60")
    name = f"run-{slow.pid}"
    wait_for(lambda: hasty.resident(name) and whole(hasty, name)["overruns"], 60)
    seen = whole(hasty, name)
    assert (seen["windows"], seen["refused"], seen["waits"]) == (1, True, False)
    assert "did not give the whole GPU back in time, 1 times" in hasty.status_text()
    wait_for(lambda: not hasty.resident(name)["programs"], 60)
    slow.send_signal(signal.SIGTERM)
    assert slow.communicate(timeout=30)[0].splitlines()[-1].endswith(f"error 720, sum {SMS * (SMS + 1) // 2}")
    output(neighbour)
    hasty.assert_clean()
    assert_alone_when_meeting(hasty.trace(0))


def window(host):
    return host.gpu()["whole_gpu"]


@pytest.fixture
def long_windows():
    """So that they are seen on a busy machine, too."""
    host = Host(whole_gpu_deadline_ms=5000, whole_gpu_patience_ms=30000)
    yield host
    host.close()


def test_the_owners_runtime_is_killed_in_its_window(long_windows):
    host = long_windows
    neighbour = spin(host, 0.5, 2)
    run = ask(host, "cooperative", 1, 0, 4000000)
    wait_for(lambda: window(host) and window(host)["phase"] == "open", 60)
    os.kill(host.runtime_pid(f"run-{run.pid}"), signal.SIGKILL)
    run.communicate(timeout=60)
    output(neighbour)
    wait_for(lambda: not host.resident(f"run-{neighbour.pid}"), 60)


def test_an_owner_that_is_stopped_in_its_window_is_ended_and_its_neighbour_goes_on():
    """It would never leave what is the neighbour's, who holds it and may begin nothing."""
    host = Host(whole_gpu_deadline_ms=300, whole_gpu_patience_ms=30000, acknowledge_deadline_s=1)
    try:
        neighbour = spin(host, 0.5, 600)
        name = f"run-{neighbour.pid}"
        run = ask(host, "cooperative", 2, 0, 5000000)
        wait_for(lambda: window(host) and window(host)["phase"] in ("open", "returning"), 60)
        (program,) = host.resident(f"run-{run.pid}")["programs"]
        stop(program["pid"])
        said = run.communicate(timeout=60)[1]
        assert run.returncode == 128 + signal.SIGKILL
        assert f"detshare run: process {program['pid']}, which is stopped, has not left SM groups" in said, said
        wait_for(lambda: not window(host), 60)
        before = host.resident(name)["programs"][0]["reported_by_program"]["launches"]
        wait_for(lambda: host.resident(name)["programs"][0]["reported_by_program"]["launches"] > before, 60)
        neighbour.send_signal(signal.SIGTERM)
        neighbour.communicate(timeout=30)
        host.assert_clean()
    finally:
        host.close()


def test_who_waits_for_a_window_is_killed(host):
    neighbour = spin(host, 0.5, 3, block_us=400000)
    run = ask(host, "cooperative", 1, 0, 1000)
    pid = wait_for(lambda: window(host) and [p["pid"] for p in host.resident(f"run-{run.pid}")["programs"]], 60)[0]
    os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=60)
    assert json.loads(output(neighbour))["launches"] > 2
    host.assert_clean()


def assert_none_could_meet(host):
    """A block waits for its SM on this GPU, so the trace does not show who might have been there, too."""
    done = subprocess.run([Path(BUILD) / "tests" / "emugpu" / "emugpu-host", "check", host.dir / "host", "0"], text=True,
                          capture_output=True, check=False)
    assert json.loads(done.stdout).get("met", []) == []


def test_the_runtime_of_a_suspended_neighbour_is_killed(host):
    neighbour = spin(host, 0.5, 2)
    run = ask(host, "cooperative", 1, 0, 300000)
    wait_for(lambda: window(host) and window(host)["phase"] == "open", 60)
    pid, = [p["pid"] for p in host.resident(f"run-{neighbour.pid}")["programs"]]
    os.kill(host.runtime_pid(f"run-{neighbour.pid}"), signal.SIGKILL)
    assert ALL_MET in output(run)
    assert_none_could_meet(host)
    # It goes on, although nobody tells it to.
    seen = len([block for block in host.trace(0) if block["pid"] == pid])
    wait_for(lambda: len([block for block in host.trace(0) if block["pid"] == pid]) > seen, 60)
    neighbour.communicate(timeout=60)
    wait_for(lambda: window(host) is None, 60)


def test_nobody_has_the_gpu_beside_a_program_without_a_runtime(hasty):
    """It could not be told to stop, so nobody else is suspended for that either."""
    orphan = hasty.run("--share", "0.3", "--gpu", "0", "--", "sh", "-c", f"{hasty.gpuwork} spin --blocks 8 --block-us 2000 "
                       "--seconds 8")
    name = f"run-{orphan.pid}"
    wait_for(lambda: hasty.resident(name) and hasty.resident(name)["programs"], 60)
    os.kill(hasty.runtime_pid(name), signal.SIGKILL)
    line = output(ask(hasty, "cooperative", 1, 0, 0, share=0.3)).splitlines()[-1]
    assert line.endswith("error 720, sum 0")
    assert window(hasty) is None
    orphan.communicate(timeout=60)


def test_one_that_joins_in_a_window_begins_after_it(host):
    run = ask(host, "cooperative", 1, 0, 500000, share=0.4)
    beside = spin(host, 0.3, 2)
    run = ask(host, "cooperative", 1, 0, 500000, share=0.4) if run.wait(60) == 0 else None
    wait_for(lambda: window(host) and window(host)["phase"] == "open", 60)
    late = host.run("--share", "0.3", "--gpu", "0", "--", host.gpuwork, "add")
    assert ALL_MET in output(run)
    output(late)
    output(beside)
    host.assert_clean()
    assert_alone_when_meeting(host.trace(0))


@pytest.mark.parametrize("seed", range(2))
def test_windows_among_programs_that_come_and_go(host, seed):
    draw = random.Random(seed)
    runs = []
    for _ in range(8):
        while sum(run.poll() is None for run, _ in runs) >= 4:
            time.sleep(0.02)
        if draw.random() < 0.5:
            runs.append((ask(host, draw.choice(("cooperative", "attribute")), draw.randint(1, 3), 0, draw.randint(0, 5000),
                             share=0.2), True))
        else:
            runs.append((host.run("--share", "0.2", "--gpu", "0", "--", host.gpuwork, "spin", "--blocks", "40",
                                  "--block-us", str(draw.randint(500, 20000)), "--seconds", "0.6"), False))
    for run, asks in runs:
        assert "error 0" in output(run) if asks else output(run)
    host.assert_clean()
    trace = host.trace(0)
    assert_alone_when_meeting(trace)
