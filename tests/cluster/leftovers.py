# SPDX-License-Identifier: Apache-2.0
"""What may be left after a test: nothing but the cluster's daemons and each GPU's empty ledger."""

import json
import time

from cluster import daemons, processes

SETTLE_S = 60
GPU_FILES = {"ledger", "topology", "mps.lock", "faults"}


class Leftovers:
    """Looks for what jobs left behind."""

    def __init__(self, cluster, slurm):
        self._cluster = cluster
        self._slurm = slurm
        self._baseline = set(processes.belonging(cluster.layout.root))

    def check(self) -> None:
        """Fail unless everything is as before the first job, within the time that a clean-up may take."""
        end = time.monotonic() + SETTLE_S
        while True:
            found = self._find()
            if not found:
                return
            assert time.monotonic() < end, "left after the test: " + "; ".join(found)
            time.sleep(0.1)

    def _find(self) -> list:
        found = self._processes()
        for node in self._cluster.nodes:
            folder = self._cluster.layout.runtime_dir(node.name)
            for entry in sorted(folder.rglob("*")):
                if self._unexpected(entry.relative_to(folder), entry.is_dir()):
                    found.append(f"{entry}")
            found += self._residents(node.name)
        return found + self._nodes()

    def _processes(self) -> list:
        known = set(self._baseline)
        known.update(daemons.running(self._cluster.layout, name) for name in self._cluster.daemon_names())
        left = [p for p in processes.belonging(self._cluster.layout.root) if p not in known]
        # slurmd's restart in a test makes a new one; slurmctld's script daemon belongs to slurmctld.
        return [f"process {p.pid} ({p.command()})" for p in left]

    @staticmethod
    def _unexpected(path, is_dir: bool) -> bool:
        """A GPU's folder keeps its ledger, topology, lock and faults (which do not grow for ever); mps may be there, but empty."""
        parts = path.parts
        if not parts[0].startswith("gpu-"):
            return True
        if len(parts) == 1 or parts[1] in GPU_FILES:
            return False
        return not (is_dir and parts[1] == "mps")

    def _residents(self, node: str) -> list:
        run = self._cluster.run("detshare", "status", "--json", "--node-name", node, check=False)
        if run.returncode != 0:
            return [f"detshare status on {node} failed: {run.stderr.strip()}"]
        return [f"resident of {gpu['uuid']} on {node}: {resident}"
                for gpu in json.loads(run.stdout)["gpus"] for resident in gpu["residents"]]

    def _nodes(self) -> list:
        states = self._cluster.run("sinfo", "-h", "-N", "-o", "%N %T").stdout.split("\n")
        return [f"node {line}" for line in states if line and not line.endswith(" idle")]
