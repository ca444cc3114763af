# SPDX-License-Identifier: Apache-2.0
"""Which bars the benchmarks' lines of JSON hold, on a GPU. Pure. A bar that is missed fails no test."""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from colocation import bars  # noqa: E402


class Verdict(bars.Verdict):
    def __str__(self):
        side = "at most" if self.at_most else "at least"
        return f"{'held' if self.held else 'MISSED':6} {self.bar}: {self.value:g} ({side} {self.limit:g})"


def _launch(line):
    if line["streams"] == 1 and not line["null_stream"]:
        yield Verdict("a launch with the library: ns longer", line["added_ns"], 100, True)


def _remap(line):
    yield Verdict(f"a move before it ({line['what']}): p50, ns longer", line["p50_ns"]["added_by_move"], 1000, True)


def _window(line):
    every_ninth = f", each ninth {line['every_ninth_us']}" if line["every_ninth_us"] != line["kernel_us"] else ""
    kind = ", overlapping" if line["overlapping"] else ""
    yield Verdict(f"rate kept in a window (kernels of {line['kernel_us']} us{every_ninth}{kind})", line["kept"], 0.98, False)


def _start(line):
    of = f"({line['streams']} streams)"
    yield Verdict(f"start-up {of}: ms longer", line["added_ms"], 30, True)
    yield Verdict(f"host memory in 8 partitions {of}: MiB", line["added_host_kib_8_partitions"] / 1024, 16, True)
    yield Verdict(f"GPU memory of a further partition {of}: MiB", line["gpu_kib_per_further_partition"] / 1024, 8, True)


def _torch(line):
    yield Verdict(f"PyTorch's {line['loop']} loop: slower by", line["slower"], 0.01, True)


def _graph(line):
    if line["what"] == "launch":
        yield Verdict("launches of a graph while it is being prepared: longest, us", line["moving"]["longest_us"], 200, True)


def _reclaim(line):
    for bar in line["bars"]:
        if bar["value"] is not None:
            yield Verdict(bar["bar"], bar["value"], bar["limit"], bar["at_most"])


def _halves(line):
    yield Verdict("compute-bound halves: rate beside a working neighbour, of that alone", min(line["median"]), 0.97, False)


OF = {"launch": _launch, "remap": _remap, "window": _window, "start": _start, "torch": _torch, "graph": _graph, "reclaim": _reclaim}


def verdicts(text):
    """Those of one line that a group of tests printed: none for most."""
    try:
        line = json.loads(text) if text.startswith("{") else None
        if not line or line.get("emulated"):
            return []
        judge = _halves if "median" in line and "rounds" in line else OF.get(line.get("bench"))
        return list(judge(line)) if judge else []
    except (ValueError, KeyError, TypeError):
        return []
