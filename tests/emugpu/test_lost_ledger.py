# SPDX-License-Identifier: Apache-2.0
"""Somebody cuts, overwrites or removes the ledger of a GPU while allocations run: all keep what they have."""
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import BUILD, Host, is_running, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

LONG_S = 60  # for what takes milliseconds on a machine that is not busy
LEND = ",policy=lend,lend=yes,borrow=yes,reclaim=500"


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def break_file(path, how):
    size = path.stat().st_size
    if how == "gone":
        path.unlink()
        return
    with path.open("r+b") as file:
        if how == "empty":
            file.truncate(0)
        elif how == "half":
            file.truncate(size // 2)
        elif how == "noise":
            file.write(random.Random(1).randbytes(size))
        elif how == "zeros":
            file.write(bytes(size))


HOW = ["empty", "half", "noise", "zeros", "gone"]


def ledger(host, gpu=0):
    return host.run_dir / f"gpu-{host.uuid(gpu)}" / "ledger"


def copies(host):
    return [path for path in host.run_dir.glob("*/ledger") if not path.parent.name.startswith("gpu-")]


def status(host):
    """Exit status, what is known of the GPUs, and what is said of those of which nothing is."""
    done = subprocess.run(host.command("status", "--json", "--config", host.conf), env=host.env, text=True,
                          capture_output=True, check=False, timeout=60)
    return done.returncode, json.loads(done.stdout)["gpus"], done.stderr


def places(host):
    """Which groups each allocation and each program has on GPU 0; None while that cannot be read."""
    code, gpus, _ = status(host)
    if code or not gpus:
        return None
    return {r["allocation"]: (r["groups_held"], {p["pid"]: p["groups"] for p in r["programs"]})
            for r in gpus[0]["residents"]}


def members(text):
    found = set()
    for part in text.replace("+", ",").split(","):
        first, _, last = part.partition("-")
        found |= {15} if part == "rest" else set(range(int(first), int(last or first) + 1))
    return found


def work(host, name, *arguments):
    return subprocess.Popen([host.gpuwork, *arguments], env=host.env | host.task_env(name), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def hash_of(program):
    said, complaint = program.communicate(timeout=LONG_S)
    assert program.returncode == 0, complaint
    return json.loads(said)["result"]


def assert_apart(host, owners):
    """No two allocations' blocks were on one SM at a time."""
    done = subprocess.run([Path(BUILD) / "tests/emugpu/emugpu-host", "check", host.dir / "host", "0"], text=True,
                          capture_output=True, check=False, timeout=60)
    seen = json.loads(done.stdout)
    assert not seen["overlaps"], seen
    for met in seen.get("met", []):
        first, second = (owners.get(pid) for pid in met["pids"])
        assert first == second, met


def is_settled(resident):
    """It has all that is its own and all that is planned for it, and its program knows of it."""
    held = resident["groups_held"]
    return held == resident["groups_planned"] and members(resident["groups_own"]) <= members(held) and \
        [p["groups"] for p in resident["programs"]] == [held]


class Halves:
    """Two allocations, each with a program that works all the while."""

    def __init__(self, host, share=400, **options):
        self.host = host
        self.names = ("job-1", "job-2")
        for name in self.names:
            host.begin(name, share=share, **options)
        self.programs = {name: work(host, name, "spin", "--seconds", "600", "--block-us", "500") for name in self.names}
        wait_for(lambda: all(is_settled(host.resident(name)) for name in self.names), LONG_S)
        self.owners = {program.pid: name for name, program in self.programs.items()}
        self.runtimes = {name: host.runtime_pid(name) for name in self.names}

    def close(self):
        for name, program in self.programs.items():
            assert program.poll() is None, program.communicate()
            program.kill()
            program.wait()
            self.host.end(name)
        self.host.assert_clean()


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_newcomers_get_nothing_that_others_have(host, how, stopped):
    halves = Halves(host)
    before = places(host)
    first = work(host, "job-1", "reduce")
    halves.owners[first.pid] = "job-1"
    expected = hash_of(first)
    wait_for(lambda: places(host) == before, LONG_S)
    if stopped:
        for pid in halves.runtimes.values():
            stop(pid)
    break_file(ledger(host), how)

    refused = host.begin("job-3", share=1000, check=False)
    assert refused.returncode == 1 and "does not fit" in refused.stderr, refused.stderr
    host.begin("job-4", share=200)
    there = wait_for(lambda: places(host), LONG_S)
    assert {name: there[name] for name in before} == before
    mine = members(there["job-4"][0])
    assert mine and all(not mine & members(held) for held, _ in before.values())
    newcomer = work(host, "job-4", "reduce")
    halves.owners[newcomer.pid] = "job-4"
    assert hash_of(newcomer) == expected
    for name, pid in halves.runtimes.items():
        os.kill(pid, signal.SIGCONT)
        more = work(host, name, "reduce")
        halves.owners[more.pid] = name
        assert hash_of(more) == expected
        assert is_running(pid) and host.runtime_pid(name) == pid
    assert_apart(host, halves.owners)
    host.end("job-4")
    wait_for(lambda: places(host) == before, LONG_S)
    halves.close()


@pytest.mark.parametrize("how", HOW)
def test_runtimes_put_it_right_at_once(host, how):
    halves = Halves(host)
    before = places(host)
    for _ in range(3):
        break_file(ledger(host), how)
        wait_for(lambda: places(host) == before, LONG_S)
    halves.close()


def test_programs_without_a_runtime_keep_their_groups(host):
    halves = Halves(host)
    before = places(host)
    os.kill(halves.runtimes["job-2"], signal.SIGKILL)
    stop(halves.runtimes["job-1"])  # so that the newcomer makes it anew
    break_file(ledger(host), "noise")
    host.begin("job-3", share=200)
    there = places(host)
    assert there["job-2"][1] == before["job-2"][1]
    assert not members(there["job-3"][0]) & members(before["job-2"][0])
    os.kill(halves.runtimes["job-1"], signal.SIGCONT)
    host.end("job-3")
    halves.close()


@pytest.mark.parametrize("lending", ["", LEND])
def test_without_any_copy_nobody_gains_before_all_are_back(host, lending):
    halves = Halves(host, lending=lending)
    before = places(host)
    stop(halves.runtimes["job-2"])
    for path in copies(host):
        break_file(path, "noise")
    assert len(copies(host)) == 2
    break_file(ledger(host), "noise")
    wait_for(lambda: "job-1" in (places(host) or {}), LONG_S)
    for share in (1000, 100):
        refused = host.begin("job-3", share=share, check=False)
        assert refused.returncode == 1, refused.stderr
        # The one who is told when there was time for it, at the end of what it waited for.
        assert "not ready in time" in refused.stderr or "job-2" in refused.stderr and "has not come back" in refused.stderr, \
            refused.stderr
        assert not (host.run_dir / "job-3").exists()
    there = places(host)
    assert host.gpu()["incomplete"] and "nobody can join" in host.status_text()
    assert set(there) == {"job-1"} and members(there["job-1"][0]) <= members(before["job-1"][0])
    os.kill(halves.runtimes["job-2"], signal.SIGCONT)
    wait_for(lambda: set(places(host) or {}) == {"job-1", "job-2"} and not host.gpu()["incomplete"], LONG_S)
    host.begin("job-3", share=100, lending=lending)
    there = places(host)
    for name in before:
        assert halves.programs[name].pid in there[name][1]
    assert not members(there["job-1"][0]) & members(there["job-2"][0])
    host.end("job-3")
    assert_apart(host, halves.owners)
    halves.close()


def test_who_ends_is_waited_for_no_more(host):
    halves = Halves(host)
    stop(halves.runtimes["job-2"])
    for path in [*copies(host), ledger(host)]:
        break_file(path, "empty")
    wait_for(lambda: set(places(host) or {}) == {"job-1"}, LONG_S)
    halves.programs.pop("job-2").kill()
    host.end("job-2")
    host.begin("job-3", share=500)
    host.end("job-3")
    halves.close()


@pytest.mark.parametrize("how", ["empty", "noise"])
def test_status_shows_the_other_gpus(host, how):
    host.begin("job-1")
    host.begin("job-2", gpu=1)
    stop(host.runtime_pid("job-1"))
    break_file(ledger(host), how)
    code, gpus, complaint = status(host)
    assert code == 1
    broken, = (gpu for gpu in gpus if gpu["uuid"] == host.uuid(0))
    assert "made anew" in broken["error"] and broken["error"] in complaint
    whole, = (gpu for gpu in gpus if gpu["uuid"] == host.uuid(1))
    assert [r["allocation"] for r in whole["residents"]] == ["job-2"]
    text = subprocess.run(host.command("status", "--config", host.conf), env=host.env, text=True, capture_output=True,
                          check=False, timeout=60)
    assert text.returncode == 1 and "job-2" in text.stdout and f"GPU {host.uuid(0)}" in text.stderr
    os.kill(host.runtime_pid("job-1"), signal.SIGCONT)
    wait_for(lambda: status(host)[0] == 0, LONG_S)
    for name in ("job-1", "job-2"):
        host.end(name)
    host.assert_clean()
