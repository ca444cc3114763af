# SPDX-License-Identifier: Apache-2.0
"""The coroutine library on the emulated GPU, against a node runtime that the tests play themselves."""

import json
import os
import random
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from coroutine_host import (GPU, GROUP_SMS, LIBRARY, MAGIC, NOT_PERMITTED, TOO_LARGE, VERSION, Running, Runtime,
                            assert_left, blocks, one_line, sanitizer_runtimes, sms_of)
from runtime_host import stop, wait_for

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


@pytest.mark.parametrize("groups", [(0,), (0, 1), (1, 3), (4, 5), tuple(range(6))])
def test_work_runs_in_the_granted_groups(host, runtime, groups):
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    granter = runtime(groups=groups)
    inside = host.experiment("work", granter)
    assert inside.stdout == alone
    assert inside.stderr == ""
    assert host.sms() and host.sms() <= sms_of(groups)
    port = granter.port()
    assert (port.magic, port.version) == (MAGIC, VERSION)
    assert port.groups == set(groups)
    assert port.epoch == 2
    assert port.launches == 6 * 3
    assert granter.hellos[0][:3] == (MAGIC, VERSION, 1)


@pytest.mark.parametrize("stream", ["null", "blocking", "nonblocking", "perthread"])
@pytest.mark.parametrize("program", ["gpuwork", "gpuwork-linked"])
def test_gpuwork_by_every_way_of_linking(host, runtime, program, stream):
    for link in ["getproc", "dlsym"] if program == "gpuwork" else ["dlsym"]:
        command = [GPU / program, "reduce", "--stream", stream, "--link", link, "--n", "20000"]
        alone = json.loads(host.run(*command, preload=False).stdout)
        host.clear()
        inside = json.loads(host.run(*command, runtime=runtime(groups=(2, 3))).stdout)
        assert inside["result"] == alone["result"]
        assert host.sms() and host.sms() <= sms_of((2, 3))


@pytest.mark.parametrize("experiment", ["order", "order-chains", "properties", "capture", "graphs",
                                        "reset", "descriptors", "fork-after"])
def test_same_as_alone(host, runtime, experiment):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    alone = alone.stdout
    granter = runtime(groups=(1, 2))
    inside = host.experiment(experiment, granter).stdout
    assert inside.splitlines() == alone.splitlines()


def test_clearing_the_environment_is_no_way_out(host, runtime):
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    assert host.experiment("cleared-environment", runtime(groups=(2,))).stdout == alone
    assert host.sms() <= sms_of((2,))


def test_a_destroyed_stream_is_still_waited_for(host, runtime):
    assert host.experiment("order-destroyed", runtime()).stdout == "destroyed 1\n"


def test_lookup_gives_the_stand_ins(host):
    alone = host.experiment("lookup", preload=False).stdout.splitlines()
    inside = host.experiment("lookup").stdout.splitlines()
    assert len(alone) == len(inside)
    ours = {"dlsym", "dlsym-ptsz", "deepbind", "default"}
    for before, after in zip(alone, inside):
        path, *found = before.split()
        if len(found) == 2 and found[0] not in ("none", "cuMemGetAddressRange_v2") and (path in ours or ":" in path):
            assert after.split() == [path, found[0], "libdetshar"]
        elif path == "next":
            assert after.split()[-1] == "libdetshar"
        else:
            assert after == before


def test_without_cuda_nothing_is_different(host, runtime):
    granter = runtime()
    alone = host.experiment("without-cuda", preload=False)
    inside = host.experiment("without-cuda", granter)
    assert (inside.stdout, inside.stderr) == (alone.stdout, "")
    assert granter.hellos == []


def test_without_cuda_no_thread_and_no_descriptor(host, runtime):
    granter = runtime()
    for directory in ("fd", "task"):
        command = ["/bin/ls", f"/proc/self/{directory}"]
        with_it, without = host.run(*command, runtime=granter), host.run(*command, preload=False)
        assert len(with_it.stdout.split()) == len(without.stdout.split())
    assert granter.hellos == []


def test_threads(host, runtime):
    granter = runtime(groups=(0, 2))
    inside = host.experiment("threads", granter)
    assert inside.stdout == "wrong 0\n"
    assert host.sms() <= sms_of((0, 2))


def test_two_copies_of_the_library(host, runtime, tmp_path):
    copy = tmp_path / "copy" / "libdetshare-cuda.so"
    copy.parent.mkdir()
    copy.write_bytes(LIBRARY.read_bytes())
    alone = host.experiment("work", preload=False).stdout
    for libraries in ([LIBRARY, LIBRARY], [LIBRARY, copy], [copy, LIBRARY]):
        host.clear()
        granter = runtime(groups=(3,))
        preload = " ".join(sanitizer_runtimes() + [str(library) for library in libraries])
        inside = host.experiment("work", granter, LD_PRELOAD=preload)
        assert inside.stdout == alone
        assert host.sms() <= sms_of((3,))
        assert len(granter.hellos) == 1
        assert granter.port().launches == 18


