# SPDX-License-Identifier: Apache-2.0
"""Launches that need all SMs at once: in half of the GPU as alone, with and without a neighbour that has to stop."""

import os

import pytest

from test_gpu import GPUWORK, INFORMATION, NODERUNTIME, PROGRAMS, end, residents, run, save, task, wait_for

MINUTES = 1.0
NAMES = "job-900051", "job-900052"
GRANT = "v=1,class=throughput,kind=throughput,share=500,isolation=user,config=0000000000000000"
WHOLE = str(PROGRAMS / "whole_program")
TOO_LARGE = 720

pytestmark = pytest.mark.skipif(
    not INFORMATION, reason="this machine has no NVIDIA GPU (no /proc/driver/nvidia/gpus)")


@pytest.fixture(autouse=True)
def named():
    """`meet` is a kernel with a barrier of its own."""
    os.environ["DETSHARE_WHOLE_GPU"] = "meet"
    yield
    del os.environ["DETSHARE_WHOLE_GPU"]


@pytest.fixture
def pair():
    """Two allocations of half of the GPU each."""
    for name in NAMES:
        run(NODERUNTIME, "begin", "--allocation", name, "--uid", "0", "--gpu", "0", "--grant", GRANT)
    yield NAMES
    for name in NAMES:
        end(name)


def resident(name):
    return next(r for r in residents() if r["allocation"] == name)


def result(program):
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    return out.splitlines()[-1]


def alone(*arguments):
    return run(WHOLE, *arguments, input="\n").stdout.splitlines()[-1]


@pytest.mark.parametrize("how", ["cooperative", "attribute", "plain"])
@pytest.mark.parametrize("neighbour", [False, True])
def test_a_grid_for_the_whole_gpu(pair, how, neighbour):
    """As many blocks as the GPU says it can hold: they all meet, whatever else is on it."""
    expected = alone(how, 20, 0, 200)
    assert "error 0" in expected
    beside = task(pair[1], GPUWORK, "spin", "--block-us", 50, "--seconds", 5, "--json") if neighbour else None
    if beside:
        wait_for(lambda: resident(pair[1])["programs"], "the neighbour")
    assert result(task(pair[0], WHOLE, how, 20, 0, 200)) == expected
    windows = resident(pair[0])["whole_gpu"]
    assert windows["windows"] >= 1 and windows["overruns"] == windows["refusals"] == 0
    save(f"whole-{how}-{'beside' if neighbour else 'alone'}.txt",
         f"20 launches of 200 us in {windows['windows']} windows, {windows['ms']} ms\n")
    if beside:
        assert beside.communicate(timeout=60) and beside.returncode == 0


@pytest.mark.parametrize("how", ["cooperative", "attribute"])
def test_what_fits_nowhere_fails_as_alone(pair, how):
    expected = alone(how, 1, 1, 0)
    assert f"error {TOO_LARGE}" in expected
    assert result(task(pair[0], WHOLE, how, 1, 1, 0)) == expected
    assert resident(pair[0])["whole_gpu"]["windows"] == 0


def test_what_fits_in_the_half_disturbs_nobody(pair):
    few = "-" + str(int(alone("cooperative", 1, 0, 0).split()[3]) * 3 // 4)
    assert result(task(pair[0], WHOLE, "cooperative", 5, few, 100)) == alone("cooperative", 5, few, 100)
    assert resident(pair[0])["whole_gpu"]["windows"] == 0
