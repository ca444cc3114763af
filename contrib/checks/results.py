# SPDX-License-Identifier: Apache-2.0
"""Counting results, and reading them from what the tools left behind."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

SHOWN_OF_A_LOG = 25
SHOWN_OF_ALL = 30
WIDTH = 240
SANITIZER = re.compile(r"(?:Address|Thread|Leak|Memory|UndefinedBehavior)Sanitizer|: runtime error: |"
                       r"(?m:^==\d+== \S)")


@dataclass
class Failure:
    """What failed, in one line."""

    what: str
    output: str = ""  # all that is known of it
    test: str = ""    # by which it can be run by itself: pytest's name for it, or the path without its .trs


@dataclass
class Results:
    """Counts, and one line for each thing that failed, was skipped, or passed by itself only."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list = field(default_factory=list)
    skips: list = field(default_factory=list)
    late: list = field(default_factory=list)

    def add(self, other) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures
        self.skips += other.skips
        self.late += other.late

    def fail(self, what: str, output: str = "", test: str = "") -> None:
        self.failed += 1
        self.failures.append(Failure(what, output, test))

    def skip(self, what: str) -> None:
        self.skipped += 1
        self.skips.append(what)

    def counts(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def reason(output: str, most: int = SHOWN_OF_A_LOG) -> list:
    """The lines that say why, at most so many: a sanitizer's, pytest's and TAP's marked ones, else the last."""
    lines = [line.rstrip()[:WIDTH] for line in output.splitlines() if line.strip()]
    for n, line in enumerate(lines):
        if SANITIZER.search(line):
            return lines[n:n + most]
    found, place, bad = [], [], False
    for line in lines:
        if re.match(r"(not )?ok\b|\d+\.\.\d+", line):
            bad = line.startswith("not ok")
        if re.match(r"\S+\.py:\d+: ", line):
            place = [line]  # the last before what went wrong
        if re.match(r"E  |Bail out!|ERROR: ", line) or (bad and re.match(r"not ok|#", line)):
            found += place + [line]
            place = []
    return found[:most] if found else lines[max(0, len(lines) - most):]


def from_trs(folder: Path) -> Results:
    """Counts of automake's test drivers: every .trs file below `folder` has a line for each subtest."""
    results = Results()
    for file in sorted(folder.rglob("*.trs")):
        test = str(file.with_suffix(""))
        for kind, name in re.findall(r"(?m)^:test-result: (\w+) ?(.*)$", file.read_text()):
            what = f"{file.stem}: {name}".rstrip(": ")
            if kind in ("PASS", "XFAIL"):
                results.passed += 1
            elif kind == "SKIP":
                results.skip(what)
            else:
                log = file.with_suffix(".log")
                results.fail(f"{what} ({kind})", log.read_text(errors="replace") if log.exists() else "", test)
    return results


def from_junit(file: Path) -> Results:
    """Counts of pytest's --junitxml, of the family xunit1, which names files."""
    results = Results()
    for case in ElementTree.parse(file).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            first = ((bad[0].get("message") or "").splitlines() or ["no reason"])[0]
            output = "\n".join(child.text or "" for child in case)
            results.fail(f"{name}: {first[:WIDTH]}", output, _pytest_name(case) if "collection" not in first else "")
        elif skipped is not None:
            results.skip(f"{name}: {skipped.get('message')}")
        else:
            results.passed += 1
    return results


def _pytest_name(case) -> str:
    """FILE::[CLASS::]NAME, or "" where the report does not say."""
    file = case.get("file") or ""
    module = file.removesuffix(".py").replace("/", ".")
    inner = (case.get("classname") or "").removeprefix(module).strip(".")
    return "::".join(part for part in (file, inner, case.get("name")) if part) if file else ""


def per_file(files: list, output: str, top: Path) -> Results:
    """A linter's findings as counts of files: those that `output` names as FILE:LINE: have failed."""
    results = Results()
    for file in files:
        name = str(file.relative_to(top))
        found = [line for line in re.findall(rf"(?m)^(?:.*/)?{re.escape(name)}:\d+.*$", output)
                 if ": note: " not in line]
        if found:
            results.fail(f"{found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))
        else:
            results.passed += 1
    return results


def last_lines(total: Results) -> list:
    """What a reader of the last forty lines alone is to know: what failed, and of each why, as far as there is room."""
    lines = [f"skipped: {what}" for what in total.skips]
    lines += total.late
    shown = total.failures[:SHOWN_OF_ALL - 1]
    room = (SHOWN_OF_ALL - len(shown)) // max(1, len(shown))
    for failure in shown:
        lines.append(f"failed: {failure.what}")
        lines += [f"    {line}" for line in reason(failure.output, room)]
    if len(shown) < len(total.failures):
        lines.append(f"failed: and {len(total.failures) - len(shown)} more")
    return [*lines, total.counts()]
