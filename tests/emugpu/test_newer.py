# SPDX-License-Identifier: Apache-2.0
"""Calls of drivers newer than the headers: the library knows them, and what a program does with them is as alone."""

import pytest

from coroutine_host import GPU, LIBRARY, sms_of

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


def run(host, experiment, runtime=None, **more):
    ended = host.run(GPU / "newer_program", experiment, runtime=runtime, preload=bool(runtime), check=False,
                     EMUGPU_CUDA_VERSION=13050, **more)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("experiment", ["work", "resources", "nodes"])
@pytest.mark.parametrize("chaos", ["", "1", "3:2"])
def test_newer_calls_are_as_alone(host, runtime, experiment, chaos):
    alone = run(host, experiment)
    host.clear()
    granter = runtime(groups=(0, 2, 3, 5, 6))
    assert run(host, experiment, granter, DETSHARE_CHAOS=chaos) == alone
    assert host.sms() <= sms_of((0, 2, 3, 5, 6))
    if chaos == "1" and experiment != "resources":
        assert granter.port().remaps > 20


def test_an_older_driver_has_none_of_them(host, runtime):
    alone = host.run(GPU / "newer_program", "work", preload=False, check=False, EMUGPU_CUDA_VERSION=13000)
    inside = host.run(GPU / "newer_program", "work", runtime=runtime(groups=(1,)), check=False, EMUGPU_CUDA_VERSION=13000)
    assert alone.returncode == inside.returncode == 77
    assert alone.stdout == inside.stdout == "the driver has no cuLaunchHostFunc of 13010\n"
