# SPDX-License-Identifier: Apache-2.0
"""Counting results, and reading them from what the tools left behind."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Results:
    """Counts, and one line for each thing that failed or was skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list = field(default_factory=list)
    skips: list = field(default_factory=list)

    def add(self, other) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures
        self.skips += other.skips

    def fail(self, what: str) -> None:
        self.failed += 1
        self.failures.append(what)

    def skip(self, what: str) -> None:
        self.skipped += 1
        self.skips.append(what)


def from_trs(folder: Path) -> Results:
    """Counts of automake's test drivers: every .trs file below `folder` has a line for each subtest."""
    results = Results()
    for file in sorted(folder.rglob("*.trs")):
        for kind, name in re.findall(r"(?m)^:test-result: (\w+) ?(.*)$", file.read_text()):
            what = f"{file.stem}: {name}".rstrip(": ")
            if kind in ("PASS", "XFAIL"):
                results.passed += 1
            elif kind == "SKIP":
                results.skip(what)
            else:
                results.fail(f"{what} ({kind})")
    return results


def from_junit(file: Path) -> Results:
    """Counts of pytest's --junitxml."""
    results = Results()
    for case in ElementTree.parse(file).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            results.fail(f"{name}: {(bad[0].get('message') or '').splitlines()[:1]}")
        elif skipped is not None:
            results.skip(f"{name}: {skipped.get('message')}")
        else:
            results.passed += 1
    return results


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
