# SPDX-License-Identifier: Apache-2.0
"""Which stages there are."""

from . import builds, lint, model

# In the order in which they run: what most often fails and is quick comes first. (function, limit in seconds:
# several times what it takes on two quiet cores, since the machine may have other work)
STAGES = {
    "build": (builds.build, 300),
    "unit": (builds.unit, 300),
    "scripts": (builds.scripts, 420),
    "chaos": (builds.chaos, 300),
    "cluster": (builds.cluster, 720),
    "model": (model.model, 240),
    "style": (lint.style, 60),
    "shellcheck": (lint.shellcheck, 60),
    "man": (lint.man, 60),
    "clang": (builds.clang, 300),
    "cppcheck": (lint.cppcheck, 120),
    "tidy": (lint.tidy, 480),
    "asan": (builds.asan, 420),
    "tsan": (builds.tsan, 420),
    "valgrind": (builds.valgrind, 300),
    "fuzz": (builds.fuzz, 420),
    "distcheck": (builds.distcheck, 300),
}
