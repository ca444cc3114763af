# SPDX-License-Identifier: Apache-2.0
"""Starting one daemon, and waiting until it answers."""

import os
import socket
import subprocess
import time
from pathlib import Path

from .errors import ClusterError
from .layout import Layout
from .processes import Process

TAIL_LINES = 25


def start(layout: Layout, name: str, command: list, environment: dict) -> Process:
    """Start `command` in the foreground of a session of its own; its output goes to log/NAME.out."""
    output = layout.log / f"{name}.out"
    with open(output, "wb") as log, open(os.devnull, "rb") as null:
        child = subprocess.Popen(
            [str(word) for word in command], stdin=null, stdout=log, stderr=log,
            env=environment, cwd="/", start_new_session=True,
        )
    # Whoever reaps the child is processes.reap(), not Popen at an arbitrary later time.
    child.returncode = 0
    process = Process.of(child.pid)
    if not process:
        raise failure(layout, name, "ended at once")
    process.write(pid_file(layout, name))
    return process


def pid_file(layout: Layout, name: str) -> Path:
    return layout.pid / f"{name}.process"


def running(layout: Layout, name: str):
    """The daemon's process, or None."""
    return Process.read(pid_file(layout, name))


def wait_until(layout: Layout, name: str, process: Process, answers, deadline_s: float) -> None:
    """Ask until `answers()` is true; fail at once when the daemon dies before that."""
    end = time.monotonic() + deadline_s
    while not answers():
        if not process.alive():
            raise failure(layout, name, "ended while starting")
        if time.monotonic() > end:
            raise failure(layout, name, f"does not answer after {deadline_s:.0f} s")
        time.sleep(0.02)


def failure(layout: Layout, name: str, what: str) -> ClusterError:
    """An error with the end of the daemon's log."""
    text = f"{name} {what}"
    for log in (layout.log / f"{name}.log", layout.log / f"{name}.out"):
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            continue
        if lines:
            text += f"\n--- last lines of {log}:\n" + "\n".join(lines[-TAIL_LINES:])
    return ClusterError(text)


def accepts(address) -> bool:
    """Whether a Unix socket (path) or a local TCP port (number) takes a connection."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    target = ("127.0.0.1", address) if isinstance(address, int) else str(address)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(target)
        except OSError:
            return False
    return True
