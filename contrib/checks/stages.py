# SPDX-License-Identifier: Apache-2.0
"""Which stages there are."""

from . import builds, lint, model, toolkits

# In the order in which they run: what most often fails and is quick comes first. (function, limit in seconds:
# several times what it takes on two quiet cores, since the machine may have other work)
STAGES = {
    "build": (builds.build, 600),
    "unit": (builds.unit, 600),
    "scripts": (builds.scripts, 1200),
    "toolkits": (toolkits.toolkits, 600),
    "chaos": (builds.chaos, 600),
    "cluster": (builds.cluster, 1200),
    "model": (model.model, 1200),
    "style": (lint.style, 120),
    "shellcheck": (lint.shellcheck, 120),
    "man": (lint.man, 120),
    "clang": (builds.clang, 900),
    "cppcheck": (lint.cppcheck, 300),
    "tidy": (lint.tidy, 900),
    "asan": (builds.asan, 900),
    "tsan": (builds.tsan, 900),
    "valgrind": (builds.valgrind, 900),
    "fuzz": (builds.fuzz, 900),
    "distcheck": (builds.distcheck, 900),
}
