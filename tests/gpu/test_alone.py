# SPDX-License-Identifier: Apache-2.0
"""Programs whose output must not tell alone and inside apart: contexts of a program's own, all that can be asked, threads, resets."""

import concurrent.futures
import difflib
import os
import re

import pytest

from test_gpu import DETSHARE, PROGRAMS, nothing_left, pytestmark, run  # noqa: F401 (a fixture)

MINUTES = 1.2
AT_ONCE = 4
CHAOS = "", "1:1", "3:2"
# Green contexts and affinity may say that the partition is too small.
ALIKE = [(program, experiment) for program, experiments in (
    ("context_program", "stack settings work threads graphs many forgets reset green code"),
    ("query_program", "primary created"),
    ("life_program", "devices threads-end resets in-order ipc"),
    ("newer_program", "work resources nodes"),
    ("lookup_program", "odd again versions")) for experiment in experiments.split()]

__all__ = ["pytestmark"]


def without_places(text):
    """Where a function lies is the library's affair; and whether there is MPS (attribute 133, affinity) is the site's."""
    text = re.sub(r"\S+ lib(cuda|detshare-cuda)\.so\S*", "found", text)
    return re.sub(r"^  (affinity|attribute 0 133 =) .*\n", "", text, flags=re.M)


@pytest.fixture(scope="module")
def outcomes():
    """All of them, several at a time: one by one they only wait for the driver to start. Those without detshare first."""
    found = {}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for kinds in ([None], CHAOS):
            runs = {}
            for program, experiment in ALIKE:
                for chaos in kinds:
                    inside = () if chaos is None else (DETSHARE, "run", "--share", f"{1 / AT_ONCE}", "--")
                    runs[program, experiment, chaos] = pool.submit(run, *inside, PROGRAMS / program, experiment, check=False, timeout=60,
                                                                   env=dict(os.environ, DETSHARE_CHAOS=chaos or ""))
            for name, future in runs.items():
                error = future.exception()
                found[name] = error or future.result()
    return found


@pytest.mark.parametrize("chaos", CHAOS)
@pytest.mark.parametrize("program, experiment", ALIKE)
def test_as_alone(outcomes, program, experiment, chaos):
    before, inside = outcomes[program, experiment, None], outcomes[program, experiment, chaos]
    for one in before, inside:
        if isinstance(one, Exception):
            raise one
    if before.returncode == 77:
        pytest.skip(f"{experiment}: this machine or driver cannot do it")
    assert before.returncode == 0, before.stderr
    assert inside.returncode == 0, inside.stderr
    different = list(difflib.unified_diff(*(without_places(one.stdout).splitlines() for one in (before, inside)), "alone", "inside", n=1, lineterm=""))
    assert not different, "\n".join(different)
