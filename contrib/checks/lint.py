# SPDX-License-Identifier: Apache-2.0
"""Stages that read the sources: each counts files."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import results
from .builds import clang
from .results import Results
from .runner import Runner, StageFailed, one

SOURCE_FOLDERS = ("common", "accounting", "gres", "noderuntime", "proctrack", "spank", "tests")


def style(run: Runner) -> Results:
    """clang-format leaves every C file as it is"""
    files = _sources(run.top, ".c", ".h")
    _, output = run.capture("clang-format", "--dry-run", "-Werror", *files)
    return results.per_file(files, output, run.top)


def shellcheck(run: Runner) -> Results:
    """shellcheck over all shell scripts"""
    files = [file for file in _tracked(run.top) if _is_shell(file)]
    _, output = run.capture("shellcheck", "--format=gcc", "--external-sources", *files)
    return results.per_file(files, output, run.top)


def cppcheck(run: Runner) -> Results:
    """cppcheck over all C files"""
    files = _sources(run.top, ".c")
    _, output = run.capture(
        "cppcheck", "--quiet", "--std=c11", "--inline-suppr", f"-j{os.cpu_count() or 1}",
        "--enable=warning,performance,portability", "--suppress=missingIncludeSystem",
        # Not understood by cppcheck 2.10; clang-analyzer (in clang-tidy) looks for the same.
        "--suppress=uninitvar", "--suppress=legacyUninitvar", "--suppress=arrayIndexThenCheck", "-DSPANK_PLUGIN(name,version)=",
        "--suppress=internalAstError", "--template={file}:{line}: {severity}: {message} [{id}]",
        "-D_GNU_SOURCE", f"-I{run.top}", *files)
    return results.per_file(files, output, run.top)


def tidy(run: Runner) -> Results:
    """clang-tidy over what is installed, as the clang build compiled it"""
    tree = run.build_dir("clang")
    fragments = list((tree / "commands").glob("*.json"))
    if not fragments:
        clang(run)
        fragments = list((tree / "commands").glob("*.json"))
    if not fragments:
        raise StageFailed("the clang build recorded no commands")
    text = "".join(file.read_text() for file in fragments).rstrip().rstrip(",")
    (tree / "compile_commands.json").write_text(f"[{text}]")
    files = [file for file in _sources(run.top, ".c") if str(file) in text
             and file.relative_to(run.top).parts[0] != "tests"]

    def check(file):
        return run.capture("clang-tidy", "--quiet", "-p", tree, file)[1]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        output = "".join(pool.map(check, files))
    return results.per_file(files, output, run.top)


def man(run: Runner) -> Results:
    """man pages are formatted without a warning"""
    tree = run.configure("gcc", CC="gcc")
    run.make(tree, "-C", "doc")
    pages = {}
    for folder in (run.top / "doc", tree / "doc"):
        pages.update({page.name: page for page in sorted(folder.rglob("*.[1-8]"))})
    found = Results()
    for page in pages.values():
        status, output = run.capture("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page,
                                     MANROFFSEQ="", MANWIDTH="80", LC_ALL="C.UTF-8")
        warnings = [line for line in output.splitlines() if "warning:" in line or "error:" in line]
        found.add(one(status == 0 and not warnings, f"{page.name}: {(warnings or ['not formatted'])[0]}"))
    return found


def _tracked(top: Path) -> list:
    """The project's own files: those that git knows, or all if this is no clone."""
    listing = subprocess.run(["git", "-C", top, "-c", f"safe.directory={top}", "ls-files", "-co",
                              "--exclude-standard"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True, check=False)
    if listing.returncode == 0:
        return [top / name for name in listing.stdout.splitlines() if (top / name).is_file()]
    return [file for file in sorted(top.rglob("*")) if file.is_file() and "build" not in file.parts[-2]]


def _sources(top: Path, *endings) -> list:
    return [file for file in _tracked(top) if file.suffix in endings
            and file.relative_to(top).parts[0] in SOURCE_FOLDERS]


def _is_shell(file: Path) -> bool:
    if file.suffix in (".bash", ".sh"):
        return True
    with open(file, "rb") as handle:
        first = handle.readline(80)
    return first.startswith(b"#!") and (b"bash" in first or first.rstrip().endswith((b"/sh", b" sh")))
