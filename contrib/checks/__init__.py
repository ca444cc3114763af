# SPDX-License-Identifier: Apache-2.0
"""The stages of contrib/check: each builds or runs something and counts what passed."""
