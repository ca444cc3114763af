# SPDX-License-Identifier: Apache-2.0
"""What most tests of the coroutine library begin with; others have a `host` of their own."""

import pytest

from coroutine_host import Host, Runtime


@pytest.fixture
def host(tmp_path):
    """An emulated host with one GPU."""
    return Host(tmp_path / "emugpu")


@pytest.fixture
def runtime(tmp_path, host):
    """Makes node runtimes of the GPU, which end with the test."""
    made = []

    def make(**arguments):
        made.append(Runtime(tmp_path / f"port{len(made)}", **({"uuid": host.uuid} | arguments)))
        return made[-1]

    yield make
    for one in made:
        one.close()