@pytest.mark.parametrize("arguments, words", [
    ({"refuse": "the allocation has ended"}, ["refused: the allocation has ended"]),
    ({"version": 9}, ["version 9"]),
    ({"shape": (11, 4, 0)}, ["44 SMs"]),
    ({"page_size": 16}, ["smaller than"]),
])
def test_no_partition(host, runtime, arguments, words):
    alone = host.experiment("work", preload=False).stdout
    required = host.run(GPU / "coroutine_program", "work", runtime=runtime(**arguments), check=False)
    assert one_line(required.stderr, "may not use the GPU", *words)
    assert alone not in required.stdout
    free = host.experiment("work", runtime(**arguments), DETSHARE_REQUIRED="0")
    assert free.stdout == alone
    assert one_line(free.stderr, "whole GPU", *words)


def test_no_runtime(host, tmp_path):
    alone = host.experiment("work", preload=False).stdout
    gone = {"DETSHARE_PORT": tmp_path / "gone"}
    required = host.run(GPU / "coroutine_program", "work", **gone)
    assert json.loads(required.stdout) == {"retain": NOT_PERMITTED}
    assert one_line(required.stderr, "cannot reach the node runtime", str(tmp_path / "gone"))
    free = host.experiment("work", DETSHARE_REQUIRED="0", **gone)
    assert free.stdout == alone
    assert one_line(free.stderr, "whole GPU", "cannot reach the node runtime")
    assert host.experiment("work").stdout == alone, "without a port the library stands aside"
    required = host.run(GPU / "coroutine_program", "work", DETSHARE_REQUIRED="1")
    assert one_line(required.stderr, "DETSHARE_PORT")


def test_another_device_is_left_alone(host, runtime, tmp_path):
    other = Runtime(tmp_path / "other", "GPU-00000000-0000-0000-0000-000000000000", groups=(0,))
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    assert host.experiment("work", other).stdout == alone
    assert len(host.sms()) > GROUP_SMS
    assert other.port().groups == set()
    other.close()


def test_own_contexts_are_counted(host, runtime):
    granter = runtime()
    inside = host.experiment("own-context", granter)
    assert (inside.stdout, inside.stderr) == ("own context 0\n", "")
    assert granter.port().own_contexts == 1


def test_cooperative_grids_larger_than_the_partition_are_counted(host, runtime):
    alone = host.experiment("cooperative", preload=False).stdout.splitlines()
    granter = runtime(groups=(0,))
    granter.flags(1 << 5, tell=False)  # DS_PAGE_WHOLE_REFUSED; test_whole.py has the other way
    inside = host.experiment("cooperative", granter)
    differ = [after for before, after in zip(alone, inside.stdout.splitlines()) if before != after]
    failed = [line for line in inside.stdout.splitlines() if line.endswith(f": {TOO_LARGE}")]
    assert differ and all(line.endswith(f": {TOO_LARGE}") for line in differ)
    assert len(failed) > len(differ) == granter.port().too_large, "only what would have fitted alone"
    assert one_line(inside.stderr, "cooperative")


def test_fork_before_use_gives_two_sessions(host, runtime):
    alone = host.experiment("fork-before", preload=False).stdout
    granter = runtime(groups=(1,))
    assert host.experiment("fork-before", granter).stdout == alone
    assert len(granter.hellos) == 2
    assert [granter.port(i).launches for i in range(2)] == [18, 18]
    assert host.sms()


def test_child_of_a_program_that_uses_cuda_is_silent(host, runtime):
    granter = runtime()
    host.experiment("fork-after", granter)
    assert len(granter.hellos) == 1
    assert granter.port().launches == 2


