# SPDX-License-Identifier: Apache-2.0
"""Slurm's commands as the tests use them. Every wait has a deadline and says what it saw last."""

import json
import time
from pathlib import Path

from cluster.demonstration import groups

RUN_S = 60
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")


def until(what, ask, deadline_s=RUN_S):
    """Ask until the answer is true and return it; fail with the last answer otherwise."""
    end = time.monotonic() + deadline_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"not so after {deadline_s} s: {what} (last: {answer!r})"
        time.sleep(0.05)


class Slurm:
    """One cluster's commands."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.work = cluster.layout.work

    # ---- submitting --------------------------------------------------------------------------

    def srun(self, *words, user=None, check=True, env=None, timeout_s=RUN_S):
        """Run srun to its end. `env`: variables on top of the cluster's."""
        return self.command("srun", *words, user=user, check=check, env=env, timeout_s=timeout_s)

    def sbatch(self, *options, wrap=None, script=None, user=None, env=None) -> int:
        """Submit a batch job and return its number; its output goes to output(job)."""
        words = ["sbatch", "--parsable", f"--output={self.work}/%A_%a.out", f"--chdir={self.work}"]
        words += options
        words += [f"--wrap={wrap}"] if wrap is not None else [script]
        return int(self.command(*words, user=user, env=env).stdout.split(";")[0])

    def command(self, *words, user=None, check=True, env=None, timeout_s=RUN_S):
        more = {"env": {**self.cluster.environment(), **env}} if env else {}
        return self.cluster.run(*words, user=user, check=check, timeout_s=timeout_s, **more)

    def refused(self, *words, user=None, env=None) -> list:
        """Run a command that must fail; returns the lines that it said, without Slurm's own echo."""
        run = self.command(*words, user=user, check=False, env=env)
        assert run.returncode != 0, f"{words} was accepted: {run.stdout}{run.stderr}"
        return run.stderr.strip().splitlines()

    def sbatch_until_told(self, *options, then="true", **more):
        """A batch job that runs until it is told to go on, with `then`; its number, and what tells it."""
        job = self.sbatch(*options, wrap=f"until [ -e go-$SLURM_JOB_ID ]; do sleep 0.1; done; {then}", **more)
        return job, (self.work / f"go-{job}").touch

    # ---- looking -----------------------------------------------------------------------------

    def job(self, job) -> dict:
        """What scontrol says of a job, without its array siblings."""
        text = self.command("scontrol", "-o", "-d", "show", "job", str(job)).stdout.splitlines()[0]
        return dict(word.partition("=")[::2] for word in text.split(" ") if "=" in word)

    def state(self, job) -> str:
        return self.job(job)["JobState"]

    def wait_state(self, job, *states, deadline_s=RUN_S) -> str:
        return until(f"job {job} is {' or '.join(states)}",
                     lambda: (lambda state: state if state in states else None)(self.state(job)), deadline_s)

    def wait_end(self, job, deadline_s=RUN_S) -> str:
        return self.wait_state(job, *ENDED, deadline_s=deadline_s)

    def wait_running(self, *jobs) -> None:
        for job in jobs:
            state = self.wait_state(job, "RUNNING", *ENDED)
            assert state == "RUNNING", f"job {job} is {state}: {self.job(job)}; output: {self.output(job)}"
            self._wait_started(job)

    def _wait_started(self, job) -> None:
        """A batch job is RUNNING before its script is; slurmd takes 5 s to end one in between."""
        file = self.job(job).get("StdOut")
        if file:
            until(f"the script of job {job} runs",
                  lambda: Path(file).exists() or self.state(job) != "RUNNING")

    def wait_pending_reason(self, job) -> str:
        """Why a pending job waits, once the scheduler has looked at it."""
        def reason():
            seen = self.job(job)
            assert seen["JobState"] == "PENDING", f"job {job} does not wait: {seen}"
            return seen["Reason"] if seen["Reason"] != "None" else None
        return until(f"the scheduler says why job {job} waits", reason)

    def output(self, job) -> str:
        """What a batch job (not an array) printed so far."""
        file = self.work / f"{job}_4294967294.out"
        return file.read_text() if file.exists() else ""

    def where(self, job) -> tuple:
        """(node, index of the GPU among the node's own) of a running job."""
        node = self.job(job)["NodeList"]
        text = self.command("scontrol", "-o", "-d", "show", "job", str(job)).stdout
        return node, int(text.partition("shard")[2].partition("(IDX:")[2].partition(")")[0])

    def status(self, node) -> list:
        """The GPUs of a node as detshare sees them."""
        return json.loads(self.command("detshare", "status", "--json", "--node-name", node).stdout)["gpus"]

    def residents(self, node) -> dict:
        """The residents of a node's ledgers by job number: uuid, class, share_milli, held (a set)."""
        return {resident["job_id"]: {**resident, "uuid": gpu["uuid"], "held": groups(resident["groups_held"])}
                for gpu in self.status(node) for resident in gpu["residents"]}

    def sacct(self, job, *fields, steps=False) -> list:
        """Rows of sacct, each a list of the fields."""
        words = ["sacct", "-n", "-P", "-j", str(job), "-o", ",".join(fields)]
        if not steps:
            words.append("-X")
        return [line.split("|") for line in self.command(*words).stdout.splitlines()]

    # ---- ending ------------------------------------------------------------------------------

    def cancel(self, *jobs, signal=None) -> None:
        words = ["scancel"] + ([f"--signal={signal}"] if signal else []) + [str(job) for job in jobs]
        self.command(*words)

    def end_all(self) -> None:
        """Cancel whatever there is and wait until it is gone, epilogs included."""
        def empty():
            jobs = self.command("squeue", "-h", "-o", "%A").stdout.split()
            if jobs:
                self.command("scancel", *jobs, check=False)
            return not jobs
        until("no job is left in the queue", empty, 90)
