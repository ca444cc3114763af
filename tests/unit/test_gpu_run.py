# SPDX-License-Identifier: Apache-2.0
"""tests/gpu/run, without a GPU: which groups it runs, in what order and time, how it counts and what it keeps."""
import os
import py_compile
import signal
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
GPU = TOP / "tests" / "gpu"
sys.path.insert(0, str(GPU))

import groups  # noqa: E402
from verdicts import verdicts  # noqa: E402

loader = SourceFileLoader("gpu_run", str(GPU / "run"))
gpu_run = module_from_spec(spec_from_loader("gpu_run", loader))
sys.dont_write_bytecode = True
loader.exec_module(gpu_run)

pytestmark = pytest.mark.timeout(120)


def is_python(file):
    if file.suffix == ".py":
        return True
    with file.open("rb") as handle:
        return file.suffix == "" and b"python" in handle.readline(80)


@pytest.mark.parametrize("file", sorted(f for folder in ("gpu", "bench", "chaos") for f in (TOP / "tests" / folder).rglob("*")
                                        if f.is_file() and is_python(f)), ids=lambda f: str(f.relative_to(TOP)))
def test_what_runs_elsewhere_compiles(file, tmp_path):
    py_compile.compile(str(file), str(tmp_path / "out.pyc"), doraise=True)


def test_every_test_file_is_in_a_group():
    found = groups.discover(GPU)
    files = {group.words[0] for group in found if group.kind == groups.PYTEST}
    assert files == {file.name for file in GPU.glob("test_*.py")}
    assert len({group.name for group in found}) == len(found)
    assert all(group.minutes > 0 and group.says for group in found)


def test_what_groups_name_is_there():
    for group in groups.discover(GPU):
        for word in group.words:
            if word.startswith("{sources}"):
                assert (TOP / "tests" / word.removeprefix("{sources}/")).exists(), word
            elif word.startswith("{bench}"):
                assert (TOP / "tests/bench" / (word.removeprefix("{bench}/") + ".c")).exists(), word


def test_a_new_file_is_a_group_of_its_own_after_the_first(tmp_path):
    (tmp_path / "test_new_thing.py").write_text('"""What it shows.\n\nMore."""\nMINUTES = 2.5\n')
    (tmp_path / "test_plain.py").write_text("")
    found = groups.discover(tmp_path)
    first = len(groups.FIRST)
    assert [group.name for group in found[:first]] == [group.name for group in groups.FIRST]
    new, plain = found[first:first + 2]
    assert (new.name, new.minutes, new.says) == ("new_thing", 2.5, "What it shows.")
    assert (plain.name, plain.minutes) == ("plain", groups.DEFAULT_MINUTES)


def test_groups_are_chosen_by_name():
    found = groups.discover(GPU)
    assert [g.name for g in groups.select(found, ["sizes", "core"])] == ["core", "sizes"], "in the order of the plan"
    assert "core" not in [g.name for g in groups.select(found, (), ["core"])]
    with pytest.raises(ValueError, match="no group nonsense; there are core, "):
        groups.select(found, ["nonsense"])


def test_what_does_not_fit_is_left_for_what_does():
    made = [groups.Group(str(m), m, groups.COMMAND, ("true",), "x") for m in (2, 8, 3, 4.5)]
    fit, rest = groups.fitting(made, 9)
    assert [g.minutes for g in fit] == [2, 3] and [g.minutes for g in rest] == [8, 4.5]
    lines = groups.table(made, 9)
    assert "2 of 4 groups fit into 9 minutes" in lines[-1] and lines[2].split()[2] == "-"


def test_the_plan_begins_with_what_tells_most():
    fit, _ = groups.fitting(groups.discover(GPU), 9)
    assert [group.name for group in fit[:3]] == ["core", "alone", "graphs"]


# The command

def run(*words, **options):
    return subprocess.run([sys.executable, "-B", GPU / "run", *map(str, words)], text=True, capture_output=True, check=False,
                          timeout=100, **options)


def test_plan_and_help_cost_nothing():
    done = run("--plan", "--minutes", 3)
    assert done.returncode == 0 and "core" in done.stdout and "groups fit into 3 minutes" in done.stdout
    assert "PYTEST-ARGUMENT" in run("--help").stdout
    done = run("--only", "nonsense")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").exists(), reason="this machine has a GPU")
def test_without_a_gpu_all_is_skipped_and_counted(tmp_path):
    done = run("--only", "core,sizes,launch,colocate", "--minutes", 4, "--programs", tmp_path, "--results", tmp_path / "out", "-k", "quick or gemm")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("0 passed, 0 failed, ") and last.endswith(" skipped")
    assert "colocate     skipped: no time for its 8 minutes" in done.stdout
    assert "-k 'quick or gemm'" in done.stdout and "-k sizes" not in done.stdout
    files = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert set(files) == {"summary.txt", "tests.txt"}
    assert all(text.startswith("$ ") and "--only core,sizes,launch,colocate" in text.splitlines()[0] for text in files.values())
    assert files["summary.txt"].splitlines()[-1] == last


# Its parts

