# SPDX-License-Identifier: Apache-2.0
"""Several devices, threads and contexts that end with work queued, and what two processes share, on the emulated GPU."""

import json
import subprocess

import pytest

from coroutine_host import EMUGPU, GPU, GROUP_SMS, LIBRARY, SMS, Host, sms_of

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

EXPERIMENTS = ["threads-end", "resets", "in-order", "ipc"]


class TwoGpus(Host):
    """An emulated host with two GPUs; the second one is nobody's."""

    def __init__(self, directory):
        self.directory = directory
        subprocess.run([EMUGPU / "emugpu-host", "create", directory, "--gpus", "2", "--sms", str(SMS),
                        "--group-sms", str(GROUP_SMS), "--memory-mib", "256"], check=True)
        self.uuids = {}
        for path in (directory / "proc").glob("*/information"):
            text = path.read_text()
            minor = int(next(line.split()[-1] for line in text.splitlines() if "Minor" in line))
            self.uuids[minor] = next(line.split()[-1] for line in text.splitlines() if "UUID" in line)
        self.uuid = self.uuids[0]

    def sms_of_gpu(self, gpu):
        trace = subprocess.run([EMUGPU / "emugpu-host", "trace", self.directory, str(gpu)], check=True,
                               capture_output=True, text=True).stdout
        return {json.loads(line)["sm"] for line in trace.splitlines()}

    def clear(self):
        for gpu in ("0", "1"):
            subprocess.run([EMUGPU / "emugpu-host", "clear", self.directory, gpu], check=True)


@pytest.fixture
def two_gpus(tmp_path):
    return TwoGpus(tmp_path / "two")


def run(host, experiment, runtime=None, **more):
    ended = host.run(GPU / "life_program", experiment, runtime=runtime, preload=bool(runtime), check=False, **more)
    if ended.returncode == 77 and not runtime:
        pytest.skip(f"{experiment}: the driver here cannot do it")
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("chaos", ["", "1", "1:4", "3:2"])
def test_lives_are_as_alone(host, runtime, experiment, chaos):
    alone = run(host, experiment)
    host.clear()
    granter = runtime(groups=(0, 2, 3))
    assert run(host, experiment, granter, DETSHARE_CHAOS=chaos) == alone
    assert host.sms() <= sms_of((0, 2, 3))
    if chaos == "1":
        assert granter.port().remaps > 3


@pytest.mark.parametrize("chaos", ["", "1", "2:5"])
@pytest.mark.parametrize("ours", [0, 1])
def test_of_two_devices_one_is_the_allocation_s(two_gpus, runtime, ours, chaos):
    """Work on the other one is left alone; a job in Slurm sees only its own."""
    alone = run(two_gpus, "devices")
    two_gpus.clear()
    granter = runtime(uuid=two_gpus.uuids[ours], groups=(3,) if not chaos else (1, 3))
    assert run(two_gpus, "devices", granter, DETSHARE_CHAOS=chaos) == alone
    assert two_gpus.sms_of_gpu(ours) <= sms_of((1, 3))
    assert len(two_gpus.sms_of_gpu(1 - ours)) >= 8
    assert len(granter.hellos) == 1
    if chaos:
        assert granter.port().remaps > 3


def test_only_the_allocation_s_device_is_visible_in_a_job(two_gpus, runtime):
    """As the node runtime sets it for tasks."""
    granter = runtime(uuid=two_gpus.uuids[1], groups=(2,))
    inside = two_gpus.run(GPU / "life_program", "devices", runtime=granter, check=False,
                          CUDA_VISIBLE_DEVICES=two_gpus.uuids[1])
    assert inside.returncode == 77, "the program saw two devices"
    alone = two_gpus.run(GPU / "gpuwork", "reduce", "--n", "20000", preload=False)
    two_gpus.clear()
    one = two_gpus.run(GPU / "gpuwork", "reduce", "--n", "20000", runtime=granter,
                       CUDA_VISIBLE_DEVICES=two_gpus.uuids[1])
    assert json.loads(one.stdout)["result"] == json.loads(alone.stdout)["result"]
    assert two_gpus.sms_of_gpu(0) == set()
    assert two_gpus.sms_of_gpu(1) <= sms_of((2,))
