# SPDX-License-Identifier: Apache-2.0
"""The programs that are run beside each other, and how they talk to who runs them."""
