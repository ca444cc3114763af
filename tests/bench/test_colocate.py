# SPDX-License-Identifier: Apache-2.0
"""tests/bench/colocate: what it makes of measurements, and that it runs programs beside each other and cleans up."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

BUILD = os.environ.get("DETSHARE_BUILDDIR") or os.environ.get("DETSHARE_BUILD")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from colocation import bars, figures, settings  # noqa: E402
from colocation.figure import svg  # noqa: E402
from colocation.plan import Plan, repetition  # noqa: E402
from colocation.settings import GROUPS, ROWS, custom_row, partition_of  # noqa: E402
from colocation.table import lines  # noqa: E402

pytestmark = pytest.mark.timeout(180)


# Numbers

@pytest.mark.parametrize("values, part, want", [
    ([], 0.5, None), ([3], 0.99, 3), ([1, 2], 0.5, 1), ([3, 1, 2], 0.5, 2), (range(1, 101), 0.99, 99), (range(1, 201), 0.99, 198),
    (range(1, 1001), 0.5, 500)])
def test_percentiles(values, part, want):
    assert figures.percentile(list(values), part) == want


def test_outputs_are_compared_as_far_as_both_go():
    assert figures.same([1, 2, 3, 4, 5], [1, 2, 3, 4]) is True
    assert figures.same([1, 2, 3, 4, 5], [1, 2, 3, 5]) is False
    assert figures.same([1, 2, 3], [1, 2, 3]) is None, "too few"
    assert figures.same([], [1]) is None


def report(rate=10.0, p50=1.0, p99=1.5, worst=1.9, digests=(1, 2, 3, 4, 5), first=None):
    found = {"rate": rate, "steps": 5, "digests": list(digests), "facts": {}, "step_p50_ms": p50, "step_p99_ms": p99,
             "step_max_ms": worst}
    return found | ({"first_p50_ms": first, "first_p99_ms": first} if first else {})


def result(row, group, *programs, works=None, repetition=0):
    works = list(range(len(programs))) if works is None else works
    return {"key": f"{row}{group}{works}{repetition}", "row": row, "group": group, "works": works, "repetition": repetition, "ok": True,
            "programs": [{"name": name, "index": index} | found for index, (name, found) in zip(works, programs)]}


def test_a_programs_single_steps_become_a_summary():
    out = figures.summary({"steps_ms": [1, 2, 3], "first_ms": [9], "work": 30, "seconds": 2.0, "digests": [7]})
    assert out == {"rate": 15.0, "steps": 3, "digests": [7], "facts": {}, "step_p50_ms": 2, "step_p99_ms": 3, "step_max_ms": 3,
                   "first_p50_ms": 9, "first_p99_ms": 9, "first_max_ms": 9}


def good():
    """Measurements in which every bar holds."""
    found = [result("alone", "decode", ("decode", report(10, 1.0, 1.1, 1.2, first=2.0))), result("alone", "train", ("train", report(4))),
             result("alone", "small", ("small", report(8))), result("alone", "compute", ("compute", report(8)))]
    found.append(result("detshare lend", "decode+train", ("decode", report(10, 1.0, 1.2, 1.8, first=4.0)), ("train", report(3.2))))
    for n in 2, 4:
        group = f"small x{n}"
        for row, total in ("time slices", 1.0), ("MPS", 1.6), ("detshare lend", 1.6):
            found.append(result(row, group, *[("small", report(8 * total / n))] * n))
    found.append(result("detshare static", "copy+compute", ("compute", report(3.95)), ("copy", report(1))))
    found.append(result("in its share", "copy+compute", ("compute", report(4)), works=[0]))
    return found


def test_relative_to_alone():
    entry = bars.one(figures.relative(good()), "detshare lend", "decode+train", "decode")
    assert entry["rate_rel"] == 1 and entry["step_p99_ms_rel"] == pytest.approx(1.2 / 1.1) and entry["worst_rel"] == pytest.approx(1.8)
    assert entry["first_p99_ms_rel"] == 2 and entry["equal"] is True and entry["runs"] == 1
    assert figures.sums(figures.relative(good()))["MPS", "small x4"] == pytest.approx(1.6)


def test_medians_over_repetitions_and_the_worst_of_all():
    found = good() + [result("detshare lend", "decode+train", ("decode", report(10, 1.0, p99, worst)), ("train", report(rate)), repetition=r)
                      for r, (p99, worst, rate) in enumerate([(1.1, 1.9, 3.0), (9.0, 30.0, 1.0)], 1)]
    decode, train = (bars.one(figures.relative(found), "detshare lend", "decode+train", name) for name in ("decode", "train"))
    assert decode["step_p99_ms"] == 1.2 and decode["worst_rel"] == 30 and train["rate"] == 3.0 and decode["runs"] == 3


def test_bars_hold_and_fail():
    held = bars.verdicts(figures.relative(good()))
    assert [verdict.held for verdict in held] == [True] * len(held)
    changes = {0: ("decode", {"p99": 1.3}), 1: ("decode", {"worst": 2.1}), 2: ("train", {"rate": 2.9})}
    for index, (name, change) in changes.items():
        found = [r for r in good() if (r["row"], r["group"]) != ("detshare lend", "decode+train")]
        programs = {"decode": {"rate": 10, "p50": 1.0, "p99": 1.2, "worst": 1.8}, "train": {"rate": 3.2}}
        programs[name] |= change
        found.append(result("detshare lend", "decode+train", *((n, report(**p)) for n, p in programs.items())))
        assert [i for i, v in enumerate(bars.verdicts(figures.relative(found))) if not v.held] == [index]
        assert "FAILED" in str(bars.verdicts(figures.relative(found))[index])
    less = [r if (r["row"], r["group"]) != ("detshare lend", "small x4") else
            result("detshare lend", "small x4", *[("small", report(8 * 1.3 / 4))] * 4) for r in good()]
    assert [v.bar for v in bars.verdicts(figures.relative(less)) if not v.held] == \
        ["small x4: sum of rates, times MPS", "small x4: sum of rates, times time slices"]
    slow = [r for r in good() if r["row"] != "detshare static"] + \
        [result("detshare static", "copy+compute", ("compute", report(3.8)), ("copy", report(1)))]
    assert [v.held for v in bars.verdicts(figures.relative(slow))][-1] is False


def test_what_was_not_measured_is_neither_held_nor_failed():
    assert {verdict.held for verdict in bars.verdicts([])} == {None}
    assert {verdict.held for verdict in bars.verdicts(figures.relative(good()[:4]))} == {None}


def test_outputs_that_differ_are_found_in_our_rows_only():
    odd = report(10, digests=(1, 2, 3, 4, 6))
    for row, n in ("detshare lend", 1), ("MPS percent", 0):
        entries = figures.relative(good() + [result(row, "copy+compute", ("compute", odd), ("copy", odd))])
        assert len(bars.different(entries, lambda name: name in ROWS and ROWS[name].must_equal)) == n
    varies = good() + [result("alone", "compute", ("compute", odd), repetition=1), result("detshare lend", "copy+compute", ("compute", odd))]
    entries = figures.relative(varies)
    assert not bars.different(entries, lambda name: True), "it differs from itself alone"
    assert "varies alone" in "\n".join(lines(varies, entries))


# Plan

def test_a_repetition_has_every_run_once_and_goes_both_ways():
    runs = repetition(0, list(GROUPS.values()), list(ROWS.values()))
    assert len({run.key for run in runs}) == len(runs)
    assert [run.row.name for run in runs[:12]] == ["alone"] * 12, "each twice: does it repeat itself?"
    runs = [run for run in runs if run.repetition == 0]
    back = repetition(1, list(GROUPS.values()), list(ROWS.values()))
    assert [(run.row, run.group, run.works) for run in reversed(back)] == [(run.row, run.group, run.works) for run in runs]
    assert {run.works for run in runs if run.row.name == "in its share"} == {(0,), (1,)}
    assert {run.group.name for run in runs if run.row.latency_only} == {"decode+train", "prefill+decode"}


def test_the_plan_keeps_to_the_time():
    plan, spent = Plan([GROUPS["decode+train"]], [ROWS["MPS"]], 100, 4), 0
    for n, _ in enumerate(plan, 1):
        plan.took(7)
        spent += 7
    assert spent <= 100 and n >= 12
    plan = Plan([GROUPS["decode+train"]], [ROWS["MPS"]], 59, 4)
    first, second = next(plan), next(plan)  # the second before the first is over
    plan.took(20)
    plan.took(20)
    assert first.key != second.key and list(plan) == [], "a third would not fit"


def test_what_is_done_is_not_done_again():
    every = [run.key for run in repetition(0, [GROUPS["small x2"]], [ROWS["MPS"]])]
    assert next(Plan([GROUPS["small x2"]], [ROWS["MPS"]], 100, 1, every)).repetition == 1


def test_static_partitions_cover_the_gpu_once():
    for group in GROUPS.values():
        cuts = [partition_of(group.programs, i, 15) for i in range(len(group.programs))]
        assert cuts[0][0] == 0 and cuts[-1][1] == 15 and all(a < b for a, b in cuts)
        assert all(one[1] == other[0] for one, other in zip(cuts, cuts[1:]))


def test_rows_of_ones_own():
    row = custom_row("quick=site.policy=lend,site.latency.reclaim_budget=100,node.memory_reserve=1G")
    assert row.kind == "detshare" and row.site == {"policy": "lend", "latency.reclaim_budget": "100"} and row.node == {"memory_reserve": "1G"}
    assert row.must_equal and not row.shares
    assert custom_row("wide=site.policy=static,shares=0.75:0.25").shares == (0.75, 0.25)
    for wrong in ("", "MPS=site.policy=lend", "x=policy=lend", "x=site.policy", "=site.policy=lend", "x=shares=0.5", "x=shares=0.6:0.6",
                  "x=shares=half:half", "x=shares=1:0"):
        with pytest.raises(ValueError):
            custom_row(wrong)


def test_shares_fit():
    assert all(sum(program.share for program in group.programs) <= 1 for group in GROUPS.values())
    assert settings.ALONE.name not in ROWS


# What is shown

def test_the_table_and_the_figure():
    found = good() + [{"key": "x", "row": "MPS", "group": "small x2", "works": [0], "repetition": 1, "ok": False, "why": "<broken & gone>"}]
    entries = figures.relative(found)
    text = "\n".join(lines(found, entries))
    assert "decode+train, relative to alone" in text and "FAILED x: <broken & gone>" in text and "as alone" in text
    root = ElementTree.fromstring(svg(entries, "a <title> & more"))
    words = "".join(root.itertext())
    assert "a <title> & more" in words and "detshare lend" in words and "small x4" in words
    assert ElementTree.fromstring(svg([], "nothing")) is not None


# The whole, on an emulated GPU

emulated = pytest.mark.skipif(not BUILD or os.geteuid() != 0, reason="needs a built tree (DETSHARE_BUILDDIR) and root")


@pytest.fixture
def place():
    """Not pytest's directory: names of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="dsco-", dir="/tmp") as made:
        yield Path(made)


