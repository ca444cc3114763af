# SPDX-License-Identifier: Apache-2.0
"""More streams than hardware queues: each of the program's has one in every partition it has been in."""

import subprocess

import pytest

from coroutine_host import GPU, LIBRARY

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="DETSHARE_BUILD does not name a build (contrib/check sets it)"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("queues", [1, 2, 8, 32])
@pytest.mark.parametrize("chaos", [{}, {"DETSHARE_CHAOS": "1:3"}, {"DETSHARE_CHAOS": "7:4"}])
def test_many_streams_in_many_partitions_that_wait_for_each_other(host, runtime, queues, chaos):
    """32 streams in up to 8 partitions: 256 of the driver's. An order is one of the calls, so no circle can close."""
    command = [GPU / "streams_program", 32, 12, 5]
    alone = host.run(*command, preload=False, CUDA_DEVICE_MAX_CONNECTIONS=queues, EMUGPU_QUEUES=1)
    granter = runtime(groups=tuple(range(6)))
    inside = host.run(*command, runtime=granter, CUDA_DEVICE_MAX_CONNECTIONS=queues, EMUGPU_QUEUES=1, **chaos)
    assert inside.stdout == alone.stdout and " wrong 0 " in inside.stdout
    assert inside.stderr == ""
    assert granter.port().remaps > 100 or not chaos


def test_the_number_of_queues_is_the_users(host, runtime):
    """Channels of the GPU are few under MPS: 32 for each context, and the next programs get error 809."""
    assert "CONNECTIONS" not in host.run("/usr/bin/env", runtime=runtime()).stdout


def test_a_stream_that_waits_for_what_another_does_later_holds_nobody_up(host, runtime):
    """As long as there are queues: its own is its own, also when it has been to four partitions."""
    queues = {"CUDA_DEVICE_MAX_CONNECTIONS": 32, "EMUGPU_QUEUES": 1}
    alone = host.experiment("wake", preload=False, **queues)
    inside = host.experiment("wake", runtime(groups=tuple(range(6))), **queues)
    assert inside.stdout == alone.stdout and inside.stderr == ""
    with subprocess.Popen([GPU / "ahead_program"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=host.environment(runtime(groups=(0, 1)), **queues)) as run:
        run.communicate("block 1\nspin 2 10 10\nrelease\nsync\n", timeout=60)
    assert run.returncode == 0
