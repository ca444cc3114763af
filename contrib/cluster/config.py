# SPDX-License-Identifier: Apache-2.0
"""The configuration files of a cluster, as text. Pure, apart from looking which plugins exist."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from .gpus import GpuHost, view_device
from .layout import Layout
from .slurm_version import SlurmVersion

CLASSES = ("latency", "throughput", "besteffort")
MILLI_PER_GPU = 1000
# Commands read the rules, too, and refuse a wrong class without asking the controller.
SITE_CONF = "# The site's rules (contrib/examples/detshare.conf): here those that are built in.\n"
CPUS_PER_NODE = 16
SLURM_PLUGIN_DIRS = (
    f"/usr/lib/{os.uname().machine}-linux-gnu/slurm-wlm",
    f"/usr/lib/{os.uname().machine}-linux-gnu/slurm",
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
)


@dataclass(frozen=True)
class Installed:
    """detshare as installed below a prefix. Parts that are not there are left out of the cluster."""

    prefix: Path

    @property
    def plugins(self) -> Path:
        return self.prefix / "lib" / "slurm"

    @property
    def noderuntime(self) -> Path:
        return self.prefix / "sbin" / "detshare-noderuntime"

    @property
    def usaged(self) -> Path:
        return self.prefix / "sbin" / "detshare-usaged"

    @property
    def settle(self) -> Path:
        return self.prefix / "libexec" / "detshare" / "detshare-usage-settle"

    @property
    def coroutine_library(self) -> Path:
        return self.prefix / "lib" / "detshare" / "libdetshare-cuda.so"

    @property
    def spank(self) -> Path:
        return self.plugins / "spank_detshare.so"

    def has_plugin(self, kind: str) -> bool:
        return (self.plugins / f"{kind}_detshare.so").exists()


def slurm_conf(layout: Layout, nodes: list, installed: Installed, plugin_dir: str) -> str:
    host = socket.gethostname().split(".")[0]
    ours = ""
    if installed.has_plugin("job_submit"):
        ours += "JobSubmitPlugins=detshare\n"
    if installed.has_plugin("cli_filter"):
        ours += "CliFilterPlugins=detshare\n"
    proctrack = "proctrack/linuxproc"
    if (installed.plugins / "proctrack_linuxproc_detshare.so").exists():
        proctrack += "_detshare"
    plugin_path = f"{installed.plugins}:{plugin_dir}" if installed.plugins.is_dir() else plugin_dir
    tres = ",".join(["gres/gpu", "gres/shard", "gres/detshare"]
                    + [f"gres/detshare:{name}" for name in CLASSES])
    text = f"""# Written by contrib/cluster; changes are lost when the cluster starts again.
