# SPDX-License-Identifier: Apache-2.0
"""What the coroutine library measures of a program, on the emulated GPU, whose kernels last as long as they say."""

import json

import pytest

from test_coroutine import GPU, LIBRARY, host, runtime  # noqa: F401 (fixtures)

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

ROUNDING = 1 / 32  # of the sketch


@pytest.fixture
def report(host, runtime, tmp_path):  # noqa: F811
    def run(name, *programs, **more):
        path = tmp_path / f"report{len(list(tmp_path.iterdir()))}"
        run.granter = runtime(groups=(0, 1))
        done = host.experiment(name, run.granter, DETSHARE_REPORT=path, **more)
        assert done.stderr == ""
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return run


def about(value, low, high):
    return low * (1 - ROUNDING) <= value <= high * (1 + ROUNDING)


def test_every_launch(report):
    one, = report("measured", DETSHARE_SAMPLE=1)
    assert one["launches"] == one["samples"] == 60
    assert one["steps"] == 50
    assert about(one["step_p50_us"], 1000, 5000)
    assert about(one["step_p99_us"], 6000, 28000), "the pauses of 30 ms are no part of a step"
    assert 0.1 <= one["busy_gpu_s"] < 0.12
    by_grid = {tuple(kernel["grid"]): kernel for kernel in one["kernels"]}
    assert {kernel["name"] for kernel in one["kernels"]} == {"spin_us"}
    assert set(by_grid) == {(1, 1, 1), (2, 1, 1)}
    assert by_grid[1, 1, 1]["samples"] == 40 and about(by_grid[1, 1, 1]["gpu_us"], 1000, 1200)
    assert by_grid[2, 1, 1]["samples"] == 20 and about(by_grid[2, 1, 1]["gpu_us"], 3000, 3300)
    assert by_grid[2, 1, 1]["block"] == [1, 1, 1]


def test_some_launches(report):
    """Sampled at random, the estimate is the same but for the spread."""
    one, = report("measured", DETSHARE_SAMPLE=3)
    assert one["launches"] == 60 and one["steps"] == 50
    assert 10 <= one["samples"] <= 30
    assert 0.06 < one["busy_gpu_s"] < 0.18
    assert sum(kernel["launches"] for kernel in one["kernels"]) == pytest.approx(60, abs=2)


def test_no_samples(report):
    one, = report("measured", DETSHARE_SAMPLE=0)
    assert one["launches"] == 60 and one["samples"] == 0 and one["busy_gpu_s"] == 0
    assert one["steps"] == 50 and about(one["step_p50_us"], 1000, 5000)
    assert one["kernels"] == []


@pytest.mark.parametrize("experiment", ["work", "order", "order-chains", "capture", "graphs", "reset", "threads",
                                        "fork-after", "properties"])
@pytest.mark.parametrize("chaos", [{}, {"DETSHARE_CHAOS": "2:7"}])
def test_sampling_changes_nothing(host, runtime, experiment, chaos):  # noqa: F811
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    inside = host.experiment(experiment, runtime(groups=(1, 2)), DETSHARE_SAMPLE=1, **chaos)
    assert inside.stdout.splitlines() == alone.stdout.splitlines()
    assert inside.stderr == ""


def test_a_line_for_each_process_that_uses_the_gpu(report):
    assert len(report("fork-before", DETSHARE_SAMPLE=1)) == 1, "its child ends by _exit(2)"
    assert [line["launches"] for line in report("fork-after", DETSHARE_SAMPLE=1)] == [2]
    assert report("without-cuda") == []


def test_a_program_that_moves_is_measured_all_the_same(report):
    one, = report("measured", DETSHARE_SAMPLE=1, DETSHARE_CHAOS="1:3")
    assert one["launches"] == one["samples"] == 60
    assert one["remaps"] > 0 and one["stalls"] == 0
    assert about(one["step_p50_us"], 1000, 5000)


def test_threads_share_the_pool(report):
    one, = report("threads", DETSHARE_SAMPLE=1)
    assert 0 < one["samples"] <= one["launches"]


def test_after_a_reset_events_are_made_anew(report):
    one, = report("reset", DETSHARE_SAMPLE=1)
    assert one["samples"] > 0
