# SPDX-License-Identifier: Apache-2.0
"""The order of runs, and how many fit into the time. Pure."""
from dataclasses import dataclass

from .settings import ALONE, Group, Row

REPETITIONS_MOST = 1000
START_S = 9.0  # of one run beside what is measured, until it is known


@dataclass(frozen=True)
class Run:
    row: Row
    group: Group  # of one program, for a row alone
    works: tuple  # indices of the programs that work
    repetition: int = 0

    @property
    def key(self):
        return f"{self.row.name} / {self.group.name} / {','.join(map(str, self.works))} / {self.repetition}"


def solos(groups):
    """One run alone for each kind of program."""
    found = {}
    for group in groups:
        for program in group.programs:
            found.setdefault((program.name, program.load), Group(program.name, (program,), "alone"))
    return [Run(ALONE, group, (0,)) for group in found.values()]


def of_row(row, group):
    """The runs of a row in a group."""
    if not row.idle:
        return [Run(row, group, tuple(range(len(group.programs))))]
    runs, seen = [], set()
    for index, program in enumerate(group.programs):
        if program not in seen and len(group.programs) == 2:
            runs.append(Run(row, group, (index,)))
        seen.add(program)
    return runs


def repetition(number, groups, rows):
    """Every run once. What is compared runs side by side; every other repetition goes backwards, so that a drift
    of the machine favours nobody. Variants, which no bar is about, come after all that bars need."""
    runs = solos(groups)
    for variants in False, True:
        for group in groups:
            for row in rows:
                if row.latency_only == variants and (group.has_latency or not variants):
                    runs += of_row(row, group)
    if number % 2:
        runs.reverse()
    # A program's outputs can be compared only if it repeats itself: so it runs alone once more, before all.
    before = [Run(run.row, run.group, run.works, -1) for run in solos(groups)] if number == 0 else []
    return before + [Run(run.row, run.group, run.works, number) for run in runs]


class Plan:
    """The next run, as long as there is time. The first repetition comes before all others."""

    def __init__(self, groups, rows, seconds, measured_s, done=(), start_s=START_S):
        self.groups, self.rows, self.left_s, self.first_s = groups, rows, seconds, measured_s + start_s
        self.done, self.costs, self.reserved, self.number, self.waiting = set(done), [], [], 0, []

    def __iter__(self):
        return self

    def __next__(self):
        """May be asked for the next one before the present one is over."""
        while not self.waiting:
            self.waiting = [run for run in repetition(self.number, self.groups, self.rows) if run.key not in self.done]
            self.number += 1
            if self.number > REPETITIONS_MOST:
                raise StopIteration
        if self.cost() > self.left_s:
            raise StopIteration
        self.reserved.append(self.cost())
        self.left_s -= self.reserved[-1]
        return self.waiting.pop(0)

    def cost(self):
        """Of one more run: that of the dearest third of those so far."""
        if not self.costs:
            return self.first_s
        return sorted(self.costs)[-1 - len(self.costs) // 3]

    def took(self, seconds):
        """The oldest run that was given out is over."""
        self.costs.append(seconds)
        self.left_s += self.reserved.pop(0) - seconds

    def planned(self):
        """Runs of one repetition."""
        return len(repetition(0, self.groups, self.rows))
