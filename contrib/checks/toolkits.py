# SPDX-License-Identifier: Apache-2.0
"""Stage that holds the coroutine library against the headers of other CUDA Toolkits."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .builds import run_pytest
from .results import Results
from .runner import Runner, one


def toolkits(run: Runner) -> Results:
    """the table of driver calls against the headers of CUDA 12.4 to the newest; oldest and newest compile"""
    folders = sorted((run.out / "toolkits").glob("*/include"), key=_version)
    found = Results()
    if not folders:
        found.skip("toolkits: no headers could be fetched (see log/toolkits-fetch.log)")
        return found
    tree = run.configure("gcc", CC="gcc")
    run.make(tree, "-C", "common")
    run.make(tree, "-C", "noderuntime/coroutine")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for part in pool.map(lambda folder: _table(run, tree, folder), folders):
            found.add(part)
        for folder in {folders[0], folders[-1]}:
            for part in pool.map(lambda file, headers=folder: _compiles(run, tree, headers, file),
                                 sorted((run.top / "noderuntime" / "coroutine").glob("*.c"))):
                found.add(part)
    tests = run.top / "tests" / "unit" / "test_hooks_table.py"
    found.add(run_pytest(run, tree, "toolkits", [tests], DETSHARE_CUDA_INCLUDE=folders[-1]))
    return found


def _version(include: Path) -> tuple:
    return tuple(int(part) for part in include.parent.name.split("."))


def _table(run: Runner, tree: Path, headers: Path) -> Results:
    source = run.top / "noderuntime" / "coroutine"
    status, output = run.capture(source / "check_hooks.py", DS_CPP=f"cpp -isystem {headers}",
                                 DS_TABLE=str(source / "hooks.def"),
                                 DS_LIBRARY=str(tree / "noderuntime/coroutine/.libs/libdetshare-cuda.so"))
    return one(status == 0, f"check_hooks with {headers.parent.name}: {(output.splitlines() or ['no output'])[0]}")


def _compiles(run: Runner, tree: Path, headers: Path, file: Path) -> Results:
    status, output = run.capture("gcc", "-std=gnu11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
                                 f"-I{tree}", f"-I{run.top}", "-isystem", headers, "-include", tree / "config.h", file)
    return one(status == 0, f"{file.name} with CUDA {headers.parent.name}: {(output.splitlines() or ['no output'])[0]}")
