# SPDX-License-Identifier: Apache-2.0
"""From what the two programs of bench_reclaim saw to its figures. Pure. Times are of CLOCK_MONOTONIC, in ns."""
from bisect import bisect_right
from collections import namedtuple

from colocation.bars import Verdict
from colocation.figures import percentile

Run = namedtuple("Run", "begin end sms")  # of a kernel

END_TO_GRANT_US, REQUEST_TO_GRANT_US, KERNEL_US, RATE = 50, 200, 50, 0.95
FEW = 100  # of fewer cycles the 99th percentile is the longest


def groups_of(text, n_groups):
    """Of a set of SM groups as `detshare status` writes it ("0-3,5+rest"): their numbers; the rest is n_groups."""
    found = set()
    for part in filter(None, text.replace("+", ",").split(",")):
        if part == "rest":
            found.add(n_groups)
        elif part != "none":
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


def sms_of(groups, shape):
    full = sum(group < shape["groups"] for group in groups)
    return full * shape["group_sms"] + (shape["rest_sms"] if shape["groups"] in groups else 0)


class Kernels:
    """What one program ran, one kernel after the other."""

    def __init__(self, runs):
        self.runs = runs
        self.ends = [run.end for run in runs]

    def between(self, begin, end):
        """How many kernels' worth of work was done: each is spread evenly from the end of the one before to its own."""
        work = 0.0
        for index in range(bisect_right(self.ends, begin), len(self.runs)):
            before = self.ends[index - 1] if index else self.runs[0].begin
            if before >= end:
                break
            length = self.ends[index] - before
            if length > 0:
                work += (min(end, self.ends[index]) - max(begin, before)) / length
        return work

    def rate(self, spans):
        """Kernels a second in all these spans together; None: they are empty."""
        seconds = sum(end - begin for begin, end in spans) / 1e9
        return sum(self.between(*span) for span in spans) / seconds if seconds > 0 else None


def distribution(times_ns):
    if not times_ns:
        return None
    return {name: round(value / 1e3, 1) for name, value in
            (("p50", percentile(times_ns, 0.5)), ("p99", percentile(times_ns, 0.99)), ("max", max(times_ns)))}


def cycle_times(cycle, wide, owner, owner_sms):
    """
    One cycle. `wide`: the borrower's kernels that were on more SMs than are its own, so on the owner's. in_flight: one of them
    was, when the owner asked; the time from its end is that from the request otherwise.
    """
    last = bisect_right([run.begin for run in wide], cycle["grant_ns"]) - 1
    end = wide[last].end if last >= 0 else cycle["request_ns"]
    out = {"request_to_grant": cycle["grant_ns"] - cycle["request_ns"], "end_to_grant": cycle["grant_ns"] - max(end, cycle["request_ns"]),
           "in_flight": end > cycle["request_ns"], "first_call": cycle["begun_ns"] - cycle["request_ns"]}
    on_all = next((run for run in owner[cycle["first"]:cycle["last"]] if run.sms >= owner_sms), None)
    if on_all:
        out["request_to_kernel"] = on_all.end - cycle["request_ns"]
    return out


def meetings(wide, owner, owner_sms, error_ns):
    """How many of the borrower's kernels were on the owner's SMs while a kernel of the owner's was on all of those, beyond doubt."""
    ends, found = [run.end for run in wide], 0
    for run in owner:
        if run.sms >= owner_sms:
            first = bisect_right(ends, run.begin + error_ns)
            found += sum(other.begin < run.end - error_ns for other in wide[first:first + 2])
    return found


def bars(entry, judged):
    """The bars that are about this length of kernels. `judged`: on a GPU; else nothing holds or fails."""
    found = []

    def add(text, value, limit, at_most):
        holds = Verdict(text, value, limit, at_most).held if judged else None
        found.append({"bar": text, "value": value, "limit": limit, "at_most": at_most, "holds": holds})

    add("from the end of the holder's last kernel to the grant: p99, us", (entry["end_to_grant_us"] or {}).get("p99"), END_TO_GRANT_US, True)
    if entry["kernel_us"] == KERNEL_US:
        add("from the request to the grant, with kernels of 50 us: p99, us", (entry["request_to_grant_us"] or {}).get("p99"),
            REQUEST_TO_GRANT_US, True)
        add("the borrower's rate while its neighbour is idle, of that on the whole GPU", entry["borrower"]["lent_of_whole"], RATE, False)
    return found


def ratio(part, whole):
    return round(part / whole, 4) if part is not None and whole else None