ClusterName=detshare
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={layout.slurmctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
PluginDir={plugin_path}
PlugStackConfig={layout.etc}/plugstack.conf
StateSaveLocation={layout.state}/slurmctld
SlurmctldPidFile={layout.pid}/slurmctld.pid
SlurmctldLogFile={layout.log}/slurmctld.log
SlurmctldDebug=debug
SlurmdSpoolDir={layout.state}/slurmd-%n
SlurmdPidFile={layout.pid}/slurmd-%n.pid
SlurmdLogFile={layout.log}/slurmd-%n.log
SlurmdDebug=debug
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
ProctrackType={proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
TaskProlog={layout.bin}/task-prolog
PrologFlags=Alloc
PrologEpilogTimeout=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu,shard,detshare
{ours}# Nothing here waits longer than it must: this cluster is for trying and testing.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=20000,sched_interval=1,bf_interval=1
EpilogMsgTime=0
CompleteWait=0
KillWait=1
ReturnToService=2
SlurmdTimeout=120
SlurmctldTimeout=120
MessageTimeout=20
TCPTimeout=5
MinJobAge=300
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.slurmdbd_port}
AccountingStoragePass=socket={layout.munge_socket}
AccountingStorageTRES={tres}
"""
    for index, node in enumerate(nodes):
        milli = MILLI_PER_GPU * len(node.gpus)
        gres = [f"gpu:fast:{len(node.gpus)}", f"shard:{milli}"]
        gres += [f"detshare:{name}:{milli}" for name in CLASSES]
        text += (f"NodeName={node.name} NodeHostname={host} NodeAddr=127.0.0.1 "
                 f"Port={layout.node_port(index)} CPUs={CPUS_PER_NODE} RealMemory=1024 "
                 f"Gres={','.join(gres)}\n")
    names = ",".join(node.name for node in nodes)
    text += f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"
    return text


def gres_conf(layout: Layout, nodes: list) -> str:
    # Type= also keeps gpu:1 jobs of Slurm 22.05 and 23.02 off GPUs that are full of shards.
    lines = ["AutoDetect=off"]
    for node in nodes:
        milli = MILLI_PER_GPU * len(node.gpus)
        lines += [f"NodeName={node.name} Name=gpu Type=fast File={view_device(layout, node, index)}"
                  for index in range(len(node.gpus))]
        lines.append(f"NodeName={node.name} Name=shard Count={milli}")
        lines += [f"NodeName={node.name} Name=detshare Type={name} Count={milli}"
                  for name in CLASSES]
    return "\n".join(lines) + "\n"


def slurmdbd_conf(layout: Layout) -> str:
    # StorageHost=localhost means a Unix socket, which MYSQL_UNIX_PORT names.
    return f"""AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={layout.slurmdbd_port}
SlurmUser=root
PidFile={layout.pid}/slurmdbd.pid
LogFile={layout.log}/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def plugstack_conf(layout: Layout, installed: Installed) -> str:
    if not installed.spank.exists():
        return ""
    return f"required {installed.spank} node_conf={layout.node_conf}\n"


def cgroup_conf(version: SlurmVersion) -> str:
    return version.cgroup_conf()


def node_conf(layout: Layout, installed: Installed, host: GpuHost) -> str:
    values = {
        "runtime_dir": layout.runtime_dir(),
        "spool_dir": layout.spool_dir(),
        "coroutine_library": installed.coroutine_library,
        "noderuntime": layout.bin / "detshare-noderuntime",
        "usage_sender": layout.bin / "detshare-usaged",
        "usage_host": "127.0.0.1",
        "munge_socket": layout.munge_socket,
        "gpu_info_dir": layout.node_view() / "gpus",
        "gpu_device_prefix": layout.node_view() / "dev" / "gpu",
        "cuda_library": host.cuda_library,
        "mps_control": host.mps_control,
    }
    lines = [f'{key} = "{value}"' for key, value in values.items()]
    lines.append(f"usage_port = {layout.usage_port}")
    return "\n".join(lines) + "\n"


def usaged_conf(layout: Layout, installed: Installed) -> str:
    values = {
        "listen": "127.0.0.1",
        "state_dir": layout.collector_dir,
        "munge_socket": layout.munge_socket,
        "slurm_conf": layout.slurm_conf,
        "settle_program": installed.settle,
    }
    lines = [f'{key} = "{value}"' for key, value in values.items()]
    lines += [f"port = {layout.usage_port}", "grace_s = 20"]
    return "\n".join(lines) + "\n"


def wrapper(program: Path, environment: dict) -> str:
    """A program that slurmd's plugins start without slurmd's environment, given it again."""
    exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
    return f"#!/bin/sh\n{exports}exec {program} \"$@\"\n"


def task_prolog(layout: Layout, nodes: list) -> str:
    """What tells a task where it is, since nothing of this cluster is in the usual places.

    Slurm numbers a node's GPUs from 0; CUDA numbers the machine's. Names (UUIDs) stay.
    """
    cases = ""
    for node in nodes:
        pairs = " ".join(f"{index}) n={gpu.minor};;" for index, gpu in enumerate(node.gpus))
        cases += f"{node.name}) minor() {{ case $1 in {pairs} *) n=$1;; esac; }};;\n"
    return f"""#!/bin/sh
echo "export DETSHARE_NODE_CONF={layout.node_conf}"
[ -n "$CUDA_VISIBLE_DEVICES" ] || exit 0
case $SLURMD_NODENAME in
{cases}*) exit 0;;
esac
list=
IFS=,
for i in $CUDA_VISIBLE_DEVICES; do
	minor "$i"
	list=$list${{list:+,}}$n
done
echo "export CUDA_VISIBLE_DEVICES=$list"
"""
