# SPDX-License-Identifier: Apache-2.0
"""Stages that build the project in some way and run its tests."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import again, results
from .results import Results
from .runner import Runner, StageFailed, one

FUZZ_S = 5
# At work side by side on tests, which mostly wait. In tests/cluster each has a cluster of its own.
WORKERS_MIN = 3
WORKERS_MAX = 8
TEST_S = 300  # for one test: longer than what the deadlines in it allow, which say more
# Of the tests of the coroutine library those in which most happens at once.
SANITIZED = ("(granted or same_as_alone or threads or fork or destroyed or partition or back or grants or slips or soft or window)"
             " and not (moved and not 77)")
# gcc's flow analysis loses its way in instrumented code; the plain build has this warning on.
SANITIZER_CFLAGS = "-O1 -g -Wno-maybe-uninitialized"
# test_gres_plugin runs itself under slurmd's name, test_ledger_races asserts how much is done in a time,
# test_mps runs programs against deadlines of milliseconds, test_deadly looks at which signals its children
# handle, and valgrind handles them all: none of it holds under valgrind. test_settle_histories would take
# a part of its time limit that a busy machine makes the whole of it.
NOT_UNDER_VALGRIND = ("test_deadly", "test_gres_plugin", "test_ledger_races", "test_mps", "test_settle_histories")


def build(run: Runner) -> Results:
    """gcc, warnings are errors; installed into a staging folder for the cluster tests"""
    tree = run.configure("gcc", CC="gcc")
    run.make(tree)
    run.make(tree, "install")
    return one(True, "")


def unit(run: Runner) -> Results:
    """unit tests and tests on the emulated GPU (make check)"""
    return _make_check(run, run.configure("gcc", CC="gcc"))


def scripts(run: Runner) -> Results:
    """tests written in Python: tests/unit, tests/emugpu, tests/bench"""
    tree = run.configure("gcc", CC="gcc")
    run.make(tree)
    files = [file for folder in ("unit", "emugpu", "bench") for file in (run.top / "tests" / folder).glob("test_*.py")
             if file.name != "test_hooks_table.py"]  # which the stage toolkits runs
    if not files:
        return Results()
    return run_pytest(run, tree, "scripts", files)


def chaos(run: Runner) -> Results:
    """a node of emulated GPUs under random events (tests/chaos)"""
    tree = run.configure("gcc", CC="gcc")
    run.make(tree)
    return run_pytest(run, tree, "chaos", [run.top / "tests" / "chaos"], share_out="load")


def cluster(run: Runner) -> Results:
    """tests on a real one-machine Slurm cluster"""
    if os.geteuid() != 0:
        found = Results()
        found.skip("tests/cluster: only root can start slurmd")
        return found
    tree = run.configure("gcc", CC="gcc")
    run.make(tree)
    run.make(tree, "install")
    return run_pytest(run, tree, "cluster", [run.top / "tests" / "cluster"])


def clang(run: Runner) -> Results:
    """clang, warnings are errors; records how each file is compiled, for clang-tidy"""
    tree = run.configure("clang", CC="clang")
    database = tree / "commands"
    database.mkdir(exist_ok=True)
    compiler = f"CC=clang -Wno-unused-command-line-argument -gen-cdb-fragment-path {database}"
    run.make(tree, compiler)
    run.make(tree, "check", "TESTS=", compiler)
    return one(True, "")


def asan(run: Runner) -> Results:
    """unit and emulated-GPU tests under AddressSanitizer and UndefinedBehaviorSanitizer"""
    tree = run.configure("asan", "--enable-sanitizers=address,undefined", CC="gcc", CFLAGS=SANITIZER_CFLAGS)
    found = _make_check(run, tree, ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="print_stacktrace=1")
    found.add(_coroutine(run, tree, ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="print_stacktrace=1"))
    return found


def tsan(run: Runner) -> Results:
    """coroutine library and emulated GPU under ThreadSanitizer"""
    tree = run.configure("tsan", "--enable-sanitizers=thread", CC="gcc", CFLAGS=SANITIZER_CFLAGS)
    found = _make_check(run, tree, folders=("tests/emugpu",), TSAN_OPTIONS="halt_on_error=1:exitcode=66")
    found.add(_coroutine(run, tree, TSAN_OPTIONS="halt_on_error=1:exitcode=66"))
    return found


def valgrind(run: Runner) -> Results:
    """unit tests under valgrind's memcheck"""
    tree = run.configure("gcc", CC="gcc")
    tool = ("valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite "
            "--child-silent-after-fork=yes")
    unit_tests = run.top / "tests" / "unit"
    names = sorted(file.stem for kind in ("test", "fuzz") for file in unit_tests.glob(f"{kind}_*.c"))
    tests = " ".join(name for name in names if name not in (*NOT_UNDER_VALGRIND, "fuzz_seeds"))
    compiler = f"{unit_tests}/run-cmocka {tree}/libtool --mode=execute {tool}"
    return _make_check(run, tree, f"LOG_COMPILER={compiler}", f"TESTS={tests}", folders=("tests/unit",))


