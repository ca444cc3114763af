# SPDX-License-Identifier: Apache-2.0
"""What the quickstart shows: each step is checked on what the programs really said."""

import json
import shlex
import time

from .cluster import Cluster
from .errors import ClusterError

SHARE = "gres/detshare:throughput=500"
SPIN_S = 6
ARRIVAL_S = 40


def demonstrate(cluster: Cluster) -> None:
    """Show half a GPU, end to end; ClusterError at the first thing that did not happen."""
    demonstration = _Demonstration(cluster)
    print(f"\nOn {cluster.describe()}.")
    try:
        halves = demonstration.two_halves()
        demonstration.third_waits(halves)
        demonstration.groups_are_disjoint(halves)
        demonstration.refusal()
        demonstration.outputs(halves)
        demonstration.accounting(halves)
    except BaseException:
        cluster.run("scancel", "--user=root", check=False)
        raise


def groups(text: str) -> set:
    """SM groups as `detshare status` writes them: "0-7+rest", "0,2-4", "none"."""
    found = set()
    for word in text.replace("+", ",").split(","):
        first, _, last = word.partition("-")
        if first.isdigit():
            found.update(range(int(first), int(last or first) + 1))
        elif word != "none":
            found.add(word)
    return found


def _prompt(command) -> str:
    return f"$ {shlex.join(command)}"


class _Demonstration:
    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._node = cluster.nodes[0]
        self._program = cluster.build / "tests" / "gpu" / "gpuwork"
        self._sms = {}

    def two_halves(self) -> list:
        self._title("Two jobs, half a GPU each")
        command = f"{self._program} spin --seconds {SPIN_S}"
        jobs = [self._submit("0.5", command) for _ in range(2)]
        self._until("both halves run", lambda: [self._state(job) for job in jobs] == ["RUNNING"] * 2, 20)
        print(f"Jobs {jobs[0]} and {jobs[1]} both run.")
        return jobs

    def third_waits(self, halves: list) -> None:
        self._title("The other GPUs of the node are taken; a third half has to wait")
        fillers = [self._submit("1", "sleep 60") for _ in self._node.gpus[1:]]
        third = self._submit("0.5", "true")
        running = halves + fillers
        self._until("the node is full", lambda: all(self._state(job) == "RUNNING" for job in running), 20)
        self._until("the third half waits for resources", lambda: self._reason(third) == "Resources", 20)
        self._show("squeue", "-o", "%.6i %9T %46b %R")
        self._waiting, self._fillers = third, fillers

    def groups_are_disjoint(self, halves: list) -> None:
        """The two halves have SM groups of their own on one GPU."""
        self._title("The SM groups that each has")
        status = ("detshare", "status", "--node-name", self._node.name)
        self._show(*status)
        found = {}
        for gpu in json.loads(self._cluster.run(*status, "--json").stdout)["gpus"]:
            for resident in gpu["residents"]:
                found[resident["job_id"]] = (gpu["uuid"], groups(resident["groups_held"]))
                self._sms[resident["job_id"]] = resident["sms"]
        (first_gpu, first), (second_gpu, second) = (found.get(job, ("", set())) for job in halves)
        if first_gpu != second_gpu or not first_gpu:
            raise ClusterError(f"jobs {halves} are not on one GPU: {first_gpu} and {second_gpu}")
        if not first or not second or first & second:
            raise ClusterError(f"jobs {halves} do not have groups of their own: {first} and {second}")
        print(f"Jobs {halves[0]} and {halves[1]} are on one GPU, and no group is of both.")

    def refusal(self) -> None:
        self._title("A wrong request")
        command = ("srun", "--gres=detshare:1.5", "true")
        run = self._cluster.run(*command, check=False)
        print(f"{_prompt(command)}\n{run.stderr.rstrip()}")
        lines = [line for line in run.stderr.splitlines() if "detshare:1.5" in line]
        if run.returncode == 0 or len(lines) != 1:
            raise ClusterError("the request for one and a half GPUs was not refused in one line that names it")

    def outputs(self, halves: list) -> None:
        self._title("What the programs of the two halves say")
        self._cluster.run("scancel", *self._fillers)
        jobs = [*halves, self._waiting]
        self._until("all three jobs end", lambda: all(self._state(job) == "COMPLETED" for job in jobs), 60)
        for job in halves:
            text = (self._cluster.layout.work / f"{job}.out").read_text()
            try:
                said = json.loads(text)
            except ValueError:
                raise ClusterError(f"job {job} printed no JSON line: {text.strip()}") from None
            used = len(said["smids"])
            print(f"job {job}: {said['command']} on {said['device']}, which it sees with {said['sms']} SMs: "
                  f"{said['launches']} kernels in {said['seconds']:.1f} s, on {used} SMs")
            if not said["launches"] or not 0 < used <= self._sms[job]:
                raise ClusterError(f"job {job} ran on {used} SMs, but holds {self._sms[job]}")
            if self._cluster.host.kind == "emulated" and "mulated" not in said["device"]:
                raise ClusterError(f"job {job} does not say that its GPU is emulated")
        print(f"Job {self._waiting}, which had to wait, has run too.")

    def accounting(self, halves: list) -> None:
        self._title("What sacct shows")
        jobs = ",".join(str(job) for job in halves)
        rows = self._until("accounting has both halves", lambda: self._usage(jobs), ARRIVAL_S)
        self._show("sacct", "-X", "-j", jobs, "-o", "JobID%6,State,AllocTRES%90")
        for job, tres, line in rows:
            if SHARE not in tres.split(","):
                raise ClusterError(f"AllocTRES of job {job} is {tres}, without {SHARE}")
            print(f"AdminComment of job {job}: {line}")

    def _usage(self, jobs: str):
        text = self._cluster.run("sacct", "-X", "-n", "-P", "-j", jobs, "-o",
                                 "JobID,State,AllocTRES,AdminComment").stdout
        rows = [line.split("|", 3) for line in text.splitlines()]
        done = [(row[0], row[2], row[3]) for row in rows if row[1] == "COMPLETED" and "{" in row[3]]
        return done if len(done) == 2 else None

    def _submit(self, share: str, command: str) -> int:
        words = ["sbatch", "--parsable", f"--gres=detshare:{share}", f"--nodelist={self._node.name}",
                 f"--output={self._cluster.layout.work}/%j.out", f"--wrap={command}"]
        print(_prompt(words), flush=True)
        return int(self._cluster.run(*words).stdout)

    def _state(self, job: int) -> str:
        text = self._cluster.run("scontrol", "-o", "show", "job", str(job)).stdout
        return dict(word.partition("=")[::2] for word in text.split())["JobState"]

    def _reason(self, job: int) -> str:
        """Why a pending job waits, as the scheduler last saw it."""
        return self._cluster.run("squeue", "-h", "-j", str(job), "-t", "PENDING", "-o", "%r").stdout.strip()

    def _show(self, *command) -> None:
        """Run a command as a user would, and print both."""
        text = self._cluster.run(*command).stdout
        lines = [line.rstrip() for line in text.rstrip().splitlines()]
        print("\n".join([_prompt(command), *lines]), flush=True)

    @staticmethod
    def _title(text: str) -> None:
        print(f"\n== {text}", flush=True)

    @staticmethod
    def _until(what: str, ask, deadline_s: float):
        end = time.monotonic() + deadline_s
        while True:
            answer = ask()
            if answer:
                return answer
            if time.monotonic() > end:
                raise ClusterError(f"expected that {what}, but after {deadline_s:.0f} s it was not so")
            time.sleep(0.1)
