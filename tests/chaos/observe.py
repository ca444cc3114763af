# SPDX-License-Identifier: Apache-2.0
"""What must hold on a node, whatever happens to it: looked at from outside."""
import json
import os
import select
import subprocess
import time
from pathlib import Path

from events import GROUPS, SMALLEST_WHOLE

PATIENCE_S = 60  # for what must come in the end: many times what it takes on a loaded machine
# Descriptors of a runtime: for each program of its own (pidfd, port, connection), each neighbour (pidfd, bell), and to spare.
FDS_PROGRAM, FDS_NEIGHBOUR, FDS_SPARE = 3, 2, 3


class Violation(AssertionError):
    """An invariant does not hold."""


def expect(holds, what):
    if not holds:
        raise Violation(what)


def wait_until(reason, patience_s=PATIENCE_S):
    """Until `reason()` is None; else its last word is the violation."""
    end = time.monotonic() + patience_s
    while (why := reason()) is not None:
        expect(time.monotonic() < end, f"still after {patience_s} s: {why}")
        time.sleep(0.02)


def members(text):
    """The groups in "0-3,7+rest"; the rest is GROUPS."""
    found = set()
    for part in text.replace("+", ",").split(","):
        if part in ("", "none"):
            continue
        first, _, last = part.partition("-")
        found |= {GROUPS} if part == "rest" else set(range(int(first), int(last or first) + 1))
    return found


class Watch:
    """Every state of a GPU's ledger, checked by a program of its own (ledger_watch.c)."""

    def __init__(self, build, gpu_dir):
        self.process = subprocess.Popen([build / "tests/chaos/ledger_watch", gpu_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def look(self):
        if select.select([self.process.stdout], [], [], 0)[0]:
            raise Violation(f"the ledger: {self.process.stdout.readline()}")
        expect(self.process.poll() is None, "ledger_watch has ended")

    def end(self):
        """How much it saw."""
        said, _ = self.process.communicate()
        lines = [json.loads(line) for line in said.splitlines()]
        expect(len(lines) == 1 and self.process.returncode == 0, f"the ledger: {said}")
        return lines[0]


def isolation(host, build, gpu, owner_of, may_meet):
    """No two programs of different allocations could be on one SM at an instant; but in a group where turns were impossible then."""
    done = subprocess.run([build / "tests/emugpu/emugpu-host", "check", host.dir / "host", str(gpu)], text=True,
                          capture_output=True, check=False, timeout=60)
    expect(done.stdout, f"emugpu-host check: {done.stderr}")
    counted = json.loads(done.stdout)
    expect(not counted["overlaps"], f"GPU {gpu}: {counted['overlaps']} blocks began on an SM that was in use")
    for met in counted.get("met", []):
        owners = [owner_of(pid) for pid in met["pids"]]
        expect(owners[0] == owners[1] or may_meet(owners, met["at_ns"]),
               f"GPU {gpu}: processes {met['pids']} of {owners} could both run on SM {met['sm']} at {met['at_ns']}")
    return counted


def unsettled(present, allocations, active):
    """Why the residents do not all have what is theirs, or all of their own if they are active; None: they have."""
    if isinstance(present, str):
        return present
    found = {r["allocation"]: r for r in present}
    for allocation in allocations:
        resident = found.get(allocation.name)
        if resident is None:
            return f"{allocation.name} is not in the ledger"
        held, planned, own = (members(resident[f"groups_{what}"]) for what in ("held", "planned", "own"))
        if held != planned:
            return f"{allocation.name} holds {resident['groups_held']} of {resident['groups_planned']}"
        if len(own - {GROUPS}) < max(1, allocation.share * GROUPS // 1000):
            return f"{allocation.name} with a share of {allocation.share} thousandths owns {resident['groups_own']} only"
        if not own <= held and allocation in active:
            return f"{allocation.name} has work and holds {resident['groups_held']}, not all of its own {resident['groups_own']}"
        if allocation.share >= SMALLEST_WHOLE and resident["weight"] < 1:
            return f"{allocation.name} with a share of {allocation.share} thousandths has to share a group"
    for name in set(found) - {a.name for a in allocations}:
        return f"{name} is in the ledger and should not be"
    return None


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def residents(host, gpu=None):
    """Of a GPU or of all, as `detshare status` has them; text instead where it says why it cannot."""
    done = subprocess.run(host.command("status", "--json", "--config", host.conf), env=host.env, text=True,
                          capture_output=True, check=False, timeout=PATIENCE_S)
    if done.returncode != 0:
        return done.stderr.strip()
    gpus = json.loads(done.stdout)["gpus"]
    return [r for one in (gpus if gpu is None else [gpus[gpu]]) for r in one["residents"]]


def mps_processes(gpu_dir, which):
    """Pids of a GPU's MPS "control" daemon or "server", its child. Both have the same name."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(gpu_dir).encode() in (entry / "environ").read_bytes() and \
                    b"nvidia-cuda-mps" in (entry / "cmdline").read_bytes():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass
    return [pid for pid, parent in parents.items() if (parent in parents) == (which == "server")]


def processes_of(directory):
    """Processes of the node: all have its directory in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            pass
    return found


def left_over(host, build, gpus):
    """What an empty node still has, as text; None: nothing."""
    for entry in sorted(host.run_dir.iterdir(), key=lambda entry: entry.name.startswith("gpu-")):
        if not entry.name.startswith("gpu-"):
            return f"{entry} is left"
        known = {"ledger", "ledger.broken", "ledger.new", "topology", "mps.lock", "faults"}  # .new: of a killed maker
        odd = {f.name for f in entry.iterdir()} - known
        if odd:
            return f"{entry}: {sorted(odd)} are left"
    if present := residents(host):
        return f"{present} are left in the ledger"
    for gpu in range(gpus):
        clients = subprocess.run([build / "tests/emugpu/emugpu-host", "clients", host.dir / "host", str(gpu)], text=True,
                                 capture_output=True, check=True, timeout=60).stdout
        if clients:
            return f"GPU {gpu} still has clients: {clients}"
    left = processes_of(host.dir)
    return f"processes are left: {left}" if left else None
