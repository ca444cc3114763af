# SPDX-License-Identifier: Apache-2.0
"""A site that does not want programs to be moved: in the library, and with real node runtimes."""

import json
import struct
import subprocess
from pathlib import Path

import pytest

import runtime_host
from runtime_host import held, wait_for
from coroutine_host import FIXED, GPU, LIBRARY, Running, sanitizer_runtimes, sms_of
from test_graphs import EXPERIMENTS, Endless

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")
needs_runtime = pytest.mark.skipif(
    not runtime_host.BUILD or not (Path(runtime_host.BUILD) / "noderuntime" / "detshare-noderuntime").exists(),
    reason="DETSHARE_BUILDDIR does not name a built tree")

HALF = (1, 2)


def threads_of(pid):
    return {(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}


def assert_stayed(granter, epoch=2, groups=HALF):
    port = granter.port()
    assert port.remaps == 0 and port.pinned == set()
    assert port.groups == set(groups)
    assert port.epoch == epoch
    assert struct.unpack_from("<Q", granter.ports[0], 80) == (0,), "pinned_graphs"


@pytest.mark.parametrize("experiment", ["work", "order", "order-chains", "order-destroyed", "properties", "capture", "graphs",
                                        "threads", "reset", "fork-after", "cleared-environment"])
def test_programs_work_as_alone(host, runtime, experiment):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    host.clear()
    granter = runtime(groups=HALF, flags=FIXED)
    inside = host.experiment(experiment, granter, DETSHARE_CHAOS="1:1")
    assert inside.stdout.splitlines() == alone.stdout.splitlines()
    assert inside.stderr == ""
    assert host.sms() <= sms_of(HALF)
    assert_stayed(granter)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_graphs_are_left_alone(host, runtime, experiment):
    alone = host.run(GPU / "graph_program", experiment, preload=False).stdout
    host.clear()
    granter = runtime(groups=HALF, flags=FIXED)
    assert host.run(GPU / "graph_program", experiment, runtime=granter, DETSHARE_CHAOS="1:1").stdout == alone
    assert host.sms() and host.sms() <= sms_of(HALF)
    assert_stayed(granter)


def test_another_grant_is_nothing_to_a_program_that_runs(host, runtime):
    granter = runtime(groups=HALF, flags=FIXED)
    program = Endless(host, granter, "endless")
    try:
        for groups in [(0, 1, 2, 3, 4), (3, 4), (1,)]:
            granter.grant(groups)
            host.clear()
            wait_for(host.sms, 60)
        assert host.sms() <= sms_of(HALF)
        assert "detshare" not in " ".join(threads_of(program.program.pid))
        assert_stayed(granter)
        assert granter.acknowledged == [(2, set(HALF))]
        program.end()
    finally:
        program.program.kill()
        program.program.wait()
    host.clear()
    host.experiment("work", granter)
    assert host.sms() <= sms_of((1,)), "one that starts later goes where the page says"


def test_a_reset_does_not_move_it(host, runtime):
    granter = runtime(groups=HALF, flags=FIXED)
    with Running(host, granter, "reset-later", "to be reset") as running:
        granter.grant((3, 4))
        host.clear()
        running.end()
    assert host.sms() and host.sms() <= sms_of(HALF)
    assert granter.port().groups == set(HALF)


@pytest.mark.parametrize("page, environment, samples", [({"flags": FIXED}, {}, 0), ({"sample": 1}, {}, 60), ({"sample": 0}, {}, 0),
                                                        ({"sample": 0}, {"DETSHARE_SAMPLE": "1"}, 60)])
def test_how_many_launches_are_measured(host, runtime, tmp_path, page, environment, samples):
    path = tmp_path / "report"
    host.experiment("measured", runtime(groups=HALF, **page), DETSHARE_REPORT=path, **environment)
    report = json.loads(path.read_text())
    assert report["launches"] == 60 and report["samples"] == samples and report["steps"] == 50


# With real node runtimes

@pytest.fixture
def node():
    made = runtime_host.Host(move_programs="no")
    yield made
    made.close()


def spin(node, name):
    """A program of an allocation that launches until it is killed."""
    env = dict(line.split("=", 1) for line in (node.run_dir / name / "task.env").read_text().splitlines())
    preload = " ".join([*sanitizer_runtimes(), env.pop("LD_PRELOAD")])
    program = subprocess.Popen([node.gpuwork, "spin", "--seconds", "100"], stdout=subprocess.DEVNULL,
                               env=node.env | env | {"LD_PRELOAD": preload})
    node.programs.append(program)
    return program


def groups_of(node, program):
    return [p["groups"] for r in node.gpu()["residents"] for p in r["programs"] if p["pid"] == program.pid]


@needs_runtime
@pytest.mark.timeout(300)
def test_groups_follow_when_programs_end(node):
    node.begin("job-1", share=950)
    first = spin(node, "job-1")
    wait_for(lambda: groups_of(node, first) == ["0-14"], 60)
    node.begin("job-2", share=50)
    wait_for(lambda: f"job-2 waits for groups 14 of job-1, whose process {first.pid} still runs there" in node.status_text(), 60)
    assert "job-1: its programs are not moved" in node.status_text()
    assert node.resident("job-1")["programs_are_moved"] is False
    used = {block["sm"] for block in node.trace(0)}
    assert any(sm >= 14 * 8 for sm in used), "it is on the last group, and stays"
    first.kill()
    first.wait()
    wait_for(lambda: held(node, "job-2") == "14", 60)
    second = spin(node, "job-1")
    wait_for(lambda: groups_of(node, second) == ["0-13+rest"], 60)
    wait_for(lambda: node.resident("job-1")["programs"][0].get("reported_by_program", {}).get("launches"), 60)
    # What becomes free is entered for nobody who runs, so nobody is waited for.
    node.end("job-2")
    wait_for(lambda: held(node, "job-1") == "0-14", 60)
    assert groups_of(node, second) == ["0-13+rest"]
    node.begin("job-3", share=50)
    wait_for(lambda: held(node, "job-3") == "14", 60)
    assert groups_of(node, second) == ["0-13+rest"]