def entry(measured, judged):
    """All figures of one length of kernels. `measured` is what phases.py gives."""
    shape, cycles = measured["shape"], measured["cycles"]
    borrower, owner = Kernels(measured["borrower_runs"]), measured["owner_runs"]
    borrower_sms = sms_of(measured["borrower_groups"], shape)
    owner_sms = sms_of(measured["owner_groups"], shape)
    wide = [run for run in measured["borrower_runs"] if run.sms > borrower_sms]
    times = [cycle_times(cycle, wide, owner, owner_sms) for cycle in cycles]
    lent = borrower.rate([(cycle["lent_ns"], cycle["request_ns"]) for cycle in cycles])
    steady = borrower.rate([measured["steady"]])
    own = borrower.rate([(cycle["grant_ns"], cycle["idle_ns"]) for cycle in cycles])
    all_of_it = borrower.rate([(cycles[0]["lent_ns"], cycles[-1]["idle_ns"])]) if cycles else None
    whole, windowless = measured["whole"], measured["windowless"]
    over = cycles[-1]["idle_ns"] if cycles else measured["steady"][1]  # then the owner leaves
    sms = max((run.sms for run in wide if run.end <= over), default=borrower_sms)
    out = {"bench": "reclaim", "kernel_us": measured["kernel_us"], "budget_us": measured["budget_us"], "device": measured["device"],
           "emulated": not judged, "cycles": len(cycles), "failure": measured["failure"],
           "request_to_grant_us": distribution([t["request_to_grant"] for t in times]),
           "end_to_grant_us": distribution([t["end_to_grant"] for t in times]),
           "request_to_kernel_us": distribution([t["request_to_kernel"] for t in times if "request_to_kernel" in t]),
           "first_call_us": distribution([t["first_call"] for t in times]),
           "in_flight": sum(t["in_flight"] for t in times), "met": meetings(wide, owner[cycles[0]["first"]:] if cycles else [], owner_sms, measured["error_ns"]),
           "seen_late_us": distribution([c["grant_ns"] - c["before_ns"] for c in cycles]),
           "clock_error_us": round(measured["error_ns"] / 1e3, 1), "outside_us": round(measured["outside_ns"] / 1e3, 1),
           "borrower": {"whole_per_s": round(whole, 1), "whole_us": round(1e6 / whole, 2), "windowless_of_whole": ratio(windowless, whole),
                        "steady_of_whole": ratio(steady, whole), "lent_of_whole": ratio(lent, whole), "all_of_whole": ratio(all_of_it, whole),
                        "steady_of_windowless": ratio(steady, windowless), "lent_of_windowless": ratio(lent, windowless),
                        "own_of_whole": ratio(own, whole), "lent_sms_of_whole": ratio(sms, shape["sms"]),
                        "own_sms_of_whole": ratio(borrower_sms, shape["sms"])}}
    return out | {"bars": bars(out, judged)}


def lines(found):
    """For people."""
    b = found["borrower"]
    yield f"kernels of {b['whole_us']:g} us on the whole GPU ({found['device']}), reclaim budget {found['budget_us']} us, {found['cycles']} cycles" + \
        (f"; cut short: {found['failure']}" if found["failure"] else "")
    if found["cycles"] < FEW:
        yield f"  fewer than {FEW} cycles: p99 is the longest"
    for name, text in (("request_to_grant_us", "from request to grant"), ("end_to_grant_us", "from the last kernel's end to the grant"),
                       ("request_to_kernel_us", "from request to the first kernel's end on all groups"),
                       ("first_call_us", "the owner's first call of the driver"), ("seen_late_us", "grant seen late by at most")):
        d = found[name]
        yield f"  {text:55}" + (f"p50 {d['p50']:9.1f}   p99 {d['p99']:9.1f}   max {d['max']:9.1f} us" if d else "none")
    yield f"  {found['in_flight']} times a kernel was in flight on request; {found['met']} kernels met the owner's on its SMs; the GPU's clock is known to " \
        f"{found['clock_error_us']} us"

    def percent(name):
        return "not known" if b[name] is None else f"{100 * b[name]:.1f} %"
    yield f"  the borrower's rate, of that on the whole GPU: {percent('lent_of_whole')} between requests ({percent('steady_of_whole')} with a neighbour " \
        f"that stays idle) on {percent('lent_sms_of_whole')} of the SMs; {percent('windowless_of_whole')} in a share of 1, without a window; " \
        f"{percent('own_of_whole')} in its own {percent('own_sms_of_whole')}; {percent('all_of_whole')} over all"
    for bar in found["bars"]:
        word = {None: "not judged", True: "held", False: "MISSED"}[bar["holds"]]
        yield f"  {word:11} {bar['bar']}: {bar['value']} (bar: {'at most' if bar['at_most'] else 'at least'} {bar['limit']:g})"
    if found["emulated"]:
        yield "  This is an emulated GPU: the times are those of this machine's CPUs, and no bar is judged."