def colocate(tmp_path, *more, **options):
    command = [sys.executable, "-B", HERE / "colocate", "--emulated", BUILD, "--results", tmp_path / "out", "--seconds", "0.15", *more]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    return subprocess.Popen([str(word) for word in command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **options)


def finish(process):
    out, err = process.communicate(timeout=150)
    return process.returncode, out, err


def left(tmp_path):
    """Directories and processes of a run that is over."""
    found = [path.name for path in tmp_path.iterdir() if path.name.startswith("colocate-")]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{tmp_path}/colocate-".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            pass
    return found


@emulated
def test_every_row_runs_and_leaves_nothing(place):
    """Bars of a GPU mean nothing here; that all was measured, and outputs are equal, does."""
    process = colocate(place, "--minutes", "0.6", "--groups", "decode+train", "--row", "wrong=site.no_such_key=1",
                       "--row", "quick=site.policy=static,site.latency.max_share=1")
    status, out, err = finish(process)
    made = json.loads((place / "out/colocate.json").read_text())
    rows = {entry["row"] for entry in made["relative"]}
    assert rows == set(ROWS) | {"quick"}, out + err
    assert "0 outputs differ" in out
    failed = {result["row"]: result["why"] for result in made["results"] if not result["ok"]}
    assert list(failed) == ["wrong"] and "no_such_key" in failed["wrong"]
    assert all(entry["equal"] for entry in made["relative"] if entry["row"] != "MPS percent"), out
    assert status in (0, 1) and (place / "out/colocate.svg").read_text().startswith("<svg")
    assert made["versions"]["gpu"] == "emulated" and made["versions"]["detshare"]
    assert left(place) == []
    decode = bars.one(made["relative"], "detshare static", "decode+train", "decode")
    assert decode["first_p99_ms"] and decode["request_p99_ms"]


@emulated
def test_a_row_that_cannot_run_is_left_out(place):
    """So it does not take the time of the others."""
    process = colocate(place, "--minutes", "0.3", "--groups", "small x2", "--rows", "time slices", "--row", "wrong=site.no_such_key=1")
    status, out, err = finish(process)
    assert status in (0, 1) and "wrong failed 2 times in a row and is left out" in out, out + err
    assert len([result for result in json.loads((place / "out/colocate.json").read_text())["results"] if not result["ok"]]) == 2
    assert left(place) == []


@emulated
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_cut_keeps_what_it_has_and_goes_on(place, number):
    process = colocate(place, "--minutes", "5", "--groups", "small x2", start_new_session=True)
    path = place / "out/colocate.json"
    end = time.monotonic() + 60
    while not (path.exists() and len(json.loads(path.read_text())["results"]) >= 3):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 2 and "--resume goes on" in err
    assert left(place) == []
    before = [result["key"] for result in json.loads(path.read_text())["results"]]
    finish(colocate(place, "--minutes", "0.1", "--groups", "small x2", "--resume"))
    after = [result["key"] for result in json.loads(path.read_text())["results"]]
    assert after[:len(before)] == before and len(after) > len(before) and len(set(after)) == len(after)
    assert left(place) == []


@emulated
def test_a_program_that_dies_fails_its_run_only(place):
    process = colocate(place, "--minutes", "5", "--seconds", "3", "--groups", "small x2", "--rows", "MPS,detshare static")
    end = time.monotonic() + 60
    victims = []
    while not victims:
        assert time.monotonic() < end and process.poll() is None
        victims = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_worker(entry, place)]
        time.sleep(0.02)
    os.kill(victims[0], signal.SIGKILL)
    path = place / "out/colocate.json"
    while not (path.exists() and [r for r in json.loads(path.read_text())["results"] if not r["ok"]]):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    why = [r["why"] for r in json.loads(path.read_text())["results"] if not r["ok"]]
    assert "has ended" in why[0]
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 2
    assert left(place) == []


def is_worker(entry, place):
    try:
        return b"colocation/programs" in (entry / "cmdline").read_bytes() and \
            f"{place}/colocate-".encode() in (entry / "environ").read_bytes()
    except OSError:
        return False


def test_wrong_arguments_cost_one_line(tmp_path):
    for more in ("--groups", "none"), ("--rows", "none"), ("--row", "MPS=site.policy=lend"):
        done = subprocess.run([sys.executable, "-B", HERE / "colocate", "--results", tmp_path, *more], text=True, capture_output=True, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
