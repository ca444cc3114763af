# SPDX-License-Identifier: Apache-2.0
"""contrib/check: which failures are run once more by themselves, what becomes of them, and what is said of the others."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "contrib"))
from checks import __main__ as check  # noqa: E402
from checks import again, builds, results, stages  # noqa: E402
from checks.runner import Runner  # noqa: E402

TIMED_OUT = "E   AssertionError: timed out\nE   assert 12.5 < 12.1"


def failure(output=TIMED_OUT, what="tests.a::test_b: timed out", test="tests/a.py::test_b"):
    return results.Failure(what, output, test)


@pytest.mark.parametrize("output", [
    TIMED_OUT,
    "E   Failed: Timeout >300.0s",
    "E   assert -9 == 0",
    "subprocess.CalledProcessError: Command 'x' died with <Signals.SIGKILL: 9>.",
    "E   assert 'Sanitizer' not in 'x'",
    "ERROR: test_mps - exited with status 142 (terminated by signal 14?)",
    "not ok 1 - a\n# 0x1 != 0x2",
])
def test_what_may_be_late_is_tried_again(output):
    assert again.why_not([failure(output)] * again.FAILURES_MAX) == ""


@pytest.mark.parametrize("output, why", [
    ("x\nWARNING: ThreadSanitizer: data race (pid=12)", "report"),
    ("==7==ERROR: AddressSanitizer: heap-use-after-free", "report"),
    ("==7==ERROR: LeakSanitizer: detected memory leaks", "report"),
    ("a.c:7:3: runtime error: signed integer overflow", "report"),
    ("==77== Invalid read of size 4", "report"),
    ("E   assert 66 == 0\nE    +  where 66 = <Popen: returncode: 66>.returncode", "report"),
    ("ERROR: test_x - exited with status 99", "report"),
    ("E   assert -11 == 0", "crash"),
    ("E   assert 0 == -6", "crash"),
    ("CompletedProcess(args=['x'], returncode=-7)", "crash"),
    ("E   assert 139 == 0", "crash"),
    ("subprocess.CalledProcessError: Command 'x' died with <Signals.SIGSEGV: 11>.", "crash"),
    ("ERROR: test_x - exited with status 134 (terminated by signal 6?)", "crash"),
    ("# Test failed with exception: Segmentation fault(11)", "crash"),
    ("worker 'gw1' crashed while running 'tests/a.py::test_b'", "crash"),
])
def test_what_is_no_matter_of_time_is_final(output, why):
    assert why in again.why_not([failure(), failure(output)])


def test_many_failures_are_final():
    assert again.why_not([failure()] * (again.FAILURES_MAX + 1))


def test_what_cannot_be_run_by_itself_is_final():
    assert again.why_not([failure(test="")])


def test_who_passes_by_itself_has_passed_and_is_named():
    first = results.Results(passed=5)
    first.skip("c")
    first.fail("b: late", TIMED_OUT, "a.py::b")
    first.fail("d: late, too", TIMED_OUT, "a.py::d")
    found = again.settle(first, {"a.py::b"})
    assert (found.passed, found.failed, found.skipped, found.skips) == (6, 1, 1, ["c"])
    assert found.late == [f"{again.LATE}b: late"]
    assert [one.what for one in found.failures] == ["d: late, too"]


def test_a_report_of_pytest_is_read(tmp_path):
    (tmp_path / "x.xml").write_text("""<testsuites><testsuite>
        <testcase classname="tests.a.test_a" name="test_good" file="tests/a/test_a.py"/>
        <testcase classname="tests.a.test_a.TestIn" name="test_bad[1-x]" file="tests/a/test_a.py">
          <failure message="AssertionError: late&#10;assert 1 == 2">a.py:3: in b
