# SPDX-License-Identifier: Apache-2.0
"""From what programs measured to what is compared. Pure."""
import math
import statistics
from collections import defaultdict

DIGESTS_LEAST = 4  # outputs that must be there to be called equal


def percentile(values, part):
    """The smallest value that `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * part - 1e-9) - 1)] if ordered else None


def summary(program):
    """What one program in one run reported, without its single steps."""
    steps, firsts = program["steps_ms"], program.get("first_ms", [])
    out = {"rate": program["work"] / program["seconds"] if program["seconds"] else 0.0, "steps": len(steps),
           "digests": program["digests"], "facts": program.get("facts", {})}
    for name, values in (("step", steps), ("first", firsts), ("request", program.get("request_ms", []))):
        if values:
            out |= {f"{name}_p50_ms": percentile(values, 0.5), f"{name}_p99_ms": percentile(values, 0.99),
                    f"{name}_max_ms": max(values)}
    return out


def same(some, others):
    """Do two lists of outputs agree as far as both go? None: too few to say."""
    n = min(len(some), len(others))
    return some[:n] == others[:n] if n >= DIGESTS_LEAST else None


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def alone_of(results):
    """program name -> medians of its runs alone."""
    found = defaultdict(list)
    for result in results:
        if result["row"] == "alone" and result["ok"]:
            found[result["programs"][0]["name"]].append(result["programs"][0])
    out = {}
    for name, runs in found.items():
        out[name] = {key: median(run.get(key) for run in runs) for key in runs[0] if key.endswith(("_ms", "rate"))}
        out[name]["digests"] = max((run["digests"] for run in runs), key=len)
        out[name]["reproducible"] = all(same(run["digests"], out[name]["digests"]) is not False for run in runs)
    return out


KEYS = ("rate", "step_p50_ms", "step_p99_ms", "step_max_ms", "first_p50_ms", "first_p99_ms", "request_p99_ms")


def relative(results):
    """One entry per row, group and program: medians over the repetitions, relative to alone."""
    alone, gathered = alone_of(results), defaultdict(list)
    for result in results:
        if result["row"] == "alone" or not result["ok"]:
            continue
        for program in result["programs"]:
            gathered[result["row"], result["group"], tuple(result["works"]), program["index"]].append(program)
    entries = []
    for (row, group, works, index), runs in gathered.items():
        name = runs[0]["name"]
        base = alone.get(name)
        entry = {"row": row, "group": group, "works": list(works), "index": index, "program": name, "runs": len(runs)}
        for key in KEYS:
            entry[key] = median(run.get(key) for run in runs)
            if base and base.get(key) and entry[key] is not None:
                entry[key + "_rel"] = entry[key] / base[key]
        if base and base.get("step_p50_ms") and entry["step_max_ms"]:
            # No step may be beyond so many times the usual one alone, whichever run it is in.
            entry["worst_rel"] = max(run["step_max_ms"] for run in runs) / base["step_p50_ms"]
        verdicts = [same(run["digests"], base["digests"]) for run in runs] if base else []
        entry["equal"] = False if False in verdicts else True if True in verdicts else None
        entry["reproducible"] = base["reproducible"] if base else None
        entries.append(entry)
    return entries


def sums(entries):
    """(row, group) -> sum of the programs' relative throughputs, where all of them worked."""
    found = defaultdict(float)
    for entry in entries:
        if len(entry["works"]) > 1 and entry.get("rate_rel") is not None:
            found[entry["row"], entry["group"]] += entry["rate_rel"]
    return dict(found)
