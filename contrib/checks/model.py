# SPDX-License-Identifier: Apache-2.0
"""The model of the handover protocol, searched by spin."""

import re

from .results import Results
from .runner import Runner


def model(run: Runner) -> Results:
    """the protocol by which SM groups change hands: every order of events of its model, with spin"""
    folder = run.build_dir("model")
    folder.mkdir(parents=True, exist_ok=True)
    status, said = run.capture(run.top / "tests" / "model" / "check", folder)
    found = Results()
    for bad, what in re.findall(r"(?m)^(not )?ok \d+ - (.*)$", said):
        if bad:
            found.fail(f"model: {what}")
        else:
            found.passed += 1
    if status != 0 and not found.failed:
        found.fail(f"tests/model/check ended with status {status}")
    return found
