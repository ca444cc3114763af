# SPDX-License-Identifier: Apache-2.0
"""Contexts that programs make themselves, by cuCtxCreate or as green contexts, on the emulated GPU."""

import json
import select
import subprocess

import pytest

from coroutine_host import EMUGPU, GPU, LIBRARY, one_line, sms_of

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

EVERYWHERE = tuple(range(6))
SUSPENDED, WHOLE = 1 << 3, 1 << 4  # of the page's flags
CREATED = ["stack", "settings", "work", "threads", "graphs", "many", "forgets"]


def run(host, experiment, runtime=None, quiet=True, **more):
    ended = host.run(GPU / "context_program", experiment, runtime=runtime, preload=bool(runtime), **more)
    assert "Sanitizer" not in ended.stderr, ended.stderr
    assert not quiet or ended.stderr == ""
    return ended if not quiet else ended.stdout.splitlines()


@pytest.mark.parametrize("experiment", CREATED)
def test_created_contexts_are_as_alone(host, runtime, experiment):
    alone = run(host, experiment)
    host.clear()
    granter = runtime(groups=(1, 3))
    assert run(host, experiment, granter) == alone
    assert host.sms() <= sms_of((1, 3))
    assert granter.port().own_contexts > 0
    assert granter.port().pinned == set()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("experiment", CREATED)
def test_created_contexts_are_moved(host, runtime, experiment, seed):
    alone = run(host, experiment)
    host.clear()
    granter = runtime(groups=(0, 1, 3, 4))
    assert run(host, experiment, granter, DETSHARE_CHAOS=f"1:{seed}") == alone
    assert host.sms() <= sms_of((0, 1, 3, 4))
    if granter.port().launches > 6:
        assert granter.port().remaps > 3


@pytest.mark.parametrize("chaos", ["", "1:3"])
def test_the_primary_context_is_not_reset_under_the_others(host, runtime, chaos):
    alone = run(host, "reset")
    ended = run(host, "reset", runtime(groups=(0, 1, 3)), quiet=False, DETSHARE_CHAOS=chaos)
    assert ended.stdout.splitlines() == alone
    assert one_line(ended.stderr, "cuDevicePrimaryCtxReset", "cuCtxCreate")


@pytest.mark.parametrize("groups", [(0,), (1, 3), EVERYWHERE], ids=str)
@pytest.mark.parametrize("chaos", ["", "1:5"])
def test_green_contexts_are_as_alone(host, runtime, groups, chaos):
    alone = run(host, "green")
    host.clear()
    granter = runtime(groups=groups)
    ended = run(host, "green", granter, quiet=False, DETSHARE_CHAOS=chaos)
    assert ended.stdout.splitlines() == alone
    assert host.sms() <= sms_of(groups)
    assert granter.port().own_contexts == 4
    # Five groups are asked for at once, and three once more.
    if len(groups) < 5:
        assert one_line(ended.stderr, "cuGreenCtxCreate", "too small")
    elif not chaos:
        assert ended.stderr == ""


@pytest.mark.parametrize("chaos", ["", "1:2"])
def test_what_the_runtime_makes_unseen_is_not_destroyed(host, runtime, chaos):
    alone = run(host, "private-tables")
    assert run(host, "private-tables", runtime(groups=(0, 2, 3)), DETSHARE_CHAOS=chaos) == alone


def test_private_tables_and_code_that_launches_are_counted(host, runtime, tmp_path):
    alone = run(host, "code")
    assert run(host, "code", runtime(), DETSHARE_REPORT=tmp_path / "code") == alone
    counted = json.loads((tmp_path / "code").read_text())
    assert (counted["launching_modules"], counted["unread_modules"], counted["export_tables"]) == (2, 0, 0)
    run(host, "private-tables", runtime(), DETSHARE_REPORT=tmp_path / "tables")
    counted = json.loads((tmp_path / "tables").read_text())
    assert (counted["launching_modules"], counted["unread_modules"], counted["export_tables"]) == (0, 0, 1)


class Held:
    """A program with a green context of its own, which does what it is told."""

    def __init__(self, host, granter):
        self.program = subprocess.Popen([GPU / "context_program", "green-held"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=host.environment(granter))
        assert self.program.stdout.readline() == "holding\n"

    def say(self, what):
        self.program.stdin.write(what)
        self.program.stdin.flush()

    def hear(self, answer):
        assert self.program.stdout.readline() == answer + "\n"

    def tell(self, what, answer):
        self.say(what)
        self.hear(answer)

    def end(self):
        self.program.stdin.close()
        assert self.program.wait(timeout=60) == 0


def test_the_groups_of_a_green_context_are_pinned_while_it_lives(host, runtime):
    granter = runtime(groups=(0, 1, 2))
    held = Held(host, granter)
    assert granter.wait_for(granter.grant((3, 4))) == {0, 3, 4}
    assert granter.port().pinned == {0}
    host.clear()
    held.tell("g", "ran")
    assert host.sms() == sms_of((0,))
    host.clear()
    held.tell("n", "ran")
    assert host.sms() <= sms_of((3, 4))
    epoch = granter.epoch
    held.tell("d", "destroyed")

    def given_back():
        return (epoch, {3, 4}) in granter.acknowledged

    with granter.heard:
        assert granter.heard.wait_for(given_back, 20)
    assert granter.port().pinned == set()
    held.end()


def test_what_is_pinned_is_never_of_the_whole_gpu_for_a_while(host, runtime):
    granter = runtime(groups=(1, 2))
    held = Held(host, granter)
    assert granter.wait_for(granter.grant(EVERYWHERE, WHOLE)) == set(EVERYWHERE)
    held.tell("m", "made")
    assert granter.wait_for(granter.grant((2, 3))) == {1, 2, 3}
    assert granter.port().pinned == {1, 2}
    held.end()


def test_a_suspended_program_pins_nothing_more(host, runtime):
    granter = runtime(groups=(1, 2))
    held = Held(host, granter)
    assert granter.wait_for(granter.grant((), SUSPENDED)) == {1}
    held.say("m")
    answers = select.poll()  # not select(), which knows 1024 descriptors
    answers.register(held.program.stdout, select.POLLIN)
    assert not answers.poll(300), "it made a green context"
    granter.grant((3, 4))
    held.hear("made")
    assert granter.wait_for(granter.grant((0,))) in ({0, 1, 3}, {0, 1, 4})
    held.end()


@pytest.fixture
def mps(host, tmp_path):
    """MPS, without which there is no execution affinity."""
    pipe = tmp_path / "mps"
    (pipe / "log").mkdir(parents=True)
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(pipe / "log")}
    where = host.environment(preload=False, **environment)
    subprocess.run([EMUGPU / "nvidia-cuda-mps-control", "-d"], check=True, env=where)
    yield environment
    subprocess.run([EMUGPU / "nvidia-cuda-mps-control"], input="quit\n", text=True, check=True,
                   capture_output=True, env=where)


def test_execution_affinity_needs_mps(host, runtime):
    alone = run(host, "affinity")
    assert "some 224" in alone
    assert run(host, "affinity", runtime(groups=(0, 1))) == alone


def test_execution_affinity_is_answered_and_said_not_to_hold(host, runtime, mps):
    alone = run(host, "affinity", **mps)
    assert "some 0" in alone and "sms 16" in alone
    host.clear()
    ended = run(host, "affinity", runtime(groups=(0, 1, 4)), quiet=False, **mps)
    assert ended.stdout.splitlines() == alone
    assert one_line(ended.stderr, "cuCtxCreate for 16 SMs", "all SMs")
    assert host.sms() <= sms_of((0, 1, 4))
