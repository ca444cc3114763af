# SPDX-License-Identifier: Apache-2.0
"""What the coroutine library measures of a program, on the emulated GPU, whose kernels last as long as they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runtime_host  # noqa: E402

from coroutine_host import GPU, LIBRARY, sanitizer_runtimes, sms_of  # noqa: E402

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

ROUNDING = 1 / 32  # of the sketch


@pytest.fixture
def report(host, runtime, tmp_path):
    def run(name, *programs, **more):
        path = tmp_path / f"report{len(list(tmp_path.iterdir()))}"
        run.granter = runtime(groups=(0, 1))
        done = host.experiment(name, run.granter, DETSHARE_REPORT=path, **more)
        assert done.stderr == ""
        run.said = done.stdout
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return run


def about(value, low, high):
    return low * (1 - ROUNDING) <= value <= high * (1 + ROUNDING)


def steps(said):
    """The median, the longest and the sum of "measured"'s 50 steps in us, as it saw them."""
    return map(int, said.split())


def test_every_launch(report):
    one, = report("measured", DETSHARE_SAMPLE=1)
    assert one["launches"] == one["samples"] == 60
    assert one["steps"] == 50
    middle, longest, all_us = steps(report.said)
    assert about(one["step_p50_us"], 1000, middle)
    assert about(one["step_p99_us"], 6000, longest), "the pauses of 30 ms are no part of a step"
    assert 0.1 <= one["busy_gpu_s"] <= all_us / 1e6
    by_grid = {tuple(kernel["grid"]): kernel for kernel in one["kernels"]}
    assert {kernel["name"] for kernel in one["kernels"]} == {"spin_us"}
    assert set(by_grid) == {(1, 1, 1), (2, 1, 1)}
    short, long = by_grid[1, 1, 1], by_grid[2, 1, 1]
    assert short["samples"] == 40 and about(short["gpu_us"], 1000, all_us / 40)
    assert long["samples"] == 20 and about(long["gpu_us"], 3000, all_us / 20)
    assert by_grid[2, 1, 1]["block"] == [1, 1, 1]


def test_some_launches(report):
    """Sampled at random, the estimate is the same but for the spread."""
    one, = report("measured", DETSHARE_SAMPLE=3)
    *_, all_us = steps(report.said)
    assert one["launches"] == 60 and one["steps"] == 50
    assert 10 <= one["samples"] <= 30
    assert 0.06 < one["busy_gpu_s"] < 1.8 * all_us / 1e6
    assert sum(kernel["launches"] for kernel in one["kernels"]) == pytest.approx(60, abs=2)


def test_no_samples(report):
    one, = report("measured", DETSHARE_SAMPLE=0)
    assert one["launches"] == 60 and one["samples"] == 0 and one["busy_gpu_s"] == 0
    assert one["steps"] == 50 and about(one["step_p50_us"], 1000, next(steps(report.said)))
    assert one["kernels"] == []


@pytest.mark.parametrize("experiment", ["work", "order", "order-chains", "capture", "graphs", "reset", "threads",
                                        "fork-after", "properties"])
@pytest.mark.parametrize("chaos", [{}, {"DETSHARE_CHAOS": "2:7"}])
def test_sampling_changes_nothing(host, runtime, experiment, chaos):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    inside = host.experiment(experiment, runtime(groups=(1, 2)), DETSHARE_SAMPLE=1, **chaos)
    assert inside.stdout.splitlines() == alone.stdout.splitlines()
    assert inside.stderr == ""


@pytest.mark.parametrize("experiment", ["replay", "by-hand", "updates", "consecutive", "threads", "memory"])
@pytest.mark.parametrize("chaos", [{}, {"DETSHARE_CHAOS": "1:2"}])
def test_graphs_are_measured_as_a_whole(host, runtime, tmp_path, experiment, chaos):
    alone = host.run(GPU / "graph_program", experiment, preload=False).stdout
    path = tmp_path / "report"
    inside = host.run(GPU / "graph_program", experiment, runtime=runtime(groups=tuple(range(6))), DETSHARE_SAMPLE=1,
                      DETSHARE_REPORT=path, **chaos)
    assert inside.stdout == alone
    assert inside.stderr == ""
    graphs = [kernel for kernel in json.loads(path.read_text())["kernels"] if kernel["name"] == "(graph)"]
    assert len(graphs) == 1 and graphs[0]["samples"] > 0 and graphs[0]["gpu_us"] > 0


