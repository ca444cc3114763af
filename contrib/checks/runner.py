# SPDX-License-Identifier: Apache-2.0
"""Running commands of a stage with a time limit, their output in a log."""

import os
import signal
import subprocess
import time
from pathlib import Path

from .results import Results

TAIL_LINES = 30
LINE_MOST = 300  # of a command with all files


class StageFailed(Exception):
    """The stage cannot go on; the text says why."""


class Runner:
    """Runs the commands of one stage: all share a log and a deadline."""

    def __init__(self, top: Path, out: Path, name: str, cuda: Path, limit_s: float):
        self.top = top
        self.out = out
        self.cuda = cuda
        self.log = out / "log" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self._end = time.monotonic() + limit_s
        self._limit_s = limit_s

    def run(self, *command, cwd=None, check=True, limit_s=None, **environment) -> int:
        """Run to the end or the stage's deadline; returns the exit status."""
        words = [str(word) for word in command]
        env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        left = max(1.0, self._end - time.monotonic())
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            child = subprocess.Popen(words, cwd=cwd or self.top, env=env, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log, start_new_session=True)
            try:
                status = child.wait(min(left, limit_s or left))
            except BaseException as error:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise StageFailed(f"{words[0]} took longer than {min(left, limit_s or left):.0f} s") from None
        if check and status != 0:
            raise StageFailed(f"{' '.join(words[:4])} … ended with status {status}")
        return status

    def capture(self, *command, **environment) -> tuple:
        """Run and return (status, output), which goes to the log too. May be called from threads."""
        words = [str(word) for word in command]
        try:
            done = subprocess.run(words, cwd=self.top, env={**os.environ, **environment}, text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, errors="replace", check=False,
                                  timeout=max(1.0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise StageFailed(f"{words[0]} was not done after {self._limit_s:.0f} s") from None
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(words)}\n{done.stdout}")
        return done.returncode, done.stdout

    def build_dir(self, name: str) -> Path:
        return self.out / f"build-{name}"

    def configure(self, name: str, *options, **environment) -> Path:
        """Configure a build tree of its own, unless that was done with the same options before."""
        build = self.build_dir(name)
        build.mkdir(parents=True, exist_ok=True)
        stamp = build / ".options"
        wanted = repr((options, sorted(environment.items())))
        fresh = (build / "config.status").exists() and stamp.exists() and stamp.read_text() == wanted
        if not fresh or (self.top / "configure").stat().st_mtime > stamp.stat().st_mtime:
            self.run(self.top / "configure", "--enable-werror", f"--with-cuda={self.cuda}",
                     f"--prefix={build}/stage", *options, cwd=build, **environment)
            stamp.write_text(wanted)
        return build

    def make(self, build: Path, *arguments, **more) -> int:
        return self.run("make", f"-j{os.cpu_count() or 1}", *arguments, cwd=build, **more)

    def note(self, text: str) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def tail(self) -> str:
        """The end of the log, for people."""
        return "\n".join(line[:LINE_MOST] for line in self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def one(passed: bool, what: str) -> Results:
    """The results of a stage that is one check."""
    results = Results()
    if passed:
        results.passed = 1
    else:
        results.fail(what)
    return results
