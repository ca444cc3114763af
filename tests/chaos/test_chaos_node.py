# SPDX-License-Identifier: Apache-2.0
"""Random events on a node of emulated GPUs, and that what must hold there is really looked at.

DETSHARE_CHAOS_SEED is the first seed, DETSHARE_CHAOS_SECONDS how long events happen with each. A failure names the
command that repeats it.
"""
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = os.environ.get("DETSHARE_BUILDDIR") or os.environ.get("DETSHARE_BUILD")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "emugpu")]

import observe  # noqa: E402
from events import Event, Script  # noqa: E402
from node import Node  # noqa: E402
from observe import Violation  # noqa: E402

SEED = int(os.environ.get("DETSHARE_CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("DETSHARE_CHAOS_SECONDS", "12"))
built = pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree")
pytestmark = pytest.mark.timeout(300)


def first(n, seed, **options):
    return list(itertools.islice(Script(seed, **options), n))


def flat(events):
    for event in events:
        yield from event.parts or (event,)


# The script

def test_a_seed_is_a_script():
    assert first(2000, 7) == first(2000, 7)
    assert first(50, 7) != first(50, 8)


@pytest.mark.parametrize("seed", range(20))
def test_what_happens_can_happen(seed):
    """Nothing to an allocation before its begin or after its end; never more shares than there is GPU."""
    there, dead, begun = {}, set(), set()
    for event in flat(first(1500, seed, whole=seed % 2 == 1)):
        if event.verb == "begin":
            assert event.name not in begun
            begun.add(event.name)
            there[event.name] = event
            taken = sum(e.options["share"] for e in there.values() if e.gpu == event.gpu)
            assert taken <= 1000
        elif event.verb == "end":
            del there[event.name]
        elif event.verb == "overfull":
            assert event.options["share"] + sum(e.options["share"] for e in there.values()
                                                if e.gpu == event.gpu and e.name not in dead) > 1000
        elif event.verb == "settle":
            assert not dead & there.keys()
        elif event.verb == "empty":
            assert not there
        elif event.name:
            assert event.name in there
            assert event.name not in dead or event.verb.endswith("program")
        if event.verb == "kill runtime":
            dead.add(event.name)


def test_everything_happens():
    assert {e.verb for e in flat(first(4000, 1))} >= {
        "begin", "end", "start", "kill program", "stop program", "stop runtime", "kill runtime", "step", "report", "garbage",
        "overfull", "kill mps", "break ledger", "settle", "empty"}


# Runtimes and programs in one process (ledger_chaos runs as a test of its own, too)

@built
@pytest.mark.parametrize("fault", ["ack", "grant", "late", "turn", "quiet"])
def test_a_fault_in_who_decides_is_found(fault):
    """In one of the first 80 seeds: each has another mix of events."""
    for seed in range(1, 81):
        done = subprocess.run([Path(BUILD) / "tests/chaos/ledger_chaos", "--seed", str(seed), "--events", "6000", "--break", fault],
                              text=True, capture_output=True, check=False)
        if done.returncode == 1:
            assert f"repeat: ledger_chaos --seed {seed} " in done.stdout and f"--break {fault}" in done.stdout
            return
    pytest.fail("not found in 80 seeds")


# The node

@built
@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_a_node_bears_it(seed):
    """Odd seeds lend, and there some want the whole GPU, too."""
    whole = ["--whole"] if seed % 2 else []
    done = subprocess.run([HERE / "chaos_node", "--seed", str(seed), "--seconds", str(SECONDS), *whole], text=True, check=False,
                          env=os.environ | {"DETSHARE_BUILD": BUILD}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=280)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout)
    assert counted["settled"] >= 1 and counted["programs"] and all(seen["states"] for seen in counted["ledger"])


# That it is looked at

@pytest.fixture
def node(monkeypatch):
    made = []

    def make(**options):
        made.append(Node(BUILD, **options))
        return made[0]
    yield make
    monkeypatch.setattr(observe, "PATIENCE_S", 60)
    for each in made:
        each.resume_all()
        each.close()


def happen(node, verb, number=itertools.count(1), **more):
    node.happen(Event(next(number), verb, 0, **more))


def begin(node, name, share):
    happen(node, "begin", name=name, options={"share": share, "class": "throughput"})


def start(node, name, program, **options):
    happen(node, "start", name=name, program=program, options=options)


SPIN = {"kind": "spin", "blocks": 132, "us": 20000, "launches": 20}


@built
def test_quiet_events_pass(node):
    node = node()
    begin(node, "job-1", 500)
    begin(node, "job-2", 300)
    for name in "job-1", "job-2":
        start(node, name, f"p-{name}", **SPIN)
    happen(node, "settle")
    assert node.finish()["programs"] == 2


@built
@pytest.mark.parametrize("shares", [(500, 300), (20, 30)])
def test_programs_outside_their_partitions_are_seen(node, shares):
    """Those with less than a group, too: they take turns in one."""
    node = node(sabotage={"LD_PRELOAD": None})
    begin(node, "job-1", shares[0])
    begin(node, "job-2", shares[1])
    for name in "job-1", "job-2":
        start(node, name, f"p-{name}", **SPIN)
    with pytest.raises(Violation, match="could both run on SM"):
        happen(node, "settle")


@built
def test_wrong_results_are_seen(node):
    node = node(sabotage={"EMUGPU_DROP": "stream:5"})
    begin(node, "job-1", 500)
    for seed in range(12):
        start(node, "job-1", f"p{seed}", kind="random", seed=seed, steps=250, threads=1)
    with pytest.raises(Violation, match="program p.*(alone|ended with status)"):
        happen(node, "settle")


@built
def test_one_that_never_gets_its_groups_is_seen(node, monkeypatch):
    node = node()
    begin(node, "job-1", 950)
    start(node, "job-1", "p1", kind="stay", blocks=132)
    observe.wait_until(lambda: None if observe.residents(node.host)[0]["programs"] else "no program")
    process = node.program("p1").process
    process.send_signal(signal.SIGSTOP)
    begin(node, "job-2", 50)
    monkeypatch.setattr("node.wait_until", lambda reason: observe.wait_until(reason, 0.5))
    with pytest.raises(Violation, match="job-2 holds none of 14"):
        happen(node, "settle")
    process.send_signal(signal.SIGCONT)


@built
def test_a_program_that_does_not_end_is_seen(node, monkeypatch):
    node = node()
    begin(node, "job-1", 900)
    start(node, "job-1", "p1", **SPIN)
    node.program("p1").process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("node.PATIENCE_S", 0.2)
    with pytest.raises(Violation, match="p1 of job-1 does not end"):
        happen(node, "settle")


@built
def test_a_resident_that_is_not_ended_is_seen(node, monkeypatch):
    node = node()
    begin(node, "job-1", 900)
    monkeypatch.setattr("node.wait_until", lambda reason: observe.wait_until(reason, 0.2))
    with pytest.raises(Violation, match="job-1 is left"):
        happen(node, "empty")
    del node.there["job-1"]
    with pytest.raises(Violation, match="job-1 is in the ledger and should not be"):
        happen(node, "settle")


@built
def test_processes_and_descriptors_left_are_seen(node, monkeypatch):
    node = node()
    monkeypatch.setattr("node.wait_until", lambda reason: observe.wait_until(reason, 0.2))
    with subprocess.Popen(["sleep", "1000"], env=node.host.env) as stray:
        with pytest.raises(Violation, match=f"processes are left: .*{stray.pid}"):
            happen(node, "empty")
        stray.kill()
    begin(node, "job-1", 900)
    node.fds_alone = 1
    with pytest.raises(Violation, match="the runtime of job-1 has .* descriptors"):
        happen(node, "settle")


@built
@pytest.mark.parametrize("line, words", [
    ("steal planned job-1 job-2", "job-1 and job-2 both are planned"),
    ("steal held job-1 job-2", "job-1 and job-2 both hold"),
    ("steal program job-1 job-2", "may both be on"),
    ("steal own job-1 job-2", "job-1 and job-2 both own"), ("shrink own job-2", "job-2 has a share of 300 thousandths and owns"),
    ("shrink planned job-2", "job-2 is active and is not planned to have all"), ("clear job-2", "no full group of its own"),
    ("leave job-1", None)])
def test_wrong_ledgers_are_seen(tmp_path, line, words):
    fixture = Path(BUILD) / "tests/unit/ledger_fixture"
    uuid = "GPU-12345678-1234-1234-1234-123456789abc"
    good = [f"gpu {uuid} 15 8 12", "join job-1 1 0 latency 500 1", "join job-2 2 0 latency 300 1", "program job-1 1",
            f"program job-2 {os.getpid()}"]

    def write(*lines):
        subprocess.run([fixture, tmp_path], input="\n".join([good[0], *lines]) + "\n", text=True, check=True)
    write(*good[1:])
    watch = observe.Watch(Path(BUILD), tmp_path / f"gpu-{uuid}")
    watch.look()
    write(line)
    if words:
        with pytest.raises(Violation, match=words):
            watch.end()
    else:
        assert watch.end()["states"] >= 1
