# SPDX-License-Identifier: Apache-2.0
"""Where everything of a cluster lies, and which ports it has."""

from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError

# A Unix socket's path has room for 107 bytes, and the longest one below the directory is
# node1/gpu-GPU-12345678-1234-1234-1234-123456789012/mps/pipe/control_privileged.
LONGEST_DIRECTORY = 107 - len("/node1/gpu-GPU-") - 36 - len("/mps/pipe/control_privileged")

FIRST_NODE_PORT = 10
MARKER = "DETSHARE_CLUSTER"


@dataclass(frozen=True)
class Layout:
    """Paths below `root`, and ports from `port_base` on."""

    root: Path
    port_base: int

    def __post_init__(self):
        if len(str(self.root)) > LONGEST_DIRECTORY:
            raise ClusterError(
                f"the directory {self.root} is longer than {LONGEST_DIRECTORY} characters, too long "
                "for MPS's Unix sockets below it: choose a shorter one with --dir"
            )

    # Configuration.
    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def node_conf(self) -> Path:
        return self.etc / "detshare-node.conf"

    @property
    def usaged_conf(self) -> Path:
        return self.etc / "detshare-usaged.conf"

    @property
    def settings(self) -> Path:
        return self.root / "cluster.json"

    # Daemons.
    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def pid(self) -> Path:
        return self.root / "pid"

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def munge_dir(self) -> Path:
        return self.root / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.munge_dir / "munge.socket"

    @property
    def mariadb_dir(self) -> Path:
        return self.root / "mariadb"

    @property
    def mariadb_socket(self) -> Path:
        return self.mariadb_dir / "mariadb.socket"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def work(self) -> Path:
        """Writable by every user: where jobs of the demonstration and the tests run."""
        return self.root / "work"

    # What detshare itself keeps; %n is the node's name, as in Slurm.
    def runtime_dir(self, node: str = "%n") -> Path:
        return self.root / node

    def spool_dir(self, node: str = "%n") -> Path:
        return self.root / "usage" / node

    @property
    def collector_dir(self) -> Path:
        return self.root / "usage" / "collector"

    def node_view(self, node: str = "%n") -> Path:
        return self.root / "nodes" / node

    @property
    def emugpu(self) -> Path:
        return self.root / "emugpu"

    # Ports.
    @property
    def slurmctld_port(self) -> int:
        return self.port_base

    @property
    def slurmdbd_port(self) -> int:
        return self.port_base + 1

    @property
    def usage_port(self) -> int:
        return self.port_base + 2

    def node_port(self, index: int) -> int:
        return self.port_base + FIRST_NODE_PORT + index
