# SPDX-License-Identifier: Apache-2.0
"""Every program tells what it is, and ends with 2 and one line that begins with its name when it is used wrongly."""

import os
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("DETSHARE_BUILD", "."))
PROGRAMS = ("noderuntime/command/detshare", "noderuntime/detshare-noderuntime", "accounting/detshare-usaged",
            "accounting/detshare-usage-settle", "spank/detshare-giveback")


def run(program, *words):
    if not (BUILD / program).exists():
        pytest.skip(f"{BUILD / program} is not built (DETSHARE_BUILD names the build)")
    return subprocess.run([BUILD / program, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=20, check=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_version(program):
    told = run(program, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Usage: ") and max(map(len, told.stdout.splitlines())) <= 100
    told = run(program, "--version")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("detshare") and len(told.stdout.splitlines()) == 1


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", ((), ("--nope",), ("nope",)), ids=("nothing", "option", "word"))
def test_wrong_use(program, words):
    told = run(program, *words)
    assert (told.returncode, told.stdout) == (2, "")
    assert Path(program).name in told.stderr.splitlines()[0]
    assert not words or "nope" in told.stderr or "arguments" in told.stderr
