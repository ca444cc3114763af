# SPDX-License-Identifier: Apache-2.0
"""Programs of every kind, alone and then moved between partitions all the time: their output must be the
same to the last bit. Run by tests/gpu/run; on the emulated GPU by tests/gpu/chaos_emulated.

Each program runs twice alone first: one that differs from itself is skipped, and says so. Then it runs in
several settings, beside the other programs:

  half         in two halves of the GPU at once
  whole        in a share of 1
  sizes        (libraries) in shares of 0.07, 0.2 and 0.7 at once
  half-chaos   in two halves at once, each of which moves to a random part of its half every third launch
  whole-chaos  in a share of 1, moved to a random part of the GPU at every launch

What fails is run once more by itself, and without the library under bare MPS: what fails there, too, is
not ours, and is skipped with that reason.
"""

import collections
import concurrent.futures
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from chaos_batch import COUNTS

HERE = pathlib.Path(__file__).resolve().parent
PREFIX = pathlib.Path(os.environ.get("DETSHARE_PREFIX", "/usr/local"))
PROGRAMS = pathlib.Path(os.environ.get("DETSHARE_PROGRAMS", "build/tests/gpu")).resolve()
RESULTS = os.environ.get("DETSHARE_RESULTS")
DETSHARE = os.environ.get("DETSHARE_COMMAND", str(PREFIX / "bin/detshare"))
NODE_CONFIG = os.environ.get("DETSHARE_NODE_CONFIG")
EMULATED = "EMUGPU_DIR" in os.environ
AT_ONCE = int(os.environ.get("DETSHARE_AT_ONCE") or min(14, max(2, os.cpu_count() - 2)))
TIMEOUT_S = float(os.environ.get("DETSHARE_TIMEOUT_S") or 150)
REMAPS_EACH, REMAPS_IN_ALL = 10000, 1000000
SECOND_LOOKS = 6  # a library that fails everything is not asked about every failure

pytestmark = pytest.mark.skipif(
    not EMULATED and not glob.glob("/proc/driver/nvidia/gpus/*/information"),
    reason="this machine has no NVIDIA GPU (no /proc/driver/nvidia/gpus)")

# few: launches too little to be moved often. quiet: looks at the time, so nothing else of its batch runs beside it.
Program = collections.namedtuple("Program", "name kind file arguments sizes few quiet")


def python(name, file=None, *arguments, sizes=False):
    return Program(name, "python", file or f"programs/{name}.py", arguments, sizes, False, False)


def cuda(name, file=None, *arguments, few=False):
    return Program(name, "cuda", file or name, arguments, False, few, False)


def experiment(name, file="coroutine_program", prefix="", rounds=1):
    arguments = (name,) if rounds == 1 else (name, str(min(rounds, 2) if EMULATED else rounds))
    return Program(prefix + name, "driver", file, arguments, False, True, not prefix and name.startswith(("order", "graphs")))


# Small programs do what they do so often that each moves some 10,000 times in all; the large graph takes too long for that.
GRAPH_ROUNDS = {"replay": 70, "by-hand": 300, "updates": 50, "errors": 300, "child-update": 280, "large": 40, "consecutive": 18,
                "waits": 5, "threads": 13, "memory": 100, "frees": 1, "gone": 100}


ALL = [
    python("gemm", sizes=True), python("convolution", sizes=True), python("fourier", sizes=True),
    python("training", "torch_train.py", "80", sizes=True), python("inference"), python("decode"), python("compiled"),
    python("profiled"), python("triton_kernels"), python("jax_jit"),
    python("jax_plain", "programs/jax_jit.py", "plain"), python("cupy_kernels"), python("loader"),
    cuda("launches"), cuda("per_thread"), cuda("cooperative"), cuda("cooperative-whole", "cooperative", "whole", few=True),
    cuda("dynamic"), cuda("dependent"), cuda("handshake"), cuda("sanitized", "launches", "3500", few=True),
    *map(experiment, ("properties", "order", "order-chains", "order-destroyed", "work", "graphs", "capture", "reset",
                      "fork-before", "fork-after", "threads")),
    *(experiment(name, "graph_program", "graph-", rounds) for name, rounds in GRAPH_ROUNDS.items()),
]
NVCC = ["nvcc", "-std=c++17", "-O2", "-arch=native", "-cudart", "static"]
NVCC_MORE = {"per_thread": ["-default-stream", "per-thread"], "dynamic": ["-rdc=true", "-lcudadevrt"]}
CHAOS = {"half-chaos", "whole-chaos"}
SETTINGS = {  # what runs at once: shares, and how often each moves
    "half": [("0.5", None), ("0.5", None)],
    "whole": [("1", None)],
    "sizes": [("0.07", None), ("0.2", None), ("0.7", None)],
    "half-chaos": [("0.5", "3:1"), ("0.5", "3:2")],
    "whole-chaos": [("1", "1:3")],
}
NOT_YET = {"cudaErrorCooperativeLaunchTooLarge": "cooperative grids larger than the partition are not there yet "
                                                 "(libdetshare-cuda(7), LIMITS)"}