E   AssertionError: late</failure><system-err>said</system-err></testcase>
        <testcase classname="" name="tests.a.test_b"><error message="collection failure">E   ImportError</error></testcase>
        <testcase classname="tests.a.test_a" name="test_not" file="tests/a/test_a.py"><skipped message="no root"/></testcase>
    </testsuite></testsuites>""")
    found = results.from_junit(tmp_path / "x.xml")
    bad, broken = found.failures
    assert found.counts() == "1 passed, 2 failed, 1 skipped"
    assert bad.what == "tests.a.test_a.TestIn::test_bad[1-x]: AssertionError: late"
    assert bad.test == "tests/a/test_a.py::TestIn::test_bad[1-x]" and broken.test == ""
    assert "said" in bad.output and results.reason(bad.output) == ["a.py:3: in b", "E   AssertionError: late"]


def test_what_automake_leaves_is_read(tmp_path):
    (tmp_path / "test_x.trs").write_text(":test-result: PASS 1 - a\n:test-result: FAIL 2 - b\n:test-result: SKIP 3 - c\n")
    (tmp_path / "test_x.log").write_text("1..3\nok 1 - a\n# a's\nnot ok 2 - b\n# 1 != 2\nok 3 - c # SKIP no\n" + "# chatter\n" * 50)
    found = results.from_trs(tmp_path)
    assert found.counts() == "1 passed, 1 failed, 1 skipped"
    assert found.failures[0].test == str(tmp_path / "test_x")
    assert results.reason(found.failures[0].output) == ["not ok 2 - b", "# 1 != 2"]


def test_a_report_is_shown_from_its_beginning():
    report = ["==5==ERROR: AddressSanitizer: heap-use-after-free"] + [f"#{n} 0x1 in f" for n in range(40)]
    assert results.reason("\n".join(["E   assert 1 == 0", *report]), 5) == report[:5]


def test_without_marks_the_last_lines_are_the_reason():
    assert results.reason("\n".join(str(n) for n in range(99))) == [str(n) for n in range(99 - results.SHOWN_OF_A_LOG, 99)]


@pytest.mark.parametrize("failed", [1, 2, 5, 29, 30, 200])
def test_the_end_says_what_failed_and_why_in_forty_lines(failed):
    total = results.Results(passed=3)
    for n in range(failed):
        total.fail(f"test {n}", "\n".join(["chatter"] * 60 + [f"why {n}"]))
    lines = results.last_lines(total)
    assert lines[-1] == f"3 passed, {failed} failed, 0 skipped" and len(lines) < 40
    assert "failed: test 0" in lines and (failed > 10 or "    why 0" in lines)


LATE_TEST = """
import os
import pytest

@pytest.mark.parametrize("what", ["a/b - c", "d[e]"])
def test_late(what):
    marker = f"{os.environ['MARKERS']}/{len(what)}"
    first = not os.path.exists(marker)
    open(marker, "w").close()
    assert not first, "timed out"

def test_wrong():
    assert os.environ["WRONG"] == "no", "wrong"
"""


@pytest.mark.parametrize("wrong, failures", [("no", []), ("yes", ["tests.test_a::test_wrong: AssertionError: wrong"])])
def test_a_late_test_of_pytest_is_run_by_itself(tmp_path, wrong, failures):
    pytest.importorskip("xdist")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(LATE_TEST)
    run = Runner(tmp_path, tmp_path / "out", "stage", tmp_path, 250)
    found = builds.run_pytest(run, tmp_path, "stage", [tmp_path / "tests"], MARKERS=tmp_path, WRONG=wrong)
    assert [one.what for one in found.failures] == failures
    assert found.late == [f"{again.LATE}tests.test_a::test_late[{what}]: AssertionError: timed out" for what in ("a/b - c", "d[e]")]
    assert found.passed == 3 - len(failures)


def test_a_stage_that_cannot_go_on_says_what_it_did(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "STAGES", {"odd": (lambda run: run.run("sh", "-c", "echo no way; exit 3"), 60)})
    monkeypatch.setattr(sys, "argv", ["check", "--dir", str(tmp_path)])
    assert check.main() == 1
    *_, said, counts = capsys.readouterr().out.splitlines()
    assert (said, counts) == ("    no way", "0 passed, 1 failed, 0 skipped")


def test_the_stages_are_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check", "--dir", "/nowhere", "--list"])
    assert check.main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(stages.STAGES)
