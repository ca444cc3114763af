# SPDX-License-Identifier: Apache-2.0
"""Command line: /usr/bin/python3 contrib/cluster --dir DIR COMMAND."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "cluster"

# The path is set above.
from cluster import Cluster, ClusterError  # noqa: E402
from cluster.demonstration import demonstrate  # noqa: E402


def main() -> int:
    """Run one command; 0 when it did what it says."""
    # A shell starts background commands with SIGINT ignored, and what is ignored is inherited: jobs may be sent it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    arguments = _parse()
    try:
        return arguments.action(arguments)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted", file=sys.stderr)
        return 130


def _up(arguments) -> int:
    cluster = _cluster(arguments)
    cluster.up()
    return 0


def _down(arguments) -> int:
    _cluster(arguments).down()
    print("cluster: nothing is left running", file=sys.stderr)
    return 0


def _status(arguments) -> int:
    cluster = _existing(arguments)
    states = cluster.status()
    for name, process in states.items():
        print(f"{name:16} {f'process {process.pid}' if process else 'not running'}")
    if not all(states.values()):
        return 1
    for node in cluster.nodes:
        print(f"\n{node.name}:\n{cluster.run('detshare', 'status', '--node-name', node.name).stdout.rstrip()}")
    return 0


def _exec(arguments) -> int:
    if not arguments.command:
        print("cluster: exec needs a command", file=sys.stderr)
        return 2
    cluster = _existing(arguments)
    if not any(cluster.status().values()):
        raise ClusterError(f"the cluster in {arguments.dir} does not run: start it again first")
    environment = cluster.environment()
    # What is asked outside of jobs, such as `detshare status`, is about the first node.
    environment["SLURMD_NODENAME"] = cluster.nodes[0].name
    try:
        os.execvpe(arguments.command[0], arguments.command, environment)
    except OSError as error:
        print(f"cluster: cannot run {arguments.command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _env(arguments) -> int:
    cluster = _existing(arguments)
    environment = {**cluster.environment(), "SLURMD_NODENAME": cluster.nodes[0].name}
    for name, value in sorted(environment.items()):
        if os.environ.get(name) != value:
            print(f"export {name}={shlex.quote(value)}")
    return 0


def _ports(arguments) -> int:
    _cluster(arguments).check_ports()
    return 0


def _demonstrate(arguments) -> int:
    demonstrate(_existing(arguments))
    return 0


def _cluster(arguments) -> Cluster:
    return Cluster(arguments.dir, build=arguments.build, prefix=arguments.prefix,
                   port_base=arguments.port_base, shared_directory=arguments.shared_dir,
                   say=lambda text: print(f"cluster: {text}", file=sys.stderr, flush=True))


def _existing(arguments) -> Cluster:
    cluster = _cluster(arguments)
    if not cluster.daemon_names():
        raise ClusterError(f"no cluster in {arguments.dir}")
    return cluster


def _parse():
    parser = argparse.ArgumentParser(prog="cluster", description=(
        "A Slurm cluster of one machine with detshare in it, in one directory, on ports of its own."))
    parser.add_argument("--dir", required=True, help="the cluster's directory")
    parser.add_argument("--build", help="build directory of detshare (for the emulated GPU)")
    parser.add_argument("--prefix", help="where detshare is installed [BUILD/stage]")
    parser.add_argument("--port-base", type=int, help="the first of 20 TCP ports")
    parser.add_argument("--shared-dir", action="store_true",
                        help="the directory may hold other things than the cluster")
    actions = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, action, text in (
            ("up", _up, "start it"), ("down", _down, "end it and all its jobs"),
            ("status", _status, "which daemons run, and who has what of the GPUs; exit 0 if all run"),
            ("ports", _ports, "exit 0 if the ports are free"),
            ("demonstrate", _demonstrate, "show and check half a GPU, end to end"),
            ("env", _env, "print the environment for a shell to eval"),
            ("exec", _exec, "run a command inside it")):
        command = actions.add_parser(name, help=text)
        command.set_defaults(action=action)
        if name == "exec":
            command.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
