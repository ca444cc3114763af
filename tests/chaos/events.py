# SPDX-License-Identifier: Apache-2.0
"""What happens to a node, drawn from a seed and from nothing else: the same seed is the same events.

Pure. It keeps its own account of which allocations and programs there are, never what became of them, so that
no event depends on how fast the machine is.
"""
import random
from dataclasses import dataclass, field

GROUPS = 15  # of an emulated GPU
SMALLEST_WHOLE = 67  # thousandths that are one group at least
PROGRAMS_MOST = 24  # at a time on a GPU; MPS serves 48
CLASSES = ("latency", "throughput", "besteffort")
# Kinds of events with how often they come.
WEIGHTS = {"begin": 12, "end": 8, "start": 45, "kill program": 6, "stop program": 5, "stop runtime": 4, "kill runtime": 2,
           "step": 6, "report": 3, "garbage": 4, "liar": 3, "together": 5, "overfull": 2, "crowd": 0.15,
           "kill mps": 0.5, "fault": 0.4, "break ledger": 1}
# Programs, with how often.
KINDS = {"reduce": 6, "spin": 6, "random": 10, "stay": 6}


@dataclass(frozen=True)
class Event:
    number: int
    verb: str
    pause_ms: int  # before it
    gpu: int = 0
    name: str = ""  # of the allocation
    program: str = ""
    options: dict = field(default_factory=dict)
    parts: tuple = ()  # of "together": events that happen at the same time

    def __str__(self):
        words = [f"{self.number}: +{self.pause_ms} ms {self.verb}", self.name or f"gpu {self.gpu}", self.program,
                 " ".join(f"{key}={value}" for key, value in self.options.items()),
                 "; ".join(str(part) for part in self.parts)]
        return " ".join(word for word in words if word)


@dataclass
class Allocation:
    name: str
    gpu: int
    share: int
    living: bool = True  # its runtime was not killed
    programs: list = field(default_factory=list)


