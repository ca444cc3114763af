# SPDX-License-Identifier: Apache-2.0
"""One real Slurm cluster for all tests of a session; after every test nothing may be left of it."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contrib"))

from cluster import Cluster, processes  # noqa: E402  (the path is set above)

from leftovers import Leftovers  # noqa: E402
from slurm import Slurm  # noqa: E402

PORTS = range(28817, 32000, 20)


def pytest_report_header():
    return f"detshare build: {os.environ.get('DETSHARE_BUILD', 'not given')}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    if outcome.get_result().failed:
        item.session.stash[FAILED] = True


FAILED = pytest.StashKey()


@pytest.fixture(scope="session")
def cluster(request):
    """The cluster. Its directory is kept when a test failed, for its logs."""
    if os.geteuid() != 0:
        pytest.skip("only root can start slurmd")
    build = os.environ.get("DETSHARE_BUILD")
    if not build:
        pytest.skip("DETSHARE_BUILD does not name a build (contrib/check sets it)")
    root = Path(tempfile.mkdtemp(prefix="detshare-", dir="/tmp"))
    root.chmod(0o755)
    lines = []
    made = Cluster(root, build=build, prefix=os.environ.get("DETSHARE_PREFIX"),
                   port_base=_free_ports(), say=lines.append)
    made.up()
    print(lines[-1])
    yield made
    left = made.down()
    if request.session.stash.get(FAILED, False):
        print(f"\nthe cluster's logs are kept in {made.layout.log}")
    else:
        shutil.rmtree(root)
    assert not left, f"processes that had to be ended when the cluster went down: {left}"


@pytest.fixture(scope="session")
def slurm_session(cluster):
    return Slurm(cluster)


@pytest.fixture(scope="session")
def leftovers(cluster, slurm_session):
    return Leftovers(cluster, slurm_session)


@pytest.fixture
def slurm(slurm_session, leftovers):
    """Slurm's commands. When the test is over, nothing of its jobs may be left."""
    yield slurm_session
    slurm_session.end_all()
    leftovers.check()


@pytest.fixture
def gpuwork(cluster):
    """The test program, which uses the GPU by CUDA's driver API."""
    program = cluster.build / "tests" / "gpu" / "gpuwork"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    return program


@pytest.fixture
def residents(slurm):
    """Ask for the residents of a node: {job: {"uuid", "class", "share_milli", "held": set of groups}}."""
    return lambda node: slurm.residents(node)


@pytest.fixture
def own_conf(cluster, slurm):
    """Variables for a command that leaves our client plugins out, as any user can arrange it."""
    folder = cluster.layout.work / "own"
    folder.mkdir(exist_ok=True)
    text = cluster.layout.slurm_conf.read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("CliFilterPlugins=", "PlugStackConfig="))]
    (folder / "plugstack.conf").write_text("")
    (folder / "slurm.conf").write_text("\n".join([*lines, f"PlugStackConfig={folder}/plugstack.conf", ""]))
    return {"SLURM_CONF": str(folder / "slurm.conf")}


@pytest.fixture
def emulated_trace(cluster):
    """Which blocks ran on an emulated GPU of this machine, on which SM, from when to when."""
    if cluster.host.kind != "emulated":
        pytest.skip("a real GPU has no trace of its blocks")
    tool = cluster.build / "tests" / "emugpu" / "emugpu-host"

    def trace(minor):
        text = cluster.run(tool, "trace", cluster.layout.emugpu, str(minor)).stdout
        return [json.loads(line) for line in text.splitlines()]

    return trace


def _free_ports() -> int:
    # Not always from the first on: sessions that start at the same time would agree on it.
    first = os.getpid() % len(PORTS)
    for base in [*PORTS[first:], *PORTS[:first]]:
        if not any(processes.port_holder(port) for port in range(base, base + 20)):
            return base
    raise RuntimeError(f"no 20 free ports in {PORTS}")
