# SPDX-License-Identifier: Apache-2.0
"""Which stages there are."""

from . import builds, lint

# In the order in which they run: what most often fails and is quick comes first. (function, limit in seconds)
STAGES = {
    "build": (builds.build, 180),
    "unit": (builds.unit, 180),
    "scripts": (builds.scripts, 180),
    "cluster": (builds.cluster, 420),
    "style": (lint.style, 60),
    "shellcheck": (lint.shellcheck, 60),
    "man": (lint.man, 60),
    "clang": (builds.clang, 180),
    "cppcheck": (lint.cppcheck, 120),
    "tidy": (lint.tidy, 240),
    "asan": (builds.asan, 240),
    "tsan": (builds.tsan, 240),
    "valgrind": (builds.valgrind, 180),
    "fuzz": (builds.fuzz, 240),
    "distcheck": (builds.distcheck, 300),
}
