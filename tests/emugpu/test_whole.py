# SPDX-License-Identifier: Apache-2.0
"""Suspension and whole-GPU windows, as the coroutine library sees them: the node runtime is the test's own."""
import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import stop, wait_for  # noqa: E402
from coroutine_host import GPU, LIBRARY, SMS, Running, assert_left, blocks, one_line, sms_of  # noqa: E402

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

SUSPENDED, WHOLE, REFUSED = 8, 16, 32  # enum ds_page_flags
ALL, OWN = tuple(range(6)), (0, 1)
WANTED, WINDOWS = 2108, 2112  # struct ds_port: whole_wanted, whole_windows
KERNELS, PATIENCE = 160, 672  # struct ds_page: whole_gpu_kernels, whole_patience_ms
TOO_LARGE = 720


def cpu(pid):
    """Hundredths of a second that the process has computed."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


# ---- suspension ----

def settled(granter, epoch, groups):
    """Wait until the program says that it is there; one that begins just then first says that it is nowhere."""
    granter.wait_for(epoch)
    wait_for(lambda: granter.port().epoch == epoch and granter.port().groups == set(groups), 60)


@pytest.mark.parametrize("chaos", ["", "3"])
def test_nothing_begins_while_suspended_and_all_goes_on_after(host, runtime, chaos):
    granter = runtime(groups=OWN)
    with Running(host, granter, "pumping", "pumping", DETSHARE_CHAOS=chaos) as running:
        for groups in (OWN, (2, 3), ALL):
            assert granter.wait_for(granter.grant((), SUSPENDED)) == set()
            when, spent = time.monotonic_ns(), cpu(running.program.pid)
            time.sleep(0.3)
            assert_left(host, when, ())
            assert cpu(running.program.pid) - spent <= 3, "who waits sleeps"
            host.clear()
            settled(granter, granter.grant(groups), groups)
            wait_for(lambda: len(blocks(host)) > 40, 60)
            assert host.sms() <= sms_of(OWN) | sms_of((2, 3)) | sms_of(groups)
        assert running.end() == ("wrong 0\n", "")


@pytest.mark.parametrize("seed", range(2))
def test_suspended_at_any_time(host, runtime, seed):
    draw = random.Random(seed)
    granter = runtime(groups=(0, 1, 2, 3, 4, 5))
    with Running(host, granter, "pumping", "pumping") as running:
        for _ in range(15):
            epoch = granter.grant((), SUSPENDED)
            if draw.random() < 0.7:
                assert granter.wait_for(epoch) == set()
                when = time.monotonic_ns()
                time.sleep(draw.choice((0, 0.02)))
                assert_left(host, when, ())
            groups = set(draw.sample(range(6), draw.randint(1, 6))) | {draw.randrange(5)}
            host.clear()
            epoch = granter.grant(groups)
            if draw.random() < 0.7:
                settled(granter, epoch, groups)
                when = time.monotonic_ns()
                time.sleep(draw.choice((0, 0.02)))
                assert_left(host, when, groups)
        assert running.end() == ("wrong 0\n", "")


def test_what_is_under_way_ends_first(host, runtime):
    granter = runtime(groups=OWN)
    with Running(host, granter, "blocked", "blocked") as running:
        epoch = granter.grant((), SUSPENDED)
        assert granter.wait_for(epoch) == set()
        when = time.monotonic_ns()
        assert any(block["end_ns"] - block["begin_ns"] > 5e8 and block["end_ns"] < when for block in blocks(host))
        assert running.program.stdout.readline() == "done\n", "to wait for the GPU is allowed"
        time.sleep(0.1)
        assert_left(host, when, ())
        granter.grant(OWN)
        assert running.end()[0] == "again\n"


def test_a_capture_goes_on_while_suspended(host, runtime):
    granter = runtime(groups=OWN)
    with Running(host, granter, "capturing", "capturing") as running:
        assert granter.wait_for(granter.grant((), SUSPENDED)) == set()
        assert running.end() == ("end 0\n", "")


def test_who_has_lost_its_runtime_is_not_suspended_any_more(host, runtime):
    granter = runtime(groups=OWN)
    with Running(host, granter, "pumping", "pumping") as running:
        assert granter.wait_for(granter.grant((), SUSPENDED)) == set()
        granter.go_away()
        host.clear()
        wait_for(lambda: len(blocks(host)) > 40, 60)
        assert host.sms() <= sms_of(OWN)
        assert running.end() == ("wrong 0\n", "")


def test_the_runtime_ends_while_work_under_way_waits_for_work_that_may_not_begin(host, runtime):
    """It cannot acknowledge then; and when its runtime is gone, nothing holds it back."""
    for pause in 0.2, 1, 5:  # whether it is suspended already shows in what it does only
        granter = runtime(groups=OWN)
        with Running(host, granter, "waiting", "waiting") as running:
            epoch = granter.grant((), SUSPENDED)
            time.sleep(pause)
            running.program.stdin.write("\n")
            running.program.stdin.flush()
            time.sleep(0.3)
            if running.program.poll() is not None:
                continue
            assert not [one for one, _ in granter.acknowledged if one == epoch]
            granter.go_away()
            assert running.end() == ("woken\n", "")
            return
    pytest.fail("it was never held back")


def test_a_suspended_program_may_exit(host, runtime):
    """With threads that wait to go on, and more work to begin on its way out."""
    granter = runtime(groups=OWN)
    with Running(host, granter, "leaving", "leaving") as running:
        assert granter.wait_for(granter.grant((), SUSPENDED)) == set()
        assert running.end()[0] == "left 0\n"


def test_a_program_that_begins_suspended_waits(host, runtime):
    granter = runtime(groups=())
    granter.flags(SUSPENDED, tell=False)
    with subprocess.Popen([GPU / "coroutine_program", "work"], stdout=subprocess.PIPE,
                          env=host.environment(granter)) as program:
        wait_for(lambda: granter.hellos, 60)
        time.sleep(0.3)
        assert program.poll() is None and not blocks(host)
        granter.grant((2,))
        out, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert out.decode() == host.experiment("work", preload=False).stdout
    assert host.sms() >= sms_of((2,))


# ---- whole-GPU windows ----

class Windows:
    """Gives the GPU as a whole to whoever asks, and takes it back."""

    def __init__(self, granter, own=OWN, after=None):
        self.granter, self.own, self.after = granter, own, after
        self.opened = self.closed = 0
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def wanted(self):
        return sum(struct.unpack_from("<I", port, WANTED)[0] for port in self.granter.ports)

    def _grant(self, *what):
        epoch = self.granter.grant(*what)
        wait_for(lambda: self.granter.open == 0 or [one for one, _ in self.granter.acknowledged if one == epoch], 60)

    def _serve(self):
        while not self.ends.wait(0.001):
            if self.opened == self.closed and self.wanted():
                self.opened += 1
                self._grant(ALL, WHOLE)
            elif self.opened > self.closed and not self.wanted():
                self.closed += 1
                self._grant(self.own)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


def whole_program(host, *arguments, granter=None, go="\n", **more):
    """Run it to its end; returns its last line and what it complained about."""
    with subprocess.Popen([GPU / "whole_program", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True,
                          env=host.environment(granter, preload=granter is not None, **more)) as program:
        out, err = program.communicate(go, timeout=60)
    assert program.returncode == 0, err
    return out.splitlines()[-1], err


def wants(granter):
    """Whether the first program asks for the GPU as a whole."""
    return bool(granter.ports) and struct.unpack_from("<I", granter.ports[0], WANTED) == (1,)


@contextlib.contextmanager
def asking(host, granter, us=0):
    """A program that waits for the GPU as a whole, for one kernel of so many microseconds."""
    with subprocess.Popen([GPU / "whole_program", "cooperative", "1", "0", str(us)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env=host.environment(granter)) as program:
        program.stdin.write("\n")
        program.stdin.flush()
        wait_for(lambda: wants(granter), 60)
        yield program


@pytest.mark.parametrize("queued", [[], ["queued"]])
@pytest.mark.parametrize("how", ["cooperative", "attribute", "plain", "config"])
def test_what_fits_on_the_whole_gpu_runs_there(host, runtime, how, queued):
    arguments = [how, 6, 0, 2000, *queued]
    alone = whole_program(host, *arguments)
    assert alone == (f"6 launches of {SMS} blocks: error 0, sum {6 * SMS * (SMS + 1) // 2}", "")
    host.clear()
    granter = runtime(groups=OWN)
    named = {"DETSHARE_WHOLE_GPU": "nothing,me?t"} if how in ("plain", "config") else {}
    with Windows(granter) as windows:
        assert whole_program(host, *arguments, granter=granter, **named) == alone
    assert windows.opened >= 1
    assert struct.unpack_from("<Q", granter.ports[0], WINDOWS) == (windows.opened,)
    assert granter.port().too_large == 0
    assert len({block["sm"] for block in blocks(host) if block["kernel"] == "meet"}) == SMS


@pytest.mark.parametrize("how", ["cooperative", "attribute", "plain"])
def test_what_fits_in_the_partition_stays_there(host, runtime, how):
    granter = runtime(groups=OWN)
    with Windows(granter) as windows:
        line, err = whole_program(host, how, 3, f"-{SMS - 16}", 100, granter=granter, DETSHARE_WHOLE_GPU="meet")
    assert (line, err) == ("3 launches of 16 blocks: error 0, sum 408", "")
    assert host.sms() <= sms_of(OWN) and windows.opened == 0


def test_what_fits_nowhere_fails_as_alone_and_asks_for_nothing(host, runtime):
    alone = whole_program(host, "cooperative", 3, 1, 100)
    assert f"error {TOO_LARGE}" in alone[0]
    granter = runtime(groups=OWN)
    with Windows(granter) as windows:
        assert whole_program(host, "cooperative", 3, 1, 100, granter=granter) == alone
    assert windows.opened == 0 and granter.port().too_large == 0


def test_kernels_that_the_site_names(host, runtime):
    granter = runtime(groups=OWN)
    os.pwrite(granter.page, b"spin_us, mee*\0", KERNELS)
    with Windows(granter) as windows:
        assert "error 0" in whole_program(host, "plain", 2, 0, 100, granter=granter)[0]
    assert windows.opened >= 1


def test_a_barrier_that_nobody_names_hangs_in_a_partition(host, runtime):
    """So that the tests above prove something."""
    granter = runtime(groups=OWN)
    with subprocess.Popen([GPU / "whole_program", "plain", "1", "0", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=host.environment(granter)) as program:
        program.stdin.write(b"\n")
        program.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(2)
        program.kill()


@pytest.mark.parametrize("how", ["cooperative", "attribute", "plain"])
def test_refused_it_fails_as_in_its_partition(host, runtime, how):
    granter = runtime(groups=OWN)
    granter.flags(REFUSED, tell=False)
    line, err = whole_program(host, how, 3, 0, 100, granter=granter, DETSHARE_WHOLE_GPU="meet")
    assert f"error {TOO_LARGE}, sum 0" in line
    assert granter.port().too_large == 1
    assert one_line(err, "cooperative", "whole")


def test_refused_while_it_waits(host, runtime):
    granter = runtime(groups=OWN)
    with asking(host, granter) as program:
        granter.flags(REFUSED)
        assert f"error {TOO_LARGE}" in program.communicate(timeout=60)[0]
    assert not wants(granter)


def test_it_waits_no_longer_than_the_page_says(host, runtime):
    granter = runtime(groups=OWN)
    os.pwrite(granter.page, struct.pack("<I", 300), PATIENCE)
    line, err = whole_program(host, "cooperative", 1, 0, 0, granter=granter)
    assert f"error {TOO_LARGE}" in line
    assert one_line(err, "cooperative")
    assert not wants(granter)


def test_the_runtime_goes_while_it_waits(host, runtime):
    granter = runtime(groups=OWN)
    with asking(host, granter) as program:
        granter.go_away()
        assert f"error {TOO_LARGE}" in program.communicate(timeout=60)[0]


def test_the_runtime_goes_while_it_has_the_gpu(host, runtime):
    """What is on it ends, what comes after is in its own partition again."""
    granter = runtime(groups=OWN)
    with asking(host, granter, 400000) as program:
        granter.wait_for(granter.grant(ALL, WHOLE))
        wait_for(lambda: granter.port().launches == 1, 60)
        granter.go_away()
        assert "error 0" in program.communicate(timeout=60)[0]


def test_a_stopped_program_waits_for_nothing(host, runtime):
    """It was stopped while it waited; its window came and went; it asks again."""
    granter = runtime(groups=OWN)
    with asking(host, granter) as program:
        stop(program.pid)
        os.waitpid(program.pid, os.WUNTRACED)
        granter.grant(ALL, WHOLE)
        epoch = granter.grant(OWN)
        os.kill(program.pid, signal.SIGCONT)
        assert granter.wait_for(epoch) == set(OWN)
        granter.grant(ALL, WHOLE)
        assert "error 0" in program.communicate(timeout=60)[0]
