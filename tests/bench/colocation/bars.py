# SPDX-License-Identifier: Apache-2.0
"""What must be reached, as a table of functions over the entries of figures.relative(). Pure."""
from dataclasses import dataclass

from .figures import sums

# Rows that the bars are about. Others with detshare are shown, and their outputs compared.
BEST, STATIC, IDLE = "detshare lend", "detshare static", "in its share"


@dataclass(frozen=True)
class Verdict:
    bar: str
    value: float | None  # None: was not measured
    limit: float
    at_most: bool

    @property
    def held(self):
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self):
        word = {None: "not measured", True: "held", False: "FAILED"}[self.held]
        value = "" if self.value is None else f": {self.value:.3f}"
        return f"{word:12} {self.bar}{value} (bar: {'at most' if self.at_most else 'at least'} {self.limit:g})"


def one(entries, row, group, program, works=None):
    for entry in entries:
        if (entry["row"], entry["group"], entry["program"]) == (row, group, program) and works in (None, entry["works"]):
            return entry
    return {}


def ratio(a, b):
    return a / b if a is not None and b else None


def verdicts(entries):
    """Every bar."""
    decode, train = (one(entries, BEST, "decode+train", name) for name in ("decode", "train"))
    total = sums(entries)
    out = [
        Verdict("decode beside training: p99 per token, times alone", decode.get("step_p99_ms_rel"), 1.10, True),
        Verdict("decode beside training: longest token, times the median alone", decode.get("worst_rel"), 2.0, True),
        Verdict("training beside decode: rate, times alone", train.get("rate_rel"), 0.75, False)]
    for group, least in (("small x2", 1.2), ("small x4", 1.45)):
        ours = total.get((BEST, group))
        out += [Verdict(f"{group}: sum of rates, times MPS", ratio(ours, total.get(("MPS", group))), 0.97, False),
                Verdict(f"{group}: sum of rates, times time slices", ratio(ours, total.get(("time slices", group))), least, False)]
    beside = one(entries, STATIC, "copy+compute", "compute")
    by_itself = one(entries, IDLE, "copy+compute", "compute")
    out.append(Verdict("compute beside copy: rate, times that in the same partition with an idle neighbour",
                       ratio(beside.get("rate"), by_itself.get("rate")), 0.97, False))
    return out


def different(entries, must_equal):
    """Entries of detshare rows whose outputs are not those alone, though the program alone repeats itself."""
    return [entry for entry in entries if must_equal(entry["row"]) and entry["equal"] is False and entry["reproducible"]]
