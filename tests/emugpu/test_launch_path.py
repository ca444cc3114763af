# SPDX-License-Identifier: Apache-2.0
"""What a launch costs inside the library: instructions, counted one by one; and nobody else's code."""

import json

import pytest

from coroutine_host import BUILD, LIBRARY, sanitizer_runtimes

pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="DETSHARE_BUILD does not name a build (contrib/check sets it)"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def lines(host, runtime):
    if sanitizer_runtimes():
        pytest.skip("built with a sanitizer, whose instructions these are not")
    run = host.run(BUILD / "tests" / "bench" / "launch_path", runtime=runtime(groups=(0, 1)), check=False,
                   DETSHARE_SAMPLE=0)
    if run.returncode == 77:
        pytest.skip(run.stdout.strip() or "programs cannot be stepped through here")
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_launch_is_a_few_instructions_and_nobody_elses(lines):
    for line in lines:
        assert line["launches"] == 3 * line["streams"]
        assert (line["foreign"], line["foreign_code"]) == (0, ""), f"the C library or another one: {line}"
        assert line["system_calls"] == 0, line


def test_how_many_instructions_there_may_be(lines):
    """At -O2 119 to 130 of gcc 12 with a stream, 134 to 149 of clang 14; with a default stream 195 at most."""
    for line in lines:
        of_default = line["streams"] == 1 and line["blocking"]
        assert line["fewest"] <= (210 if of_default else 160), line
        assert line["most"] <= line["fewest"] + 45, f"handles may collide in the table, but not often: {line}"
        assert line["driver_calls"] == (2 if of_default else 1), "the launch, and which context is current"
        assert line["atomics"] <= 2, line


def test_memory_of_the_library(host):
    """With 32 streams, in one partition and in eight: 0.4 and 1.2 MiB when this was written."""
    if sanitizer_runtimes():
        pytest.skip("built with a sanitizer, whose memory this is not")
    line = json.loads(host.run(BUILD / "tests" / "bench" / "bench_start", LIBRARY, 3, preload=False).stdout)
    assert 0 < line["added_host_kib"] <= 4 * 1024 and line["added_host_kib_8_partitions"] <= 16 * 1024, line
