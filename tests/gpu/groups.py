# SPDX-License-Identifier: Apache-2.0
"""What tests/gpu/run can do on a GPU host, in the order in which a short time there tells most. Pure."""
import ast
from dataclasses import dataclass
from pathlib import Path

PYTEST, COMMAND = "pytest", "command"
DEFAULT_MINUTES = 1.0  # of a test file that does not say
LIMIT = 2.5  # times its estimate, and a group is killed


@dataclass(frozen=True)
class Group:
    name: str
    minutes: float  # estimated
    kind: str
    words: tuple  # of pytest: file, -k expression or ""; of a command: its words, {…} are put in
    says: str


MOVING = "graph- or jax or decode"  # what has graphs
FIRST = (
    Group("core", 1.5, PYTEST, ("test_gpu.py", ""), "results, partitions, clean-up, MPS: what everything else stands on"),
    Group("alone", 1.2, PYTEST, ("test_alone.py", ""), "programs that must not be able to tell that they are not alone"),
    Group("graphs", 2.5, PYTEST, ("test_chaos.py", f"({MOVING}) and not test_moved_often_in_all"),
          "programs with CUDA graphs, JAX's too: in all settings"),
)
LAST = (
    Group("moved", 4.0, PYTEST, ("test_chaos.py", f"not ({MOVING}) and not sizes and not test_moved_often_in_all"),
          "all other programs: alone, in halves, moved at every launch"),
    Group("launch", 0.6, COMMAND, ("{bench}/bench_launch", "{library}", "5"), "what the library adds to a launch"),
    Group("remap", 0.4, COMMAND, ("{bench}/bench_remap", "{library}", "5"), "what a move adds to one"),
    Group("start", 0.4, COMMAND, ("sh", "-c", "for n in 32 4 1; do {bench}/bench_start {library} 5 $n || exit; done"), "what the library adds to a program's start and memory"),
    Group("window-rate", 0.8, COMMAND, ("{bench}/bench_window", "{library}", "5"), "what is left of a rate in a window of 250 us"),
    Group("torch", 1.0, COMMAND, ("{detshare}", "run", "--share", "1", "--", "{python}", "{sources}/bench/bench_torch", "--turns", "3"),
          "what the library costs PyTorch"),
    Group("halves", 0.8, COMMAND, ("{python}", "{sources}/bench/halves", "--json", "--rounds", "3", "--detshare", "{detshare}", "--gpuwork",
                                   "{programs}/gpuwork"), "two halves at once against each alone"),
    Group("reclaim", 1.5, COMMAND, ("{python}", "{sources}/bench/bench_reclaim", "--json", "--kernel-us", "20,50,200", "--cycles", "500", "--minutes", "1.2",
                                    "--detshare", "{detshare}", "--program", "{bench}/reclaim_program"), "how soon lent groups are back"),
    Group("sizes", 1.0, PYTEST, ("test_chaos.py", "sizes"), "libraries in shares of 0.07, 0.2 and 0.7 at once"),
    Group("kills", 2.0, COMMAND, ("{python}", "{sources}/bench/kills", "--kills", "3", "--detshare", "{detshare}", "--gpuwork", "{programs}/gpuwork"),
          "what a death in mid-kernel does to a neighbour"),
    Group("compare", 1.5, COMMAND, ("{sources}/gpu/coroutine_compare", "{build}", "{detshare}", "run", "--share", "0.5", "--"),
          "programs' output in a half against that alone"),
    Group("slurm", 1.0, COMMAND, ("{sources}/gpu/one_node_slurm", "{prefix}", "{programs}"), "a Slurm of one node on this host"),
    Group("colocate", 8.0, COMMAND, ("{python}", "{sources}/bench/colocate", "--detshare", "{detshare}", "--minutes", "7.5", "--results", "{results}"),
          "programs beside each other in every way of sharing: wants a run of its own"),
)


def minutes_of(text):
    """What a test file says of itself: a line `MINUTES = 2`."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["MINUTES"]:
            return float(ast.literal_eval(node.value))
    return DEFAULT_MINUTES


def first_line(text):
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def discover(folder):
    """The groups there are: every other test_NAME.py in the folder is one, between the first and the last."""
    known = {group.words[0] for group in FIRST + LAST if group.kind == PYTEST}
    between = []
    for file in sorted(Path(folder).glob("test_*.py")):
        if file.name not in known:
            text = file.read_text()
            between.append(Group(file.stem.removeprefix("test_"), minutes_of(text), PYTEST, (file.name, ""), first_line(text)))
    return [*FIRST, *between, *LAST]


def select(groups, only=(), but=()):
    """Those named, in the order of the groups; ValueError for a name that is none."""
    unknown = sorted({*only, *but} - {group.name for group in groups})
    if unknown:
        raise ValueError(f"no group {', '.join(unknown)}; there are {', '.join(group.name for group in groups)}")
    return [group for group in groups if (not only or group.name in only) and group.name not in but]


def fitting(groups, minutes):
    """(those that fit into the time one after the other, those that do not)"""
    fit, rest, left = [], [], minutes
    for group in groups:
        if group.minutes <= left:
            fit.append(group)
            left -= group.minutes
        else:
            rest.append(group)
    return fit, rest


def table(groups, minutes):
    """What --plan prints."""
    fit, _ = fitting(groups, minutes)
    lines, total = [f"{'group':12} {'minutes':>7} {'after':>6}  what"], 0.0
    for group in groups:
        total += group.minutes if group in fit else 0
        after = f"{total:6.1f}" if group in fit else "     -"
        lines.append(f"{group.name:12} {group.minutes:7.1f} {after}  {group.says}")
    return lines + [f"{len(fit)} of {len(groups)} groups fit into {minutes:g} minutes; choose others with --only"]
