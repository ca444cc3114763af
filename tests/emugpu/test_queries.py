# SPDX-License-Identifier: Apache-2.0
"""Whatever a program can ask, it is answered as alone, before it is moved and after."""

import pytest

from coroutine_host import GPU, LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


def sections(text):
    """Questions and answers by where they were asked: so that a difference says where it is."""
    found, where = [], ""
    for line in text.splitlines():
        if not line.startswith("  "):
            where = line
        found.append((where, line))
    return found


@pytest.mark.parametrize("context", ["primary", "created"])
@pytest.mark.parametrize("chaos", ["", "1", "3:7"])
@pytest.mark.parametrize("groups", [(2,), (0, 1, 3, 4)], ids=str)
def test_every_answer_is_as_alone(host, runtime, context, chaos, groups):
    alone = sections(host.run(GPU / "query_program", context, preload=False).stdout)
    granter = runtime(groups=groups)
    ended = host.run(GPU / "query_program", context, runtime=granter, DETSHARE_CHAOS=chaos)
    inside = sections(ended.stdout)
    assert len(alone) > 1000
    assert [pair for pair in zip(alone, inside) if pair[0] != pair[1]] == []
    assert len(alone) == len(inside)
    assert ended.stderr == ""
    if chaos and len(groups) > 1:
        assert granter.port().remaps > 20