def test_the_session_lasts_as_long_as_the_program(host, runtime):
    granter = runtime()
    with subprocess.Popen([GPU / "coroutine_program", "hold"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env=host.environment(granter)) as program:
        assert program.stdout.readline() == b"holding\n"
        assert granter.open == 1
        numbers = sorted(int(fd) for fd in os.listdir(f"/proc/{program.pid}/fd"))
        sockets = [fd for fd in numbers if "socket" in os.readlink(f"/proc/{program.pid}/fd/{fd}")]
        assert sockets and min(sockets) >= 900
        program.stdin.close()
        program.wait()


def test_a_grant_is_waited_for(host, runtime):
    granter = runtime(groups=(), epoch=2)
    with subprocess.Popen([GPU / "coroutine_program", "work"], stdout=subprocess.PIPE,
                          env=host.environment(granter)) as program:
        wait_for(lambda: granter.hellos)
        time.sleep(0.5)
        assert program.poll() is None
        os.pwrite(granter.page, struct.pack("<Q", 3), 8)
        os.pwrite(granter.page, struct.pack("<Q", 1 << 4), 32)
        os.pwrite(granter.page, struct.pack("<Q", 4), 8)
        assert program.wait(timeout=60) == 0
    assert host.sms() <= sms_of((4,))
    assert granter.port().epoch == 4


# ---- moving ----

@pytest.mark.parametrize("chaos", ["1", "2", "7", "1:77"])
@pytest.mark.parametrize("experiment", ["work", "order", "order-chains", "properties", "capture", "graphs",
                                        "threads", "reset", "descriptors", "fork-before", "fork-after",
                                        "cooperative", "wake", "moved-properties", "threads-share", "exits"])
def test_same_as_alone_when_moved_all_the_time(host, runtime, experiment, chaos):
    alone = host.experiment(experiment, preload=False, check=False)
    if alone.returncode == 77:
        pytest.skip(f"{experiment}: {alone.stdout.strip()}")
    host.clear()
    granter = runtime(groups=tuple(range(6)) if experiment == "cooperative" else (0, 1, 3, 4))
    granter.flags(1 << 5 if experiment == "cooperative" else 0, tell=False)  # DS_PAGE_WHOLE_REFUSED
    inside = host.experiment(experiment, granter, DETSHARE_CHAOS=chaos)
    if experiment == "cooperative":
        assert granter.port().remaps or chaos == "7"
        return  # the largest grid that fits is the partition's
    assert inside.stdout.splitlines() == alone.stdout.splitlines()
    assert inside.stderr == ""
    assert host.sms() <= sms_of((0, 1, 3, 4))
    if chaos == "1" and granter.port().launches > 6:
        assert granter.port().remaps > 3


@pytest.mark.parametrize("stream", ["null", "blocking", "nonblocking", "perthread"])
def test_gpuwork_when_moved_all_the_time(host, runtime, stream):
    command = [GPU / "gpuwork", "reduce", "--stream", stream, "--n", "20000"]
    alone = json.loads(host.run(*command, preload=False).stdout)
    for chaos in ("1", "2:9"):
        inside = json.loads(host.run(*command, runtime=runtime(groups=(0, 2, 3)), DETSHARE_CHAOS=chaos).stdout)
        assert inside["result"] == alone["result"]


def test_chaos_that_cannot_be_read_is_named(host, runtime):
    alone = host.experiment("work", preload=False).stdout
    for chaos in ("0", "often", "2:", "-1"):
        granter = runtime()
        inside = host.experiment("work", granter, DETSHARE_CHAOS=chaos)
        assert inside.stdout == alone
        assert one_line(inside.stderr, f"DETSHARE_CHAOS={chaos}", "EVERY:SEED")
        assert granter.port().remaps == 0


def test_an_idle_program_gives_groups_back(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    with Running(host, granter, "hold", "holding") as running:
        for groups in ((1,), (1, 3, 4), (0, 1, 2), (5, 2)):
            assert granter.wait_for(granter.grant(groups)) == set(groups)
        assert granter.port().epoch == granter.epoch
        running.end()


def test_a_program_blocked_in_a_synchronise_gives_groups_back(host, runtime):
    granter = runtime(groups=(0, 1, 2, 3, 4))
    with Running(host, granter, "blocked", "blocked") as running:
        assert granter.wait_for(granter.grant((2,))) == {2}
        when = time.monotonic_ns()  # all is left: that kernel is over
        assert running.end()[0].split() == ["done", "again"]
    assert_left(host, when, (2,))
    assert host.sms() > sms_of((2,))


def test_a_stopped_program_is_waited_for(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "hold", "holding") as running:
        stop(running.program.pid)
        os.waitpid(running.program.pid, os.WUNTRACED)
        epoch = granter.grant((1,))
        time.sleep(0.2)
        assert not [one for one in granter.acknowledged if one[0] == epoch]
        os.kill(running.program.pid, signal.SIGCONT)
        assert granter.wait_for(epoch) == {1}
        running.end()


@pytest.mark.parametrize("seed", range(3))
def test_no_block_runs_where_groups_were_given_back(host, runtime, seed):
    draw = random.Random(seed)
    granter = runtime(groups=(0, 1, 2, 3, 4, 5))
    with Running(host, granter, "pumping", "pumping") as running:
        for _ in range(12):
            groups = set(draw.sample(range(6), draw.randint(1, 6))) | {draw.randrange(5)}
            host.clear()
            assert granter.wait_for(granter.grant(groups)) == groups
            when = time.monotonic_ns()
            time.sleep(draw.choice((0, 0.02, 0.1)))
            assert_left(host, when, groups)
        out, err = running.end()
        assert (out, err) == ("wrong 0\n", "")
    assert granter.port().remaps > 12


def test_only_the_last_of_many_grants_counts(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    with Running(host, granter, "pumping", "pumping") as running:
        for round in range(60):
            granter.grant({round % 5, (round * 3 + 1) % 5})
        last = {59 % 5, (59 * 3 + 1) % 5}
        assert granter.wait_for(granter.epoch) == last
        when = time.monotonic_ns()
        time.sleep(0.05)
        assert_left(host, when, last)
        assert running.end()[0] == "wrong 0\n"


def test_more_partitions_than_are_kept(host, runtime):
    """All 32 sets with group 0 in them, one after the other: old physical contexts make room."""
    granter = runtime(groups=(0,))
    with Running(host, granter, "pumping", "pumping") as running:
        for bits in range(32):
            groups = {0} | {i + 1 for i in range(5) if bits >> i & 1}
            assert granter.wait_for(granter.grant(groups)) == groups
        out, err = running.end()
        assert (out, err) == ("wrong 0\n", "")


def test_moves_and_grants_at_once(host, runtime):
    granter = runtime(groups=(0, 1, 2, 3))
    with Running(host, granter, "pumping", "pumping", DETSHARE_CHAOS="3") as running:
        for groups in ({0, 1}, {1, 2, 3, 4}, {2}, {0, 2, 4, 5}, {4, 1}):
            host.clear()
            assert granter.wait_for(granter.grant(groups)) == groups
            when = time.monotonic_ns()
            time.sleep(0.05)
            assert_left(host, when, groups)
        assert running.end() == ("wrong 0\n", "")


def test_groups_go_back_while_a_stream_is_captured(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "capturing", "capturing") as running:
        granter.wait_for(granter.grant({1}))
        assert running.end() == ("end 0\n", "")


def test_the_runtime_may_go_away(host, runtime):
    granter = runtime(groups=(0, 1))
    with Running(host, granter, "pumping", "pumping") as running:
        granter.go_away()
        time.sleep(0.1)
        assert running.end() == ("wrong 0\n", "")


def test_a_program_may_exit_while_it_gives_groups_back(host, runtime):
    for _ in range(5):
        granter = runtime(groups=(0, 1, 2))
        with subprocess.Popen([GPU / "coroutine_program", "exits"], stdout=subprocess.PIPE,
                              env=host.environment(granter)) as program:
            while not granter.ports or not granter.port().launches:
                time.sleep(0.001)
            granter.grant({0})
            assert program.wait(timeout=60) == 0


def test_the_thread_that_follows_the_page(host, runtime):
    """Is there from the first use of the GPU, by its name, and takes no signal."""
    granter = runtime()
    with Running(host, granter, "hold", "holding") as running:
        tasks = Path(f"/proc/{running.program.pid}/task")

        def follower():
            # It gives itself its name.
            return next((task for task in tasks.iterdir() if (task / "comm").read_text() == "detshare\n"), None)

        status = (wait_for(follower, 60) / "status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
        assert all(blocked >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        running.end()


def pairs(host):
    """The blocks of two kernels that may overlap, pair by pair: 10 ms each."""
    found = sorted((block for block in blocks(host) if block["end_ns"] - block["begin_ns"] > 5e6), key=lambda b: b["begin_ns"])
    assert len(found) == 12
    return list(zip(found[::2], found[1::2]))


@pytest.mark.parametrize("experiment", ["overlaps", "overlaps-in-graph"])
def test_kernels_that_may_overlap_do(host, runtime, experiment):
    """Nothing of the library comes between them (programmatic dependent launch)."""
    granter = runtime(groups=(1, 3))
    assert host.experiment(experiment, granter).stdout == host.experiment(experiment, preload=False).stdout == "6 pairs\n"

    def overlap():
        host.clear()
        host.experiment(experiment, granter)
        return all(second["begin_ns"] < first["end_ns"] for first, second in pairs(host))

    # On a busy machine the second kernel may be launched when the first has ended, but not each time.
    wait_for(overlap, 60)


def test_kernels_that_may_overlap_do_not_across_a_move(host, runtime):
    granter = runtime(groups=tuple(range(6)))
    host.experiment("overlaps", granter, DETSHARE_CHAOS="1:1")
    assert granter.port().remaps >= 6
    assert all(second["begin_ns"] >= first["end_ns"] for first, second in pairs(host))


def test_an_edge_with_a_port_moves_with_its_graph(host, runtime):
    granter = runtime(groups=tuple(range(6)))

    def overlap():
        host.clear()
        host.experiment("overlaps-in-graph", granter, DETSHARE_CHAOS="1:1")
        assert granter.port(-1).remaps >= 5
        return all(second["begin_ns"] < first["end_ns"] for first, second in pairs(host))

    wait_for(overlap, 60)  # as above