class Script:
    """An endless iterator of events. It is made of rounds; each ends with "settle", when all must be quiet and right."""

    def __init__(self, seed, gpus=2, small_gpu=1, weights=None, whole=False):
        self.drawn = random.Random(f"detshare-{seed}")
        self.gpus, self.small_gpu = gpus, small_gpu
        self.weights = WEIGHTS if weights is None else weights
        self.kinds = KINDS | {"whole": 1} if whole else KINDS
        self.there = {}
        self.count = self.names = self.programs = 0

    def __iter__(self):
        while True:
            for _ in range(self.drawn.randint(10, 90)):
                event = self.draw()
                if event:
                    yield event
            for allocation in [a for a in self.there.values() if not a.living]:
                yield self.end(allocation)
            yield self.event("settle")
            for allocation in self.there.values():
                allocation.programs.clear()
            if self.drawn.random() < 0.3:
                for allocation in self.shuffled(self.there.values()):
                    yield self.end(allocation)
                yield self.event("empty")

    def shuffled(self, things):
        things = list(things)
        self.drawn.shuffle(things)
        return things

    def event(self, verb, **more):
        self.count += 1
        # Mostly at once, sometimes when all has calmed down.
        pause = self.drawn.choice((0, 0, 0, 0, 1, 2, 5, 20, 60))
        return Event(self.count, verb, pause, **more)

    def draw(self):
        """One event, or None if what was drawn cannot happen now."""
        verb, = self.drawn.choices(list(self.weights), list(self.weights.values()))
        return getattr(self, verb.replace(" ", "_"))()

    def living(self):
        return [a for a in self.there.values() if a.living]

    def free(self, gpu):
        return 1000 - sum(a.share for a in self.there.values() if a.gpu == gpu)

    def running(self, gpu):
        return sum(len(a.programs) for a in self.there.values() if a.gpu == gpu)

    def name(self):
        self.names += 1
        return f"job-{self.names}"

    # Each returns an Event or None.

    def begin(self, gpu=None, share=None):
        gpu = self.drawn.randrange(self.gpus) if gpu is None else gpu
        least = 10 if gpu == self.small_gpu else SMALLEST_WHOLE
        # On one of the GPUs many that share a group.
        most = min(self.free(gpu), self.drawn.choice((25, 50) if gpu == self.small_gpu and self.drawn.random() < 0.5 else
                                                     (100, 300, 600, 1000)))
        if share is None:
            if most < least:
                return None
            share = self.drawn.randint(least, most)
        allocation = Allocation(self.name(), gpu, share)
        self.there[allocation.name] = allocation
        return self.event("begin", gpu=gpu, name=allocation.name,
                          options={"share": share, "class": self.drawn.choice(CLASSES), "advance": self.drawn.choice((0, 0, 200, 1000))})

    def end(self, allocation=None, but=()):
        if allocation is None:
            found = [a for a in self.there.values() if a.name not in but]
            if len(found) < 2:
                return None
            allocation = self.drawn.choice(found)
        del self.there[allocation.name]
        return self.event("end", gpu=allocation.gpu, name=allocation.name)

    def start(self, kind=None):
        fit = [a for a in self.living() if self.running(a.gpu) < PROGRAMS_MOST]
        if not fit:
            return self.begin()
        allocation = self.drawn.choice(fit)
        self.programs += 1
        program = f"p{self.programs}"
        kind = kind or self.drawn.choices(list(self.kinds), list(self.kinds.values()))[0]
        options = {"kind": kind}
        if kind == "reduce":
            options |= {"n": self.drawn.choice((1 << 12, 1 << 14, 1 << 16)), "launches": self.drawn.randint(1, 40),
                        "stream": self.drawn.choice(("null", "blocking", "nonblocking", "perthread"))}
        # No longer: a kill in a kernel of 20 ms or more takes the neighbours along, as the GPU has it.
        elif kind in ("spin", "stay"):
            options |= {"blocks": self.drawn.choice((1, 8, 60, 132)), "us": self.drawn.choice((500, 5000, 10000)),
                        "launches": self.drawn.choice((1, 5, 20, 60))}
        elif kind == "whole":
            options |= {"launches": self.drawn.randint(1, 3), "us": self.drawn.choice((200, 2000))}
        elif kind == "random":
            options |= {"seed": self.drawn.randint(1, 100000), "steps": self.drawn.choice((60, 150, 250)),
                        "threads": self.drawn.choice((1, 1, 2))}
        allocation.programs.append(program)
        return self.event("start", gpu=allocation.gpu, name=allocation.name, program=program, options=options)

    def on_program(self, verb, options):
        found = [(a, p) for a in self.there.values() for p in a.programs]
        if not found:
            return self.start()
        allocation, program = self.drawn.choice(found)
        return self.event(verb, gpu=allocation.gpu, name=allocation.name, program=program, options=options)

    def kill_program(self):
        return self.on_program("kill program", {"signal": self.drawn.choice((9, 9, 15))})

    def stop_program(self):
        return self.on_program("stop program", {"ms": self.drawn.choice((1, 20, 100, 400))})

    def on_runtime(self, verb, options=None):
        fit = self.living()
        if not fit:
            return None
        allocation = self.drawn.choice(fit)
        if verb == "kill runtime":
            allocation.living = False
        return self.event(verb, gpu=allocation.gpu, name=allocation.name, options=options or {})

    def stop_runtime(self):
        return self.on_runtime("stop runtime", {"ms": self.drawn.choice((1, 20, 100, 300))})

    def kill_runtime(self):
        return self.on_runtime("kill runtime")

    def step(self):
        found = self.on_runtime("step", {"step": self.drawn.randrange(1000), "share": self.drawn.randint(1, 1000)})
        if found:
            found.options["fits"] = found.options["share"] <= self.there[found.name].share
        return found

    def report(self):
        return self.on_runtime("report")

    def garbage(self):
        return self.on_runtime("garbage", {"seed": self.drawn.randrange(1 << 30), "size": self.drawn.choice((0, 1, 15, 16, 17, 300))})

    def liar(self):
        """A program that writes nonsense into its port; it has nothing on the GPU."""
        fit = [a for a in self.living() if self.running(a.gpu) < PROGRAMS_MOST]
        if not fit:
            return None
        allocation = self.drawn.choice(fit)
        self.programs += 1
        allocation.programs.append(f"p{self.programs}")
        return self.event("start", gpu=allocation.gpu, name=allocation.name, program=f"p{self.programs}",
                          options={"kind": "liar", "seed": self.drawn.randrange(1 << 30), "ms": self.drawn.choice((10, 100, 400))})

    def together(self):
        """At the same instant some begin and some end. Those that begin fit beside those that end."""
        begun = [self.begin() for _ in range(self.drawn.randint(1, 4))]
        names = [part.name for part in begun if part]
        ended = [self.end(but=names) for _ in range(self.drawn.randint(0, 3))]
        parts = tuple(part for part in begun + ended if part)
        return self.event("together", parts=parts) if parts else None

    def overfull(self):
        """More than there is: must be refused, and change nothing."""
        gpu = self.drawn.randrange(self.gpus)
        taken = sum(a.share for a in self.living() if a.gpu == gpu)
        if not taken:
            return None
        share = self.drawn.randint(1001 - taken, 1000)
        return self.event("overfull", gpu=gpu, name=self.name(), options={"share": share, "class": "throughput"})

    def crowd(self):
        """As many residents as MPS has clients, at once."""
        gpu = self.small_gpu
        if self.free(gpu) < 400:
            return None
        parts = tuple(self.begin(gpu, self.drawn.randint(5, 10)) for _ in range(40))
        return self.event("together", gpu=gpu, parts=parts)

    def break_ledger(self):
        fit = self.living()  # a ledger that nobody uses is made anew by the next one
        if not fit:
            return None
        gpu = self.drawn.choice(fit).gpu
        return self.event("break ledger", gpu=gpu, options={"how": self.drawn.choice(("empty", "half", "noise", "gone")),
                                                            "seed": self.drawn.randrange(1 << 30)})

    def kill_mps(self):
        return self.event("kill mps", gpu=self.drawn.randrange(self.gpus),
                          options={"which": self.drawn.choice(("server", "control"))})

    def fault(self):
        """A program's illegal address: a fault of all programs of that MPS server."""
        return self.start("fault")