class Suite:
    """Runs each setting once, for all programs that were selected, and keeps what came out."""

    def __init__(self, selected, folder):
        self.selected = [program for program in ALL if program.name in selected]
        self.folder = folder
        self.unable = {}
        self.results = {}
        self.looks = SECOND_LOOKS
        self.prepare()

    def prepare(self):
        """Compiles what has to be, and notes what cannot run here."""
        names = {p.file for p in self.selected if p.kind == "cuda" and not (PROGRAMS / p.file).exists()}
        compiled = {}
        if names and not EMULATED and shutil.which("nvcc"):
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                compiled = dict(zip(names, pool.map(self.compile, names)))
        for program in self.selected:
            if EMULATED and program.kind != "driver":
                self.unable[program.name] = "the emulated GPU runs only the kernels of tests/gpu/kernels.cu"
            elif EMULATED and program.name == "order-destroyed":
                self.unable[program.name] = "the emulated NULL stream does not wait for a destroyed stream"
            elif program.kind == "cuda" and program.file in names and compiled.get(program.file) is not None:
                self.unable[program.name] = compiled.get(program.file) or "no nvcc here"
            elif program.kind == "cuda" and program.file in names and program.file not in compiled:
                self.unable[program.name] = "no nvcc here"
            elif program.kind == "driver" and not (PROGRAMS / program.file).exists():
                self.unable[program.name] = f"{program.file} is not built"
            elif program.name == "sanitized" and not shutil.which("compute-sanitizer"):
                self.unable[program.name] = "no compute-sanitizer here"

    def compile(self, name):
        """None, or why not."""
        done = subprocess.run([*NVCC, *NVCC_MORE.get(name, []), "-o", str(self.folder / name),
                               str(HERE / "programs" / f"{name}.cu")], capture_output=True, text=True)
        return None if done.returncode == 0 else f"nvcc: {done.stderr.strip()[-300:]}"

    def argv(self, program):
        if program.kind == "python":
            return [sys.executable, str(HERE / program.file), *program.arguments]
        path = PROGRAMS / program.file
        path = path if path.exists() else self.folder / program.file
        before = ["compute-sanitizer", "--tool", "memcheck"] if program.name == "sanitized" else []
        return [*before, str(path), *program.arguments]

    def batch(self, programs, share=None, environment=None, at_once=AT_ONCE):
        results = {}
        for some, number in (([p for p in programs if not p.quiet], at_once), ([p for p in programs if p.quiet], 1)):
            if some:
                results |= self.run_batch(some, share, environment, number)
        return results

    def run_batch(self, programs, share, environment, at_once):
        jobs = [{"name": p.name, "argv": self.argv(p), "timeout": TIMEOUT_S,
                 "environment": {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **(environment or {})}}
                for p in programs]
        command = [sys.executable, str(HERE / "chaos_batch.py"), str(at_once)]
        if share:
            config = ["--config", NODE_CONFIG] if NODE_CONFIG else []
            command = [DETSHARE, "run", *config, "--share", share, "--", *command]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        try:
            # Every program has its own limit; this one is for detshare itself.
            output, errors = process.communicate(json.dumps(jobs), timeout=TIMEOUT_S * (1 + len(jobs)))
            status = process.returncode
        except subprocess.TimeoutExpired:
            process.terminate()
            output, errors = process.communicate()
            status = "timeout"
        if status != 0:
            return {p.name: {"status": status, "output": "", "errors": f"{' '.join(command)}: {errors[-2000:]}",
                             "seconds": 0, **dict.fromkeys(COUNTS, 0)} for p in programs}
        return json.loads(output)

    def able(self, setting):
        return [p for p in self.selected if p.name not in self.unable and (p.sizes or setting != "sizes")]

    def alone(self):
        if "alone" not in self.results:
            self.results["alone"] = [self.batch(self.able("alone")) for _ in range(2)]
            report(self)
        return self.results["alone"]

    def reproducible(self, program):
        first, second = (run[program.name] for run in self.alone())
        return first["status"] == second["status"] == 0 and first["output"] == second["output"]

    def run(self, setting):
        if setting not in self.results:
            programs = [p for p in self.able(setting) if self.reproducible(p)]
            places = SETTINGS[setting]
            with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
                self.results[setting] = list(pool.map(
                    lambda place: self.batch(programs, place[0], {"DETSHARE_CHAOS": place[1]},
                                             max(1, AT_ONCE // len(places))), places))
            report(self)
        return self.results[setting]

    def bad(self, program, result):
        """None, or what is wrong with a result."""
        if result["status"] == "timeout":
            return f"hung: killed after {TIMEOUT_S:g} s"
        if result["status"] != 0:
            return f"failed ({result['status']}): {last_line(result)}"
        whole = self.alone()[0][program.name]["output"]
        if result["output"] != whole:
            pairs = zip(whole.splitlines(), result["output"].splitlines())
            return "another result: " + next((f"{b!r} instead of {a!r}" for a, b in pairs if a != b), "more or fewer lines")
        return None

    def second_look(self, program, place):
        """By itself in the same setting, and without the library under bare MPS: (bad or None) twice."""
        if self.looks == 0:
            return None
        self.looks -= 1
        share, chaos = place
        return [self.bad(program, self.batch([program], share, environment)[program.name])
                for environment in ({"DETSHARE_CHAOS": chaos}, {"LD_PRELOAD": None, "DETSHARE_PORT": None})]


def last_line(result):
    lines = (result["errors"].strip() or result["output"].strip() or "no output").splitlines()
    return lines[-1]


@pytest.fixture(scope="session")
def suite(request, tmp_path_factory):
    selected = {item.callspec.params["program"].name for item in request.session.items
                if hasattr(item, "callspec") and "program" in item.callspec.params}
    return Suite(selected, tmp_path_factory.mktemp("chaos"))


def report(suite):
    """What is known so far, as a table."""
    failures = []
    rows = [f"{'program':18} {'setting':15} {'seconds':>8} {'launches':>9} {'remaps':>9} {'stalls':>7} {'pinned':>7}  result"]
    for setting, runs in suite.results.items():
        for place, run in zip(SETTINGS.get(setting, ["", ""]), runs):
            share = f" {place[0]}" if place else ""
            for program in suite.selected:
                if program.name in run:
                    result = run[program.name]
                    bad = suite.bad(program, result)
                    verdict = bad or "as alone"
                    if bad:
                        failures.append(f"== {program.name} {setting}{share}: {bad}\n{result['errors']}")
                    rows.append(f"{program.name:18} {setting + share:15} {result['seconds']:8.2f} "
                                f"{result['launches']:9d} {result['remaps']:9d} {result['stalls']:7d} "
                                f"{result['pinned_graphs']:7d}  {verdict}")
    rows.append(f"{remaps(suite)} remaps in all")
    if RESULTS:
        (pathlib.Path(RESULTS) / "chaos.txt").write_text("\n".join(rows) + "\n")
        (pathlib.Path(RESULTS) / "chaos-failures.txt").write_text("\n".join(failures) + "\n")


def remaps(suite, name=None):
    """Of one program, or of all."""
    return sum(result["remaps"] for runs in suite.results.values() for run in runs
               for program, result in run.items() if name in (None, program))


def runnable(suite, program):
    if program.name in suite.unable:
        pytest.skip(suite.unable[program.name])
    first, second = (run[program.name] for run in suite.alone())
    if 77 in (first["status"], second["status"]):
        pytest.skip(f"{program.name}: {last_line({'errors': '', 'output': first['output']})}")
    for result in (first, second):
        assert result["status"] == 0, f"alone: {result['status']}: {result['errors'] or result['output']}"
    if first["output"] != second["output"]:
        pytest.skip(f"{program.name}: not reproducible: two runs alone differ")


@pytest.mark.parametrize("program", ALL, ids=lambda p: p.name)
def test_runs_alone(suite, program):
    runnable(suite, program)


@pytest.mark.parametrize("setting,program", [(s, p) for s in SETTINGS for p in ALL if p.sizes or s != "sizes"],
                         ids=lambda value: getattr(value, "name", value))
def test_same_bits(suite, setting, program):
    runnable(suite, program)
    for place, run in zip(SETTINGS[setting], suite.run(setting)):
        bad = suite.bad(program, run[program.name])
        if not bad:
            continue
        for words, reason in NOT_YET.items():
            if words in run[program.name]["errors"]:
                pytest.skip(f"{program.name}: {reason}")
        looks = suite.second_look(program, place)
        if looks and looks[1]:
            pytest.skip(f"{program.name}: bare MPS does not run it, either: {looks[1]}")
        if looks and program.quiet and not looks[0]:
            continue  # whether something has ended already depends on when one looks: the machine was late
        again = f"; by itself: {looks[0] or 'as alone'}; bare MPS: as alone" if looks else ""
        pytest.fail(f"share {place[0]}: {bad}{again}\n{run[program.name]['errors']}", pytrace=False)


@pytest.mark.parametrize("program", [p for p in ALL if not p.few], ids=lambda p: p.name)
def test_moved_often(suite, program):
    runnable(suite, program)
    bad = [suite.bad(program, run[program.name]) for setting in CHAOS for run in suite.run(setting)]
    if all(bad):
        pytest.skip(f"{program.name}: {bad[0]}")
    assert remaps(suite, program.name) >= (1 if EMULATED else REMAPS_EACH)


def test_moved_often_in_all(suite):
    if EMULATED or len(suite.selected) < len(ALL):
        pytest.skip("not all programs were run")
    assert remaps(suite) >= REMAPS_IN_ALL