def test_a_line_for_each_process_that_uses_the_gpu(report):
    assert len(report("fork-before", DETSHARE_SAMPLE=1)) == 1, "its child ends by _exit(2)"
    assert [line["launches"] for line in report("fork-after", DETSHARE_SAMPLE=1)] == [2]
    assert report("without-cuda") == []


def test_a_program_that_moves_is_measured_all_the_same(report):
    one, = report("measured", DETSHARE_SAMPLE=1, DETSHARE_CHAOS="1:3")
    assert one["launches"] == one["samples"] == 60
    assert one["remaps"] > 0 and one["stalls"] <= 8, "at most one for each partition"
    assert about(one["step_p50_us"], 1000, next(steps(report.said)))


def test_threads_share_the_pool(report):
    one, = report("threads", DETSHARE_SAMPLE=1)
    assert 0 < one["samples"] <= one["launches"]


def test_after_a_reset_events_are_made_anew(report):
    one, = report("reset", DETSHARE_SAMPLE=1)
    assert one["samples"] > 0


@pytest.mark.skipif(not runtime_host.BUILD or not (Path(runtime_host.BUILD) / "noderuntime" / "detshare-noderuntime").exists(),
                    reason="DETSHARE_BUILDDIR does not name a built tree")
def test_the_usage_record_has_it():
    node = runtime_host.Host()
    try:
        node.begin("job-7")
        environment = node.env | dict(line.split("=", 1) for line in
                                      (node.run_dir / "job-7" / "task.env").read_text().splitlines())
        environment["LD_PRELOAD"] = " ".join(sanitizer_runtimes() + [str(LIBRARY)])
        said = [subprocess.run([GPU / "coroutine_program", "measured"], env=environment | more, check=True, timeout=100,
                               stdout=subprocess.PIPE, text=True).stdout for more in ({"DETSHARE_SAMPLE": "1"}, {})]
        node.program("job-7")
        node.end("job-7")
        reported = node.record(7)["reported_by_program"]
    finally:
        node.close()
    assert reported["launches"] == 120 and reported["samples"] >= 60
    assert reported["steps"] == 100 and about(reported["step_p50_us"], 1000, max(next(steps(one)) for one in said))
    assert 0.1 <= reported["busy_gpu_s"] < 1
    assert "stalls" not in reported, "what is zero is left out"


# Other libraries in the preload list

TRACER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
typedef int launch(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                   void **);
static int launches;
int cuLaunchKernel(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned shared,
                   void *stream, void **params, void **extra)
{
	launch *next = (launch *)dlsym(RTLD_NEXT, "cuLaunchKernel");
	launches++;
	return next ? next(f, a, b, c, d, e, g, shared, stream, params, extra) : 999;
}
#ifdef WITH_DLSYM
void *dlsym(void *handle, const char *name)
{
	static void *(*next)(void *, const char *);
	if (!next)
		next = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
	if (handle != RTLD_NEXT && !strcmp(name, "cuLaunchKernel") && next(handle, name))
		return (void *)cuLaunchKernel;
	return next(handle, name);
}
#endif
__attribute__((destructor)) static void end(void)
{
	fprintf(stderr, "tracer %d\n", launches);
}
"""


@pytest.fixture
def tracer(tmp_path):
    """A library that stands in front of cuLaunchKernel, as tracers and profilers do."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler here")
    if sanitizer_runtimes():
        pytest.skip("the sanitizers' own preloading is in the way")

    def build(*flags):
        library = tmp_path / f"libtracer{len(flags)}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl", *flags], input=TRACER, text=True,
                       check=True)
        return library
    return build


@pytest.mark.parametrize("flags", [(), ("-DWITH_DLSYM",)])
@pytest.mark.parametrize("first", [True, False])
def test_another_preloaded_library(host, runtime, tracer, flags, first):
    """Whoever comes first, the program runs in its partition, and the other still sees what it would see."""
    libraries = [tracer(*flags), LIBRARY]
    preload = " ".join(map(str, libraries if first else libraries[::-1]))
    command = [GPU / "gpuwork-linked", "reduce", "--n", "20000"]
    alone = json.loads(host.run(*command, preload=False).stdout)
    host.clear()
    granter = runtime(groups=(2, 3))
    inside = host.run(*command, runtime=granter, LD_PRELOAD=preload)
    assert json.loads(inside.stdout)["result"] == alone["result"]
    assert host.sms() and host.sms() <= sms_of((2, 3))
    assert granter.port().launches > 0
    assert inside.stderr.endswith("tracer 2\n" if first else "tracer 0\n"), "behind us it is passed by"
