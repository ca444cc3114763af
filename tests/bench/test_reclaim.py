# SPDX-License-Identifier: Apache-2.0
"""tests/bench/bench_reclaim: what it makes of measurements, and that it measures on an emulated GPU and cleans up."""
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BUILD = os.environ.get("DETSHARE_BUILDDIR") or os.environ.get("DETSHARE_BUILD")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from reclaiming import figures  # noqa: E402
from reclaiming.figures import Kernels, Run  # noqa: E402
from reclaiming.phases import mask  # noqa: E402

pytestmark = pytest.mark.timeout(180)
US = 1000
SHAPE = {"sms": 34, "groups": 8, "group_sms": 4, "rest_sms": 2}


# Numbers

@pytest.mark.parametrize("text, want", [
    ("none", set()), ("0", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,5,7+rest", {0, 1, 5, 7, 8}), ("rest", {8})])
def test_groups_are_read_as_status_writes_them(text, want):
    assert figures.groups_of(text, 8) == want


def test_groups_as_sms_and_bits():
    assert figures.sms_of({0, 1, 8}, SHAPE) == 10 and figures.sms_of({2}, SHAPE) == 4
    assert mask({0, 3, 64, 65}) == "9 3"


def kernels(*ends, sms=30, length=10):
    return [Run(end * US - length * US, end * US, sms) for end in ends]


def test_work_is_counted_by_parts_of_kernels():
    ran = Kernels(kernels(10, 20, 30, 50))  # the last one waited for 10
    assert ran.between(0, 50 * US) == 4 and ran.between(10 * US, 20 * US) == 1
    assert ran.between(15 * US, 25 * US) == pytest.approx(1) and ran.between(30 * US, 40 * US) == pytest.approx(0.5)
    assert ran.between(60 * US, 70 * US) == 0 and ran.between(0, 5 * US) == pytest.approx(0.5)
    assert ran.rate([(10 * US, 20 * US), (30 * US, 50 * US)]) == pytest.approx(2 / 30e-6)
    assert ran.rate([]) is None and Kernels([]).rate([(0, 10)]) == 0


CYCLE = {"lent_ns": 0, "request_ns": 100 * US, "begun_ns": 103 * US, "grant_ns": 140 * US, "before_ns": 139 * US, "idle_ns": 300 * US,
         "first": 1, "last": 4}


def test_a_cycle_is_timed_from_the_request_and_from_the_last_kernel_on_the_owners_sms():
    wide = kernels(90, 110, 120) + kernels(320)
    owner = [Run(0, 90 * US, 18), Run(105 * US, 130 * US, 4), Run(141 * US, 160 * US, 18), Run(165 * US, 170 * US, 18)]
    times = figures.cycle_times(CYCLE, wide, owner, 18)
    assert times == {"request_to_grant": 40 * US, "end_to_grant": 20 * US, "in_flight": True, "first_call": 3 * US, "request_to_kernel": 60 * US}
    assert figures.meetings(wide, owner[1:], 18, 0) == 0


def test_with_nothing_in_flight_it_is_the_request_that_counts():
    for wide in [], kernels(50, 60):
        times = figures.cycle_times(CYCLE, wide, [], 18)
        assert not times["in_flight"] and times["end_to_grant"] == times["request_to_grant"] and "request_to_kernel" not in times


@pytest.mark.parametrize("run, met", [
    (Run(130 * US, 139 * US, 30), 0), (Run(130 * US, 142 * US, 30), 0), (Run(130 * US, 144 * US, 30), 1), (Run(150 * US, 155 * US, 30), 1),
    (Run(130 * US, 400 * US, 30), 1), (Run(158 * US, 170 * US, 30), 0), (Run(310 * US, 320 * US, 30), 0)])
def test_a_borrowers_kernel_that_meets_the_owners_is_found(run, met):
    """Beyond what the clocks leave open, 3 us."""
    owner = [Run(100 * US, 130 * US, 4), Run(140 * US, 160 * US, 18)]
    assert figures.meetings([*kernels(90), run], owner, 18, 3 * US) == met


def measured(kernel_us=50, cycles=200, late_us=20, pause_us=1000):
    """An owner that asks again and again, and a borrower whose last kernel ends 100 us later."""
    each, found, runs, owner, at = (pause_us + 1000) * US, [], [], [], 0
    for i in range(cycles):
        base = i * each
        request = base + pause_us * US
        grant = request + (100 + late_us) * US
        found.append({"lent_ns": base, "request_ns": request, "begun_ns": request + 4 * US, "grant_ns": grant, "before_ns": grant - US,
                      "idle_ns": base + each, "first": 2 * i, "last": 2 * i + 2})
        while at < request + 100 * US:
            runs.append(Run(at, at + kernel_us * US, 30))
            at += kernel_us * US
        while at < base + each:
            runs.append(Run(at, at + 2 * kernel_us * US, 16))
            at += 2 * kernel_us * US
        owner += [Run(request, request + US, 4), Run(grant + US, grant + 30 * US, 18)]
    return {"kernel_us": kernel_us, "budget_us": 200, "device": "a GPU", "units": 100, "whole": 1e6 / kernel_us, "windowless": 1e6 / kernel_us,
            "shape": SHAPE, "owner_groups": {0, 1, 2, 3, 8}, "borrower_groups": {4, 5, 6, 7}, "steady": (0, pause_us * US), "owner_runs": owner,
            "borrower_runs": runs, "cycles": found, "failure": "", "error_ns": 1500, "outside_ns": -2000}


def test_all_figures_and_bars_of_one_length():
    entry = figures.entry(measured(), True)
    assert entry["request_to_grant_us"] == {"p50": 120, "p99": 120, "max": 120} and entry["end_to_grant_us"]["p99"] == 20
    assert entry["request_to_kernel_us"]["p50"] == 150 and entry["in_flight"] == 200 and entry["met"] == 0
    borrower = entry["borrower"]
    assert borrower["lent_of_whole"] == pytest.approx(1, abs=0.01) and borrower["own_of_whole"] == pytest.approx(0.5, abs=0.01)
    assert borrower["own_of_whole"] < borrower["all_of_whole"] < 1 and borrower["lent_sms_of_whole"] == round(30 / 34, 4)
    assert [bar["holds"] for bar in entry["bars"]] == [True] * 3
    text = "\n".join(figures.lines(entry))
    assert text.count("held") == 3 and "emulated" not in text


def test_bars_are_missed_one_by_one():
    def holds(**changes):
        return [bar["holds"] for bar in figures.entry(measured(**{k: v for k, v in changes.items() if k != "whole"}) |
                                                      {k: v for k, v in changes.items() if k == "whole"}, True)["bars"]]
    assert holds(late_us=60) == [False, True, True]
    assert holds(late_us=110) == [False, False, True]
    assert holds(whole=25000) == [True, True, False]
    assert holds(kernel_us=100) == [True], "the other two are of kernels of 50 us"


def test_on_an_emulated_gpu_nothing_is_judged():
    entry = figures.entry(measured(late_us=999), False)
    assert [bar["holds"] for bar in entry["bars"]] == [None] * 3 and entry["emulated"]
    assert "no bar is judged" in "\n".join(figures.lines(entry))


def test_without_a_cycle_there_is_still_something_to_say():
    entry = figures.entry(measured() | {"cycles": [], "failure": "nothing is lent any more"}, True)
    assert entry["request_to_grant_us"] is None and [bar["holds"] for bar in entry["bars"]] == [None] * 3
    text = "\n".join(figures.lines(entry))
    assert "nothing is lent any more" in text and "fewer than 100" in text


# The whole, on an emulated GPU

emulated = pytest.mark.skipif(not BUILD or os.geteuid() != 0, reason="needs a built tree (DETSHARE_BUILDDIR) and root")
# A budget that no machine is too slow for, or nothing would be lent.
QUICK = "--seconds", "0.2", "--budget-us", "5000000"


@pytest.fixture
def place():
    """Not pytest's directory: names of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="dsre-", dir="/tmp") as made:
        yield Path(made)


def reclaim(place, *more):
    command = [sys.executable, "-B", HERE / "bench_reclaim", "--emulated", BUILD, "--results", place / "out", *more]
    return subprocess.Popen([str(word) for word in command], env=os.environ | {"TMPDIR": str(place)}, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True)


def left(place):
    """Directories and processes of a run that is over."""
    found = [path.name for path in place.iterdir() if path.name.startswith("reclaim-")]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{place}/reclaim-".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            pass
    return found


@emulated
def test_an_emulated_gpu_is_measured_and_nothing_is_left(place):
    process = reclaim(place, *QUICK, "--cycles", "8", "--kernel-us", "1000", "--json")
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    (entry,) = [json.loads(line) for line in out.splitlines()]
    assert "emulated GPU" in err and entry["emulated"] and "mulated" in entry["device"]
    assert entry["cycles"] == 8 and entry["failure"] == "" and 1 <= entry["in_flight"] <= 8
    for name in "request_to_grant_us", "end_to_grant_us", "request_to_kernel_us", "first_call_us", "seen_late_us":
        assert 0 <= entry[name]["p50"] <= entry[name]["p99"] <= entry[name]["max"], name
    for part in "p50", "p99", "max":
        assert 0 < entry["end_to_grant_us"][part] <= entry["request_to_grant_us"][part]
    assert entry["met"] == 0
    # Every time of a kernel is one that the host could have seen, as far as the clocks are known.
    assert entry["outside_us"] <= entry["clock_error_us"] + 0.2
    borrower = entry["borrower"]
    assert all(value > 0 for value in borrower.values()), borrower
    assert borrower["own_sms_of_whole"] < borrower["lent_sms_of_whole"] < 1
    assert {bar["holds"] for bar in entry["bars"]} == {None}
    made = json.loads((place / "out/reclaim.json").read_text())
    assert made["entries"] == [entry] and len(made["measured"][0]["cycles"]) == 8 and made["versions"]["gpu"] == "emulated"
    for cycle in made["measured"][0]["cycles"]:
        assert cycle["lent_ns"] < cycle["request_ns"] < cycle["begun_ns"] < cycle["idle_ns"]
        assert cycle["request_ns"] < cycle["grant_ns"] < cycle["idle_ns"] and cycle["before_ns"] <= cycle["grant_ns"]
    assert "no bar is judged" in (place / "out/reclaim.txt").read_text()
    assert left(place) == []


@emulated
def test_one_that_is_cut_short_leaves_nothing(place):
    process = reclaim(place, *QUICK, "--cycles", "100000")
    for line in process.stderr:
        if "beside an owner" in line:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2 and "ended by SIGTERM" in err and out == ""
    assert left(place) == []


@emulated
def test_what_fails_is_told_in_one_line_and_leaves_nothing(place):
    process = reclaim(place, *QUICK, "--gpu", "7")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2 and out == ""
    assert err.splitlines()[-1].startswith("bench_reclaim: has ended with status"), err
    assert left(place) == []


def test_wrong_arguments_cost_one_line():
    for more in ("--kernel-us", "0"), ("--kernel-us", "fifty"), ("--cycles", "0"), ("--node", "realtime"):
        done = subprocess.run([sys.executable, "-B", HERE / "bench_reclaim", *more], text=True, capture_output=True, check=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
