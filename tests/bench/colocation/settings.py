# SPDX-License-Identifier: Apache-2.0
"""Which programs run beside which, and how the GPU is shared among them. Pure."""
from dataclasses import dataclass, field

LATENCY, THROUGHPUT = "latency", "throughput"


@dataclass(frozen=True)
class Program:
    name: str  # what is measured: programs of one name do the same work
    share: float
    workload: str = THROUGHPUT  # the class
    load: float = 0.0  # of what it can do alone, as Poisson requests; 0: as fast as it can


@dataclass(frozen=True)
class Group:
    name: str
    programs: tuple
    says: str

    @property
    def has_latency(self):
        return any(program.workload == LATENCY for program in self.programs)


@dataclass(frozen=True)
class Row:
    """How the GPU is shared. `kind` is alone, slices, mps, partitions or detshare."""
    name: str
    kind: str
    says: str
    priority: bool = False  # MPS: clients of another class than latency come second
    percent: bool = False  # MPS: CUDA_MPS_ACTIVE_THREAD_PERCENTAGE is the share
    site: dict = field(default_factory=dict)  # keys of detshare.conf
    node: dict = field(default_factory=dict)  # keys of detshare-node.conf
    idle: bool = False  # detshare: all have their share, one works
    latency_only: bool = False  # only for groups with a latency program: elsewhere it is the same as another row
    shares: tuple = ()  # instead of the group's

    def share_of(self, group, index):
        return self.shares[index] if self.shares else group.programs[index].share

    @property
    def must_equal(self):
        """Outputs must be those of the run alone."""
        return self.kind == "detshare"


def copies(n, name):
    return tuple(Program(name, round(1 / n, 3)) for _ in range(n))


GROUPS = {group.name: group for group in (
    Group("decode+train", (Program("decode", 0.5, LATENCY, 0.3), Program("train", 0.5)),
          "decode with a CUDA graph at 30% Poisson load beside saturating training"),
    Group("small x2", copies(2, "small"), "two trainings that do not fill the GPU"),
    Group("small x4", copies(4, "small"), "four of them"),
    Group("small x8", copies(8, "small"), "eight of them"),
    Group("prefill+decode", (Program("decode", 0.5, LATENCY, 0.3), Program("prefill", 0.5)),
          "prefill of long prompts beside decode"),
    Group("copy+compute", (Program("compute", 0.5), Program("copy", 0.5)), "a copy of memory beside matrix products"),
)}

# What PyTorch's kernels that only read and write memory are called.
BANDWIDTH_KERNELS = "*elementwise*,*reduce_kernel*,*layer_norm*,*LayerNorm*,*softmax*,*SoftMax*,*multi_tensor_apply*,*CatArray*," \
    "*dropout*,*gelu*,*GammaBeta*,*embedding*,*nll_loss*"


QUICK, PATIENT = {"latency.reclaim_budget": 500}, {"latency.reclaim_budget": 20000}


def lend(name, says, site=None, node=None, shares=()):
    """A variant of policy = lend, to see what each change of it brings to a latency program and its neighbour."""
    return Row(name, "detshare", says, site={"policy": "lend"} | (site or {}), node=node or {}, latency_only=True, shares=shares)


def advance(share):
    return {"latency.advance": share}


def hold_back(most, kernels="*"):
    return {"hold_back": "yes", "hold_back_kernels": kernels, "hold_back_most": most, "hold_back_us": 20000}


ROWS = {row.name: row for row in (
    Row("time slices", "slices", "no MPS: the driver takes turns"),
    Row("MPS", "mps", "MPS as it is"),
    Row("MPS priority", "mps", "CUDA_MPS_CLIENT_PRIORITY: the latency program first", priority=True),
    Row("MPS percent", "mps", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE: changes what programs see, and results", percent=True),
    Row("partitions", "partitions", "green contexts made by the programs themselves, under MPS"),
    Row("detshare static", "detshare", "policy = static: idle groups stay idle", site={"policy": "static"}),
    Row("detshare lend", "detshare", "policy = lend", site={"policy": "lend"}),
    lend("lend 500 us", "lend, to programs with short kernels only: the latency program has its groups back within 500 us", QUICK),
    lend("lend advance 0.25", "lend, and up to a quarter of the GPU more while the latency program works, for what it lent", advance(0.25)),
    lend("lend advance 0.4", "the same with two fifths", advance(0.4)),
    lend("lend advance 20 ms", "the same of neighbours that are off within 20 ms: kernels are longer in a smaller share", advance(0.4) | PATIENT),
    lend("hold back learnt", "lend, and kernels found to be bound by memory wait for a neighbour's step", node=hold_back(0.3, "")),
    lend("hold back named", "those, and kernels that are named", node=hold_back(0.3, BANDWIDTH_KERNELS)),
    lend("hold back 0.3", "every kernel waits for it, for three tenths of the time at most", node=hold_back(0.3)),
    lend("hold back 0.5", "for half of the time", node=hold_back(0.5)),
    lend("lend 8:2", "lend, with shares of 0.8 and 0.2, within 20 ms: kernels are longer in a smaller share", PATIENT, shares=(0.8, 0.2)),
    Row("in its share", "detshare", "policy = static, the neighbours have their shares and do nothing", site={"policy": "static"}, idle=True),
)}
ALONE = Row("alone", "alone", "the whole GPU, without detshare and MPS")


def shares_of(text, shares):
    try:
        found = tuple(float(share) for share in shares.split(":"))
    except ValueError:
        found = ()
    if len(found) != 2 or min(found) <= 0 or sum(found) > 1:
        raise ValueError(f"--row {text}: shares={shares}: want two, each above 0 and 1 at most together, like 0.8:0.2")
    return found


def custom_row(text):
    """NAME=site.KEY=VALUE,node.KEY=VALUE,shares=0.8:0.2: detshare with these keys in its files, and these shares in groups of two."""
    name, _, keys = text.partition("=")
    site, node, shares = {}, {}, ()
    for part in filter(None, keys.split(",")):
        where, _, rest = part.partition(".")
        key, _, value = rest.partition("=")
        if part.startswith("shares="):
            shares = shares_of(text, part.partition("=")[2])
            continue
        if where not in ("site", "node") or not key or not value:
            raise ValueError(f"--row {text}: want NAME=site.KEY=VALUE,node.KEY=VALUE,shares=SHARE:SHARE")
        {"site": site, "node": node}[where][key] = value
    if not name or name in ROWS or name == ALONE.name:
        raise ValueError(f"--row {text}: a row needs a name of its own")
    return Row(name, "detshare", keys, site=site, node=node, shares=shares, latency_only=bool(shares))


def partition_of(programs, index, n_groups):
    """(first, last + 1) of the SM groups of a program's static partition; the last has the remainder, too."""
    cuts = [round(sum(p.share for p in programs[:i]) * n_groups) for i in range(len(programs) + 1)]
    return cuts[index], cuts[index + 1]
