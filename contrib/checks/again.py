# SPDX-License-Identifier: Apache-2.0
"""
Who may try again: what failed is run once more by itself. Tests wait for conditions with deadlines, and on a
shared machine that stands still for a while any deadline passes. What is no matter of time is not tried again.
"""

import re

from .results import SANITIZER, Results

# More are no accident.
FAILURES_MAX = 3
LATE = "passed only by itself, the second time: "
# SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS. Not SIGALRM: that is a test program's own deadline.
SIGNALS = (4, 5, 6, 7, 8, 11, 31)
_NUMBERS = "|".join(str(number) for number in SIGNALS)
_STATUSES = "|".join(str(status) for number in SIGNALS for status in (128 + number, 256 + number))
CRASH = re.compile(rf"(?<![\w.-])-(?:{_NUMBERS}) [!=]= |[!=]= -(?:{_NUMBERS})\b|returncode[:=] ?-(?:{_NUMBERS})\b|"
                   rf"exited with status (?:{_STATUSES})\b|(?:assert|returncode=) ?(?:{_STATUSES})\b|"
                   r"died with <Signals\.SIG(?:ILL|TRAP|ABRT|BUS|FPE|SEGV|SYS)|Segmentation fault|Test failed with exception|core dumped|Fatal Python error|worker '\w+' crashed")
# TSan's, here; LeakSanitizer's; valgrind's, here.
REPORTED = re.compile(r"exited with status (?:66|23|99)\b|assert (?:66|23|99) == 0|returncode=(?:66|23|99)\b")


def why_not(failures: list) -> str:
    """Why these failures are final; "" if they may be run once more."""
    if len(failures) > FAILURES_MAX:
        return f"more than {FAILURES_MAX} failed"
    for failure in failures:
        if SANITIZER.search(failure.output) or REPORTED.search(failure.output):
            return f"{failure.what}: a sanitizer's report"
        if CRASH.search(failure.output) or CRASH.search(failure.what):
            return f"{failure.what}: a crash"
        if not failure.test:
            return f"{failure.what}: no test that could be run by itself"
    return ""


def settle(first: Results, passed_alone: set) -> Results:
    """The results of `first` when these of its failed tests passed by themselves."""
    found = Results(first.passed, 0, first.skipped, skips=first.skips, late=list(first.late))
    for failure in first.failures:
        if failure.test and failure.test in passed_alone:
            found.passed += 1
            found.late.append(f"{LATE}{failure.what}")
        else:
            found.fail(failure.what, failure.output, failure.test)
    return found
