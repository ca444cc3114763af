# SPDX-License-Identifier: Apache-2.0
"""Everything in a configuration that depends on Slurm's version (22.05 to 26.05), in one place."""

import re
import subprocess
from dataclasses import dataclass

from .errors import ClusterError


@dataclass(frozen=True)
class SlurmVersion:
    """A release as (year, month): (22, 5)."""

    release: tuple
    text: str

    def cgroup_conf(self) -> str:
        """Keep slurmd from looking for a cgroup hierarchy: nothing here uses it, and a container has none.

        The v1 plugin touches no file until something asks it to; later releases can do without any.
        """
        return "CgroupPlugin=disabled\n" if self.release >= (23, 11) else "CgroupPlugin=cgroup/v1\n"


def probe(slurmctld: str) -> SlurmVersion:
    """Ask `slurmctld -V`."""
    run = subprocess.run([slurmctld, "-V"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)\.\d+", run.stdout)
    if run.returncode != 0 or not found:
        raise ClusterError(f"cannot read Slurm's version from '{slurmctld} -V': {run.stdout.strip()}")
    return SlurmVersion((int(found[1]), int(found[2])), found[0])
