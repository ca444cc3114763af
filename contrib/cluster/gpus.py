# SPDX-License-Identifier: Apache-2.0
"""The GPUs of the machine, real or emulated, and which node gets which."""

import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import ClusterError
from .layout import Layout

NVIDIA_INFO = Path("/proc/driver/nvidia/gpus")
EMULATED_GPUS = 4


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver's information file describes it."""

    minor: int
    uuid: str
    bus: str  # the name of its directory: the PCI address
    device_file: Path
    information: str


@dataclass
class Node:
    """A node of the cluster and the GPUs it was given, in the order of Slurm's indices."""

    name: str
    gpus: list = field(default_factory=list)


@dataclass(frozen=True)
class GpuHost:
    """All GPUs of this machine."""

    kind: str  # "real" or "emulated"
    gpus: tuple
    environment: dict  # what programs need to find them
    cuda_library: str
    mps_control: str

    def to_json(self) -> dict:
        return {**asdict(self), "gpus": [{**asdict(gpu), "device_file": str(gpu.device_file)}
                                         for gpu in self.gpus]}

    @staticmethod
    def from_json(saved: dict):
        gpus = [Gpu(**{**gpu, "device_file": Path(gpu["device_file"])}) for gpu in saved["gpus"]]
        return GpuHost(**{**saved, "gpus": tuple(gpus)})

    def describe(self) -> str:
        """For people: an emulated GPU is always called so."""
        noun = "GPU" if len(self.gpus) == 1 else "GPUs"
        if self.kind == "real":
            return f"{len(self.gpus)} real {noun}"
        return f"{len(self.gpus)} emulated {noun} (this machine has none)"


def find(layout: Layout, build: Path) -> GpuHost:
    """The real GPUs if there are any, else an emulated host made by the build in `build`."""
    real = _read_information(NVIDIA_INFO, Path("/dev"), "nvidia")
    if real:
        return GpuHost("real", tuple(real), {}, "libcuda.so.1", "nvidia-cuda-mps-control")
    return _emulated(layout, build)


def share_out(gpus) -> list:
    """Two nodes of two GPUs each from four on; below that, one node with what there is."""
    gpus = list(gpus)
    if len(gpus) >= 4:
        return [Node("node1", gpus[0:2]), Node("node2", gpus[2:4])]
    return [Node("node1", gpus[0:2])]


def write_view(layout: Layout, node: Node) -> None:
    """Write the part of the machine that `node` has, its GPUs numbered from 0.

    Slurm tells a job the index of its GPU among those of its node, which on a machine of its own is the
    device's minor number. Two nodes on one machine need a view each in which that holds.
    """
    view = layout.node_view(node.name)
    shutil.rmtree(view, ignore_errors=True)
    (view / "dev").mkdir(parents=True)
    for index, gpu in enumerate(node.gpus):
        device = view_device(layout, node, index)
        # Slurm takes only character devices; an emulated GPU has none, and nothing opens this one.
        device.symlink_to(gpu.device_file if gpu.device_file.is_char_device() else "/dev/null")
        folder = view / "gpus" / gpu.bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            re.sub(r"(?m)^(Device Minor:\s*)\d+", rf"\g<1>{index}", gpu.information)
        )


def view_device(layout: Layout, node: Node, index: int) -> Path:
    """The device file of a node's GPU, by Slurm's index."""
    return layout.node_view(node.name) / "dev" / f"gpu{index}"


def _emulated(layout: Layout, build: Path) -> GpuHost:
    tools = build / "tests" / "emugpu"
    host_tool = tools / "emugpu-host"
    if not host_tool.exists():
        raise ClusterError(
            f"no GPU here ({NVIDIA_INFO} is empty) and no emulated one: {host_tool} is not built; "
            "build detshare and name the build directory with --build"
        )
    if not layout.emugpu.exists():
        run = subprocess.run(
            [host_tool, "create", layout.emugpu, "--gpus", str(EMULATED_GPUS)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )
        if run.returncode != 0:
            shutil.rmtree(layout.emugpu, ignore_errors=True)
            raise ClusterError(f"{host_tool} create {layout.emugpu} failed: {run.stdout.strip()}")
    gpus = _read_information(layout.emugpu / "proc", layout.emugpu / "dev", "emugpu")
    if not gpus:
        raise ClusterError(f"{host_tool} made no GPUs below {layout.emugpu}/proc")
    libraries = tools / ".libs"
    path = os.environ.get("LD_LIBRARY_PATH")
    environment = {
        "EMUGPU_DIR": str(layout.emugpu),
        "LD_LIBRARY_PATH": f"{libraries}:{path}" if path else str(libraries),
    }
    return GpuHost("emulated", tuple(gpus), environment, str(libraries / "libcuda.so.1"),
                   str(tools / "nvidia-cuda-mps-control"))


def _read_information(info: Path, devices: Path, prefix: str) -> list:
    gpus = []
    for file in sorted(info.glob("*/information")):
        text = file.read_text()
        minor = re.search(r"(?m)^Device Minor:\s*(\d+)", text)
        uuid = re.search(r"(?m)^GPU UUID:\s*(\S+)", text)
        if not minor or not uuid:
            raise ClusterError(f"{file} names no 'Device Minor:' or no 'GPU UUID:'")
        device = devices / f"{prefix}{minor[1]}"
        gpus.append(Gpu(int(minor[1]), uuid[1], file.parent.name, device, text))
    return sorted(gpus, key=lambda gpu: gpu.minor)
