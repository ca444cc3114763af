# SPDX-License-Identifier: Apache-2.0
"""Processes: identity safe against reused pids, who belongs to a cluster, who holds a port."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .layout import MARKER


@dataclass(frozen=True)
class Process:
    """A process as pid and start time (clock ticks since boot), so that a reused pid is another one."""

    pid: int
    start_ticks: int

    @staticmethod
    def of(pid: int):
        """The process that has `pid` now, or None. A zombie counts as gone."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))

    @staticmethod
    def read(file: Path):
        """The process named in a "PID START_TICKS" file, if it still lives."""
        try:
            pid, ticks = file.read_text().split()[:2]
        except (OSError, ValueError):
            return None
        process = Process.of(int(pid))
        return process if process == Process(int(pid), int(ticks)) else None

    def write(self, file: Path) -> None:
        file.write_text(f"{self.pid} {self.start_ticks}\n")

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def kill(self, number: int) -> None:
        """Send a signal unless the process is gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def command(self) -> str:
        try:
            words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return "(gone)"
        return b" ".join(words).decode(errors="replace").strip() or "(no command line)"

    def wait(self, deadline_s: float) -> bool:
        """Wait until it is gone; False when it still lives after `deadline_s` seconds."""
        end = time.monotonic() + deadline_s
        while self.alive():
            reap()
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


def reap() -> None:
    """Collect ended children, so that they do not stay as zombies in a long test session."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def belonging(root: Path) -> list:
    """Every process of the cluster in `root`, told by its environment; not this one or its callers."""
    mark = f"{MARKER}={root}".encode()
    mine = _ancestors()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in mine:
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        process = Process.of(int(folder.name))
        if process and mark in environment:
            found.append(process)
    return found


def end(processes: list, grace_s: float) -> list:
    """SIGTERM, and SIGKILL to those that live after `grace_s`. Returns those that needed SIGKILL."""
    for process in processes:
        process.kill(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    stubborn = [p for p in processes if not p.wait(max(0.0, deadline - time.monotonic()))]
    for process in stubborn:
        process.kill(signal.SIGKILL)
        process.wait(30)
    return stubborn


def port_holder(port: int):
    """Who listens on the TCP port, for people ("slurmctld, pid 123"), or None when it is free."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port and words[3] == "0A":
                inodes.add(words[9])
    if not inodes:
        return None
    links = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) in links for fd in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text().strip()
                return f"{name}, process {folder.name}"
        except OSError:
            continue
    return "a process that cannot be seen from here"


def _ancestors() -> set:
    pids = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            break
        pid = int(text.rpartition(")")[2].split()[1])
    return pids
