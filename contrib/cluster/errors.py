# SPDX-License-Identifier: Apache-2.0
"""The one exception of this package."""


class ClusterError(Exception):
    """What was tried, why it failed and what to do, ready to be shown to a person."""
