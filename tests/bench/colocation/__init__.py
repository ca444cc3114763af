# SPDX-License-Identifier: Apache-2.0
"""What programs do to each other on one GPU: settings side by side. tests/bench/colocate is the command."""