@pytest.fixture
def suite(tmp_path):
    options, more = gpu_run.arguments(["--results", str(tmp_path / "kept"), "--programs", str(tmp_path), "-v"])
    assert more == ["-v"]
    work = tmp_path / "work"
    work.mkdir()
    return gpu_run.Suite(options, more, work)


def command(*words):
    return groups.Group("it", 1, groups.COMMAND, words, "a command")


@pytest.mark.parametrize("words, count", [(("true",), (1, 0, 0)), (("false",), (0, 1, 0)), (("sh", "-c", "exit 77"), (0, 0, 1)),
                                          (("/no/such/program",), (0, 0, 1))])
def test_commands_are_counted_by_their_status(suite, words, count):
    found = suite.run(command(*words), 10)
    assert (found.passed, found.failed, found.skipped) == count


def test_one_that_does_not_end_is_killed_with_its_children(suite, tmp_path):
    pid = tmp_path / "pid"
    found = suite.run(command("sh", "-c", f"sleep 1000 & echo $! >{pid}; trap '' TERM; wait; sleep 1000"), 0.5)
    assert found.failed == 1 and "killed after" in (suite.work / gpu_run.LOG).read_text()
    end = time.monotonic() + 10
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        state = Path(f"/proc/{pid.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        assert time.monotonic() < end
        time.sleep(0.02)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_tests_are_counted_from_pytest_s_report(suite, tmp_path, monkeypatch):
    (tmp_path / "test_few.py").write_text(
        "import pytest, os\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('x')\ndef test_d(): os._exit(9)\n")
    monkeypatch.setattr(gpu_run, "HERE", tmp_path)
    suite.more = []
    few = groups.Group("few", 1, groups.PYTEST, ("test_few.py", "not test_d"), "some")
    found = suite.run(few, 60)
    assert (found.passed, found.failed, found.skipped) == (1, 1, 1)
    found = suite.run(groups.Group("gone", 1, groups.PYTEST, ("test_few.py", "test_d"), "ends at once"), 60)
    assert found.failed == 1, "no report is a failure"


def test_at_most_eight_files_are_kept_and_none_is_large(suite, tmp_path):
    for number in range(20):
        (suite.results / f"many-{number}.json").write_text("{}")
    for name in gpu_run.KEPT:
        (suite.results / name).write_text("x" * (3 << 20) + "end")
    suite.keep("1 passed, 0 failed, 0 skipped")
    kept = list((tmp_path / "kept").iterdir())
    assert len(kept) <= 8 and sum(file.stat().st_size for file in kept) < 16 << 20
    assert "== many-19.json" in (tmp_path / "kept/figures.txt").read_text()
    assert all((tmp_path / "kept" / name).read_text().endswith("end") for name in gpu_run.KEPT)


def test_the_programs_are_executable():
    for name in "run", "one_node_slurm", "coroutine_compare", "chaos_emulated":
        assert os.access(GPU / name, os.X_OK)


# Bars, on what was measured on an H200 once

MEASURED = TOP / "doc/results/h200-2026-11-20-moved"


def judged(file):
    return [verdict for line in (MEASURED / file).read_text().splitlines() for verdict in verdicts(line)]


@pytest.mark.parametrize("file, n, missed", [
    ("launch-remap.txt", 4, ["a launch with the library"]), ("window.txt", 9, []), ("halves.txt", 1, []),
    ("start.txt", 9, ["start-up"] * 3 + ["GPU memory of a further partition (32 streams)"]), ("torch.txt", 2, ["PyTorch's add", "PyTorch's decode"]),
    ("graph.txt", 1, ["launches of a graph while it is being prepared"])])
def test_what_was_measured_is_judged(file, n, missed):
    found = judged(file)
    assert len(found) == n
    wrong = sorted(str(verdict) for verdict in found if not verdict.held)
    assert len(wrong) == len(missed) and all(any(name in text for text in wrong) for name in missed), wrong
    assert all(text.startswith("MISSED") for text in wrong)


def test_a_bar_of_its_own_is_taken_over():
    line = '{"bench":"reclaim","emulated":false,"bars":[{"bar":"late","value":60,"limit":50,"at_most":true,"holds":false},' \
           '{"bar":"none","value":null,"limit":1,"at_most":true,"holds":null}]}'
    assert [str(verdict) for verdict in verdicts(line)] == ["MISSED late: 60 (at most 50)"]
    assert verdicts(line.replace("false,\"bars", "true,\"bars")) == [], "an emulated GPU's times are judged"


@pytest.mark.parametrize("line", ["", "{", "5 passed", '{"bench":"launch"}', '{"bench":"start","added_ms":"x"}', '{"a":1}', "[]"])
def test_other_lines_are_no_verdict(line):
    assert verdicts(line) == []


def test_verdicts_are_told_at_the_end_and_fail_nothing(suite):
    line = next(line for line in (MEASURED / "torch.txt").read_text().splitlines() if "add" in line and line.startswith("{"))
    found = suite.run(command("echo", line.replace("{", "{{").replace("}", "}}")), 10)
    assert (found.passed, found.failed) == (1, 0)
    assert [verdict.held for verdict in suite.verdicts] == [False]
