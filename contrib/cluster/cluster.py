# SPDX-License-Identifier: Apache-2.0
"""Bringing the cluster up and down, and running commands in it."""

import fcntl
import json
import os
import pwd
import secrets
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from . import config, daemons, gpus, processes, slurm_version
from .errors import ClusterError
from .layout import MARKER, Layout

DEFAULT_PORT_BASE = 26817
COMMAND_TIMEOUT_S = 60
DAEMON_S = 60  # to answer, or to end: they take a second or two, but the machine may have other work
NEEDED = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sacctmgr",
          "sinfo", "scancel", "squeue")


class Cluster:
    """A cluster in `root`. Nothing runs until up(); a running one is found again by its directory."""

    def __init__(self, root, build=None, prefix=None, port_base=None, say=None,
                 shared_directory=False):
        root = Path(root).resolve()
        saved = _read_settings(root / "cluster.json")
        self.build = Path(build or saved.get("build") or "build").resolve()
        self.prefix = Path(prefix or saved.get("prefix") or self.build / "stage").resolve()
        self.layout = Layout(root, int(port_base or saved.get("port_base") or DEFAULT_PORT_BASE))
        self.installed = config.Installed(self.prefix)
        self._tell = say or (lambda text: None)
        self._saved = saved
        self._shared_directory = shared_directory
        self.host = gpus.GpuHost.from_json(saved["host"]) if "host" in saved else None
        self.nodes = gpus.share_out(self.host.gpus) if self.host else []

    # ---- for callers -------------------------------------------------------------------------

    def up(self) -> None:
        """Write the configuration and start everything. Already up: nothing happens."""
        if os.geteuid() != 0:
            raise ClusterError("only root can start slurmd, which runs jobs of any user: use sudo")
        self._check_programs()
        with self._locked():
            if self._saved and all(daemons.running(self.layout, name) for name in self.daemon_names()):
                self._say("already up")
                return
            self._check_directory()
            self._stop_everything()
            self.check_ports()
            try:
                self._prepare()
                self._start_everything()
            except BaseException:
                self._stop_everything()
                raise

    def down(self) -> list:
        """End all jobs and daemons. Returns what had to be killed although it should have ended."""
        if not self._saved:
            raise ClusterError(f"no cluster in {self.layout.root}")
        if os.geteuid() != 0:
            raise ClusterError("only root can end the cluster, which root started: use sudo")
        with self._locked():
            self._end_jobs()
            return self._stop_everything()

    def environment(self) -> dict:
        """The environment of a command inside the cluster."""
        env = dict(os.environ)
        for name in list(env):
            if name.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SALLOC_", "SPANK_", "DETSHARE_")):
                del env[name]
        env.update(self.host.environment if self.host else {})
        env[MARKER] = str(self.layout.root)
        env["SLURM_CONF"] = str(self.layout.slurm_conf)
        env["DETSHARE_NODE_CONF"] = str(self.layout.node_conf)
        env["PATH"] = ":".join([f"{self.prefix}/bin", f"{self.prefix}/sbin", "/usr/local/sbin",
                                "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        return env

    def run(self, *command, check=True, timeout_s=COMMAND_TIMEOUT_S, user=None, **more):
        """Run a command inside the cluster and return its CompletedProcess (text, both streams)."""
        if user is not None:
            more.update(user=user, group=pwd.getpwnam(user).pw_gid, extra_groups=[])
        more.setdefault("cwd", self.layout.work)
        more.setdefault("env", self.environment())
        run = subprocess.run(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=timeout_s, check=False, **more,
        )
        if check and run.returncode != 0:
            words = " ".join(str(word) for word in command)
            raise ClusterError(f"{words}: exit {run.returncode}: {(run.stderr or run.stdout).strip()}")
        return run

    def status(self) -> dict:
        """Which daemons run."""
        return {name: daemons.running(self.layout, name) for name in self.daemon_names()}

    def daemon_names(self) -> list:
        """In the order of starting; none before the first up()."""
        if not self.nodes:
            return []
        names = ["munged", "mariadbd", "slurmdbd", "slurmctld"]
        names += [f"slurmd-{node.name}" for node in self.nodes]
        if self.installed.usaged.exists():
            names.append("usaged")
        return names

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node and wait until the controller has it."""
        self._start_slurmd(name)
        self._wait_for_nodes([name])

    def stop_node(self, name: str) -> None:
        """End the slurmd of a node; its jobs go on."""
        process = daemons.running(self.layout, f"slurmd-{name}")
        if process and processes.end([process], DAEMON_S):
            raise daemons.failure(self.layout, f"slurmd-{name}", f"did not end in {DAEMON_S} s")

    def check_ports(self) -> None:
        """ClusterError that names the port and its holder, if one is in the way."""
        ports = {"slurmctld": self.layout.slurmctld_port, "slurmdbd": self.layout.slurmdbd_port,
                 "detshare-usaged": self.layout.usage_port}
        ports.update({f"slurmd of node{i + 1}": self.layout.node_port(i) for i in range(2)})
        for name, port in ports.items():
            holder = processes.port_holder(port)
            if holder:
                raise ClusterError(f"port {port}, meant for {name}, is in the way: {holder} listens on "
                                   "it; choose other ports with --port-base")

    def describe(self) -> str:
        """One line for people."""
        nodes = ", ".join(f"{node.name}: {len(node.gpus)}" for node in self.nodes)
        return f"{self.host.describe()}; {nodes}"

    def _say(self, text: str) -> None:
        # Nobody listens any more (`quickstart | head`): no reason to leave daemons behind.
        with suppress(BrokenPipeError):
            self._tell(text)

    # ---- preparing ---------------------------------------------------------------------------

    def _check_programs(self) -> None:
        missing = [name for name in NEEDED if not shutil.which(name, path=self.environment()["PATH"])]
        if missing:
            raise ClusterError(f"not installed: {', '.join(missing)} (contrib/quickstart installs the "
                               "packages they are in)")

    def _check_directory(self) -> None:
        root = self.layout.root
        if not self._saved and not self._shared_directory and any(root.iterdir()):
            raise ClusterError(f"{root} is in the way: it exists, is not empty and holds no cluster; "
                               "choose another directory with --dir, or remove it")

    def _save(self) -> None:
        self._saved = {"build": str(self.build), "prefix": str(self.prefix),
                       "port_base": self.layout.port_base}
        if self.host:
            self._saved["host"] = self.host.to_json()
        self.layout.settings.write_text(json.dumps(self._saved, indent=1) + "\n")

    def _prepare(self) -> None:
        layout = self.layout
        self._save()
        folders = [layout.etc, layout.log, layout.pid, layout.bin, layout.state / "slurmctld",
                   layout.mariadb_dir, layout.collector_dir]
        for folder in folders:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        layout.munge_dir.mkdir(mode=0o755, exist_ok=True)
        layout.work.mkdir(exist_ok=True)
        layout.work.chmod(0o1777)
        for log in layout.log.iterdir():
            log.unlink()
        self.host = gpus.find(layout, self.build)
        self.nodes = gpus.share_out(self.host.gpus)
        self._save()
        for node in self.nodes:
            (layout.state / f"slurmd-{node.name}").mkdir(exist_ok=True)
            layout.runtime_dir(node.name).mkdir(parents=True, exist_ok=True)
            layout.spool_dir(node.name).mkdir(parents=True, exist_ok=True)
            gpus.write_view(layout, node)
        self._write_configuration()
        key = layout.munge_dir / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))

    def _write_configuration(self) -> None:
        layout, installed = self.layout, self.installed
        path = self.environment()["PATH"]
        version = slurm_version.probe(shutil.which("slurmctld", path=path))
        plugin_dir = next((d for d in config.SLURM_PLUGIN_DIRS if Path(d, "auth_munge.so").exists()), None)
        if not plugin_dir:
            raise ClusterError("Slurm's plugins are in none of " + ", ".join(config.SLURM_PLUGIN_DIRS))
        files = {
            "slurm.conf": config.slurm_conf(layout, self.nodes, installed, plugin_dir),
            "gres.conf": config.gres_conf(layout, self.nodes),
            "slurmdbd.conf": config.slurmdbd_conf(layout),
            "plugstack.conf": config.plugstack_conf(layout, installed),
            "cgroup.conf": config.cgroup_conf(version),
            "detshare.conf": config.SITE_CONF,
            "detshare-node.conf": config.node_conf(layout, installed, self.host),
            "detshare-usaged.conf": config.usaged_conf(layout, installed),
        }
        for name, text in files.items():
            (layout.etc / name).write_text(text)
        (layout.etc / "slurmdbd.conf").chmod(0o600)
        environment = {MARKER: layout.root, **self.host.environment}
        programs = {"detshare-noderuntime": installed.noderuntime, "detshare-usaged": installed.usaged}
        for name, program in programs.items():
            (layout.bin / name).write_text(config.wrapper(program, environment))
            (layout.bin / name).chmod(0o755)
        (layout.bin / "task-prolog").write_text(config.task_prolog(layout, self.nodes))
        (layout.bin / "task-prolog").chmod(0o755)

    # ---- starting ----------------------------------------------------------------------------

    def _start_everything(self) -> None:
        layout = self.layout
        begin = time.monotonic()
        munged = self._start("munged", [
            "munged", "--foreground", "--force", "--num-threads=4",
            f"--socket={layout.munge_socket}", f"--key-file={layout.munge_dir}/munge.key",
            f"--pid-file={layout.munge_dir}/munged.pid", f"--seed-file={layout.munge_dir}/munged.seed",
            f"--log-file={layout.log}/munged.log"])
        mariadbd = self._start_mariadb()
        self._wait("munged", munged, lambda: daemons.accepts(layout.munge_socket), DAEMON_S)
        self._wait("mariadbd", mariadbd, lambda: daemons.accepts(layout.mariadb_socket), DAEMON_S)
        slurmdbd = self._start("slurmdbd", ["slurmdbd", "-D"],
                               MYSQL_UNIX_PORT=str(layout.mariadb_socket))
        self._wait("slurmdbd", slurmdbd, lambda: daemons.accepts(layout.slurmdbd_port), DAEMON_S)
        if not self.run("sacctmgr", "-n", "list", "cluster", "detshare").stdout.strip():
            self.run("sacctmgr", "-i", "add", "cluster", "detshare")
        slurmctld = self._start("slurmctld", ["slurmctld", "-D"])
        self._wait("slurmctld", slurmctld, lambda: daemons.accepts(layout.slurmctld_port), DAEMON_S)
        for node in self.nodes:
            self._start_slurmd(node.name)
        if self.installed.usaged.exists():
            self._start_usaged()
        self._wait_for_nodes([node.name for node in self.nodes])
        self._say(f"up in {time.monotonic() - begin:.1f} s ({self.describe()})")

    def _start(self, name: str, command: list, **more):
        self._say(f"starting {name}")
        environment = self.environment()
        environment.update(more)
        program = shutil.which(command[0], path=environment["PATH"])
        return daemons.start(self.layout, name, [program, *command[1:]], environment)

    def _wait(self, name, process, answers, deadline_s) -> None:
        daemons.wait_until(self.layout, name, process, answers, deadline_s)

    def _start_mariadb(self):
        layout = self.layout
        data = layout.mariadb_dir / "data"
        # Of its own: each that starts clears its directory for temporary tables of what it takes for its own.
        temporary = layout.mariadb_dir / "tmp"
        temporary.mkdir(exist_ok=True)
        if not (data / "mysql").is_dir():
            self._say("making the database")
            shutil.rmtree(data, ignore_errors=True)
            self.run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                     f"--tmpdir={temporary}", "--skip-test-db", "--auth-root-authentication-method=socket",
                     timeout_s=120, cwd="/")
        # Losing the last second of accounting after a power cut is fine here; waiting for disks is not.
        return self._start("mariadbd", [
            "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--tmpdir={temporary}",
            f"--socket={layout.mariadb_socket}", f"--pid-file={layout.mariadb_dir}/mariadbd.pid",
            "--skip-networking", "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M",
            "--innodb-lock-wait-timeout=900", "--performance-schema=OFF", "--max-connections=50"])

    def _start_slurmd(self, node: str) -> None:
        self._start(f"slurmd-{node}", ["slurmd", "-D", "-N", node])

    def _start_usaged(self) -> None:
        self._start("usaged", ["detshare-usaged", "collect", f"--config={self.layout.usaged_conf}"])

    def _wait_for_nodes(self, names: list) -> None:
        wanted = set(names)
        slurmd = {name: daemons.running(self.layout, f"slurmd-{name}") for name in names}

        def ready():
            for name, process in slurmd.items():
                if not process or not process.alive():
                    raise daemons.failure(self.layout, f"slurmd-{name}", "ended while starting")
            run = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False)
            states = dict(line.split() for line in run.stdout.splitlines() if len(line.split()) == 2)
            good = {name for name, state in states.items()
                    if state in ("idle", "mixed", "allocated", "completing")}
            return wanted <= good

        slurmctld = daemons.running(self.layout, "slurmctld")
        self._wait("slurmctld", slurmctld, ready, DAEMON_S)

    # ---- stopping ----------------------------------------------------------------------------

    def _end_jobs(self) -> None:
        """Cancel all jobs and wait for their epilogs, so that the node runtimes end by the usual way."""
        if not daemons.running(self.layout, "slurmctld"):
            return
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            jobs = self.run("squeue", "-h", "-o", "%A", check=False).stdout.split()
            if not jobs:
                return
            self.run("scancel", *jobs, check=False)
            time.sleep(0.1)

    def _stop_everything(self) -> list:
        """End the daemons, newest first, then whatever of the cluster is still there."""
        killed = []
        for name in reversed(self.daemon_names()):
            process = daemons.running(self.layout, name)
            if process:
                self._say(f"stopping {name}")
                killed += processes.end([process], DAEMON_S)
            daemons.pid_file(self.layout, name).unlink(missing_ok=True)
        left = processes.belonging(self.layout.root)
        killed += left
        names = [f"process {p.pid} ({p.command()})" for p in left]
        processes.end(left, 3)
        still = processes.belonging(self.layout.root)
        if still:
            raise ClusterError("cannot end " + ", ".join(f"process {p.pid}" for p in still))
        for name in names:
            self._say(f"ended {name}, which was left over")
        return killed

    @contextmanager
    def _locked(self):
        """One up or down at a time."""
        root = self.layout.root
        self_made = not root.exists()
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClusterError(f"another process is starting or stopping the cluster in {root}: "
                                   "wait for it") from None
            yield
        finally:
            os.close(handle)
            if self_made and root.exists() and not any(root.iterdir()):
                root.rmdir()


def _read_settings(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ClusterError(f"cannot read {file}: {error}; remove the directory to start anew") from error