def fuzz(run: Runner) -> Results:
    """every fuzzer for some seconds, under AddressSanitizer"""
    tree = run.configure("fuzz", CC="clang", CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,address")
    for folder in ("common", "accounting", "gres", "noderuntime", "spank", "proctrack"):
        run.make(tree, "-C", folder)
    run.make(tree, "-C", "tests/unit", "fuzzers")
    folder = tree / "tests" / "unit"
    found = Results()

    def search(program):
        corpus = tree / "corpus" / program.stem
        corpus.mkdir(parents=True, exist_ok=True)
        status, _ = run.capture(program, f"-max_total_time={FUZZ_S}", "-timeout=5", "-rss_limit_mb=2048",
                                "-print_final_stats=0", "-verbosity=0", f"-artifact_prefix={folder}/", corpus)
        return one(status == 0, f"{program.stem} found an input that fails (see {run.log})")

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for part in pool.map(search, sorted(folder.glob("fuzz_*.libfuzzer"))):
            found.add(part)
    return found


def _coroutine(run: Runner, tree: Path, **options) -> Results:
    """The coroutine library in a tree with sanitizers. Their reports lie in files: those of any program count."""
    reports = run.out / f"{run.log.stem}-reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    environment = {name: f"{value}:log_path={reports}/report" for name, value in options.items()}
    tests = [run.top / "tests" / "emugpu" / f"test_{name}.py" for name in ("coroutine", "graphs", "ahead")]
    return run_pytest(run, tree, run.log.stem, tests, "-k", SANITIZED, share_out="load", reports=reports, **environment)


def distcheck(run: Runner) -> Results:
    """make distcheck: the release archive builds, passes its tests, installs and uninstalls"""
    tree = run.configure("dist", CC="gcc")
    run.make(tree, "distcheck")
    return one(True, "")


def _make_check(run: Runner, tree: Path, *arguments, folders=("tests",), **environment) -> Results:
    run.make(tree)
    found = Results()

    def check(folder, *more):
        for old in folder.rglob("*.trs"):
            old.unlink()
        status = run.make(tree, "-C", folder, "-k", "check", *arguments, *more, check=False, **environment)
        part = results.from_trs(folder)
        if status != 0 and not part.failed:
            part.fail(f"make -C {folder.relative_to(tree)} check ended with status {status}")
        return part

    for folder in folders:
        found.add(check(tree / folder))
    return _once_more(run, found, lambda test: check(Path(test).parent, f"TESTS={Path(test).name}"))


def run_pytest(run: Runner, tree: Path, name: str, targets: list, *options, share_out="loadfile", reports=None, **environment) -> Results:
    """
    `share_out`: by files, since tests of one may share what is dear to make, or "load", one by one. What lies in the
    folder `reports` afterwards are failures.
    """
    report = run.out / f"{name}.xml"
    workers = min(max(os.cpu_count() or 1, WORKERS_MIN), WORKERS_MAX)

    def check(*words):
        report.unlink(missing_ok=True)
        status = run.run("/usr/bin/python3", "-B", "-m", "pytest", "-p", "no:cacheprovider", f"--timeout={TEST_S}", "-q",
                         "--tb=short", f"--rootdir={run.top}", f"--junitxml={report}", "-o", "junit_family=xunit1",
                         "-o", "junit_logging=all", "-o", "junit_log_passing_tests=false", *words, check=False,
                         DETSHARE_BUILD=tree, DETSHARE_PREFIX=tree / "stage", PYTHONDONTWRITEBYTECODE="1", **environment)
        if not report.exists():
            raise StageFailed(f"pytest ended with status {status} and no report")
        part = results.from_junit(report)
        if status not in (0, 1, 5):
            part.fail(f"pytest ended with status {status}")
        for file in sorted(reports.iterdir() if reports else ()):
            said = file.read_text(errors="replace")
            if results.SANITIZER.search(said):  # else a remark, on threads that a fork has not taken along
                part.fail(f"a sanitizer's report, {file}", said)
        return part

    return _once_more(run, check("-n", workers, f"--dist={share_out}", *options, *targets), check)


def _once_more(run: Runner, found: Results, check) -> Results:
    """What failed is run by itself with `check`, if it may be."""
    if not found.failures:
        return found
    why_not = again.why_not(found.failures)
    if why_not:
        run.note(f"nothing is run once more: {why_not}")
        return found
    passed = set()
    for test in dict.fromkeys(failure.test for failure in found.failures):
        try:
            alone = check(test)
        except StageFailed as error:  # there is no time left
            run.note(str(error))
            break
        if alone.passed and not alone.failed:
            passed.add(test)
    return again.settle(found, passed)
