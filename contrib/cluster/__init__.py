# SPDX-License-Identifier: Apache-2.0
"""A Slurm cluster of one machine, in one directory, on ports of its own.

Started by contrib/quickstart, by the cluster tests, and by hand:
`contrib/cluster/cluster --help`. Standard library only.
"""

from .errors import ClusterError
from .cluster import Cluster

__all__ = ["Cluster", "ClusterError"]
