# SPDX-License-Identifier: Apache-2.0
"""tests/gpu/one_node_slurm, which is made for a host with a GPU, on an emulated one."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests" / "emugpu"), str(TOP / "contrib")]

from cluster import processes  # noqa: E402
from runtime_host import BUILD, Host  # noqa: E402

PREFIX = os.environ.get("DETSHARE_PREFIX")
PORTS = range(27301, 28801, 2)

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def host():
    made = Host(gpus=1)
    yield made
    made.close()


def free_ports():
    """The first of two. Not always the same: sessions that start at the same time would agree on it."""
    first = os.getpid() % len(PORTS)
    for port in [*PORTS[first:], *PORTS[:first]]:
        if not processes.port_holder(port) and not processes.port_holder(port + 1):
            return port
    raise RuntimeError(f"no two free ports in {PORTS}")


def for_slurm(host):
    """Slurm wants a character device, and gives programs that it starts for detshare no environment."""
    view = host.dir / "view"
    view.mkdir()
    os.mknod(view / "gpu0", 0o020666, os.makedev(1, 3))
    host.config["gpu_device_prefix"] = view / "gpu"
    for key in "noderuntime", "mps_control":
        wrapper = host.dir / key
        exports = " ".join(f"{name}='{host.env[name]}'" for name in ("EMUGPU_DIR", "LD_LIBRARY_PATH"))
        wrapper.write_text(f'#!/bin/sh\nexport {exports}\nexec {host.config[key]} "$@"\n')
        wrapper.chmod(0o755)
        host.config[key] = wrapper
    host.write_conf()
    environment = {name: value for name, value in host.env.items() if name != "SLURM_CONF"}
    return os.environ | environment | {"GPU_FILE": str(view / "gpu0"), "NODE_CONF": str(host.conf), "PORT": str(free_ports())}


@pytest.mark.skipif(not BUILD or not PREFIX or os.geteuid() != 0, reason="needs a built and an installed tree, and root")
@pytest.mark.skipif(not shutil.which("slurmctld") or not shutil.which("munged"), reason="no slurmctld or no munged here")
def test_a_slurm_of_one_node(host):
    done = subprocess.run([TOP / "tests/gpu/one_node_slurm", PREFIX, Path(BUILD) / "tests/gpu"], env=for_slurm(host), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=180)
    assert done.returncode == 0 and done.stdout.endswith("all holds\n"), done.stdout
    host.assert_clean()
