# SPDX-License-Identifier: Apache-2.0
"""A node of emulated GPUs to which events happen, and which is looked at all the while."""
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import observe
from events import GROUPS
from observe import PATIENCE_S, Violation, expect, wait_until
from runtime_host import HELLO, MAGIC, REPORT, STEP, VERSION, WELCOME, Host, is_running

# What grants say of lending, by class.
LENDING = {"latency": ",policy=lend,lend=yes,borrow=yes,reclaim=500", "throughput": ",policy=lend,lend=yes,borrow=yes,reclaim=5000",
           "besteffort": ",policy=lend,lend=yes,borrow=yes,reclaim=20000"}
BEGIN_AGAIN = 5
DEADLINE_MS = 30000  # of begin and end: they take milliseconds, but the machine may have other work


@dataclass
class Allocation:
    name: str
    gpu: int
    share: int
    living: bool = True
    pid: int = 0  # of its runtime


@dataclass
class Program:
    name: str
    allocation: Allocation
    process: subprocess.Popen
    want: str  # what it prints, or None
    stays: bool
    excuse: str = ""  # why it may fail
    whole: bool = False  # it wants the whole GPU, and may be refused


class Node:
    """`sabotage` goes into every program's environment (None: is taken away), for tests that must notice."""

    def __init__(self, build, gpus=2, policy=None, say=lambda text: None, sabotage=None):
        self.build, self.gpus, self.say = Path(build), gpus, say
        # Contexts take no memory of an emulated GPU. A launch may wait for the whole of it in vain.
        self.host, self.policy = Host(gpus=gpus, memory_per_program="1M", whole_gpu_patience_ms=10000), policy
        self.there, self.programs, self.of_pid, self.alone = {}, [], {}, {}
        self.timers, self.small, self.sabotage = [], set(), sabotage or {}
        self.later_excuses = []
        self.beside = []  # GPU, from, until (ns): when those with less than a group could not take turns in it
        self.counted = {"events": 0, "programs": 0, "kills": 0, "settled": 0, "blocks": [0] * gpus}
        self.pool = ThreadPoolExecutor(8)
        self.watches = []
        # Once by hand, so that directories and topologies are there and can be watched.
        for gpu in range(gpus):
            self.begin_one(f"job-{900000 + gpu}", gpu, 1000, "throughput")
        self.gpu_dirs = [self.host.run_dir / f"gpu-{gpu['uuid']}" for gpu in self.host.gpus()]
        self.fds_alone = max(observe.descriptors(self.there[f"job-{900000 + gpu}"].pid) for gpu in range(gpus))
        for name in list(self.there):
            self.end_one(name)
        self.watches = [observe.Watch(self.build, path) for path in self.gpu_dirs]

    # Events

    def happen(self, event):
        self.say(str(event))
        time.sleep(event.pause_ms / 1e3)
        self.do(event)
        self.counted["events"] += 1 + len(event.parts)
        for watch in self.watches:
            watch.look()
        if self.counted["events"] % 16 == 0:
            self.look_at_gpus()

    def do(self, event):
        getattr(self, "do_" + event.verb.replace(" ", "_"))(event)

    def do_begin(self, event):
        self.begin_one(event.name, event.gpu, event.options["share"], event.options["class"], event.options.get("advance", 0))

    def do_end(self, event):
        self.end_one(event.name)

    def do_together(self, event):
        for done in [self.pool.submit(self.do, part) for part in event.parts]:
            done.result()

    def do_overfull(self, event):
        done = self.begin_raw(event.name, event.gpu, event.options["share"], "throughput")
        expect(done.returncode == 1 and done.stderr.count("\n") == 1,
               f"begin of more than there is exits {done.returncode}: {done.stderr}")

    def do_start(self, event):
        allocation = self.there[event.name]
        argv, alone = self.command(event.options, allocation)
        if event.options["kind"] == "liar":
            self.expect_no_turns(allocation)  # it may say that it cannot stop
        process = subprocess.Popen([str(word) for word in argv], env=self.task_environment(allocation), text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.of_pid[process.pid] = allocation.name
        self.counted["programs"] += 1
        program = Program(event.program, allocation, process, alone, event.options["kind"] == "stay")
        program.whole = event.options["kind"] == "whole"
        self.programs.append(program)
        if event.options["kind"] == "fault":
            self.excuse(lambda p: p.allocation.gpu == allocation.gpu, "a fault on its GPU", later=True)

    def do_kill_program(self, event):
        program = self.program(event.program)
        if program.process.poll() is None:
            program.excuse = program.excuse or "killed"
            self.note_cut_off(program)
            program.process.send_signal(event.options["signal"])
            program.process.send_signal(signal.SIGCONT)
            self.counted["kills"] += 1

    def do_stop_program(self, event):
        program = self.program(event.program)
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGSTOP)
            self.later(event.options["ms"], program.process.send_signal, signal.SIGCONT)

    def do_stop_runtime(self, event):
        pid = self.there[event.name].pid
        for _ in range(1000):
            os.kill(pid, signal.SIGSTOP)
            if not self.holds_ledger(pid):
                break
            # Stopped in the microseconds in which it has the lock, it would hold up all others; see the guide.
            os.kill(pid, signal.SIGCONT)
        self.later(event.options["ms"], self.resume, pid)

    def do_kill_runtime(self, event):
        allocation = self.there[event.name]
        self.expect_no_turns(allocation)  # nobody can tell its programs to stop
        os.kill(allocation.pid, signal.SIGKILL)
        allocation.living = False
        self.counted["kills"] += 1
        self.excuse(lambda p: p.allocation is allocation, "its runtime was killed")

    def do_step(self, event):
        answer = self.talk(event.name, HELLO.pack(MAGIC, VERSION, STEP, event.options["step"], event.options["share"]))
        refused = WELCOME.unpack(answer)[2]
        expect(bool(refused) != event.options["fits"], f"{event}: refused={refused}")

    def do_report(self, event):
        answer = self.talk(event.name, HELLO.pack(MAGIC, VERSION, REPORT, 0, 0))
        expect(len(answer) >= 24, f"{event}: an answer of {len(answer)} bytes")

    def do_garbage(self, event):
        noise = random.Random(event.options["seed"]).randbytes(event.options["size"])
        self.talk(event.name, noise, answered=False)

    def do_break_ledger(self, event):
        path = self.gpu_dirs[event.gpu] / "ledger"
        if not path.exists():
            return
        noise = random.Random(event.options["seed"])
        size = path.stat().st_size
        with path.open("r+b") as ledger:
            if event.options["how"] == "empty":
                ledger.truncate(0)
            elif event.options["how"] == "half":
                ledger.truncate(size // 2)
            elif event.options["how"] == "noise":
                ledger.write(noise.randbytes(size))
        if event.options["how"] == "gone":
            path.unlink()

    def do_kill_mps(self, event):
        wanted = event.options["which"]
        self.excuse(lambda p: p.allocation.gpu == event.gpu, "its MPS was killed", later=True)
        for pid in observe.mps_processes(self.gpu_dirs[event.gpu], wanted):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it went with the other
            self.counted["kills"] += 1
            wait_until(lambda pid=pid: f"process {pid} does not die" if is_running(pid) else None)

    # What events are made of

    def begin_raw(self, name, gpu, share, class_name, advance=0):
        lending = LENDING.get(class_name, "") if self.policy == "lend" else ""
        if lending and class_name == "latency" and advance:
            lending += f",advance={advance}"
        grant = f"v=1,class={class_name},kind={class_name},share={share},isolation=user{lending},config=0000000000000000"
        for _ in range(BEGIN_AGAIN):
            done = self.host.node("begin", "--allocation", name, "--job-id", name[4:], "--uid", os.getuid(), "--gpu", gpu, "--grant",
                                  grant, "--deadline-ms", DEADLINE_MS, timeout=2 * PATIENCE_S)
            # MPS has 0.7 s to answer, which a loaded machine may need for something else.
            if "does not answer" not in done.stderr:
                break
        return done

    def begin_one(self, name, gpu, share, class_name, advance=0):
        done = self.begin_raw(name, gpu, share, class_name, advance)
        expect(done.returncode == 0, f"begin of {name}, share {share}: {done.stderr.strip()}")
        if share * GROUPS < 1000:
            self.small.add(name)
        self.there[name] = Allocation(name, gpu, share, pid=self.host.runtime_pid(name))

    def end_one(self, name):
        allocation = self.there.pop(name)
        self.excuse(lambda p: p.allocation is allocation, "its allocation ended")
        for program in [p for p in self.programs if p.allocation is allocation and p.process.poll() is None]:
            self.note_cut_off(program)
        done = self.host.node("end", "--allocation", name, "--deadline-ms", DEADLINE_MS, timeout=2 * PATIENCE_S)
        expect(done.returncode == 0, f"end of {name}: {done.stderr.strip()}")
        expect(not (self.host.run_dir / name).exists(), f"{name} is left in the runtime directory")
        expect(not is_running(allocation.pid), f"runtime {allocation.pid} of {name} runs after its end")
        for program in self.programs:
            # Those that never came to the port are Slurm's to end.
            if program.allocation is allocation and program.process.poll() is None:
                program.process.kill()

    def command(self, options, allocation):
        """(argv, what it prints alone)"""
        kind = options["kind"]
        gpuwork = self.host.gpuwork
        if kind == "liar":
            return [self.build / "tests/chaos/liar", self.host.run_dir / allocation.name / "port", options["seed"],
                    options["ms"]], None
        if kind == "fault":
            return [gpuwork, "trap"], None
        if kind == "stay":
            return [gpuwork, "spin", "--blocks", options["blocks"], "--block-us", 10000, "--seconds", 10000], None
        if kind == "whole":
            argv = [self.build / "tests/gpu/whole_program", "cooperative", options["launches"], "-0", options["us"]]
        elif kind == "random":
            argv = [self.build / "tests/emugpu/random_program", options["seed"], options["steps"], options["threads"], 0]
        elif kind == "reduce":
            argv = [gpuwork, "reduce", "--n", options["n"], "--launches", options["launches"], "--stream", options["stream"]]
        else:
            argv = [gpuwork, "spin", "--blocks", options["blocks"], "--block-us", options["us"], "--launches",
                    options["launches"]]
        key = json.dumps([str(word) for word in argv])
        if kind == "reduce":
            key = f"reduce {options['n']}"
        if key not in self.alone:
            self.alone[key] = self.run_alone(argv)
        return argv, self.alone[key]

    def run_alone(self, argv):
        """On a GPU that no allocation is on: of an emulated host of its own."""
        directory = self.host.dir / "alone"
        if not directory.exists():
            subprocess.run([self.build / "tests/emugpu/emugpu-host", "create", directory, "--gpus", "1"], check=True,
                           stdout=subprocess.DEVNULL)
        done = subprocess.run([str(word) for word in argv], env=self.host.env | {"EMUGPU_DIR": str(directory)}, text=True,
                              capture_output=True, check=False, timeout=PATIENCE_S)
        expect(done.returncode == 0, f"{argv} alone: {done.stderr}")
        return result_of(done.stdout)

    def task_environment(self, allocation):
        environment = dict(self.host.env)
        for line in (self.host.run_dir / allocation.name / "task.env").read_text().splitlines():
            name, _, value = line.partition("=")
            environment[name] = value
        environment |= self.sabotage
        return {name: value for name, value in environment.items() if value is not None}

    def program(self, name):
        return next(p for p in self.programs if p.name == name)

    def excuse(self, whom, why, later=False):
        """These may fail: those that run now, and if `later` those that start before the next settle."""
        for program in self.programs:
            if whom(program):
                program.excuse = program.excuse or why
        if later:
            self.later_excuses.append((whom, why))

    def note_cut_off(self, program):
        """Blocks that wait for each other are in a long kernel until all have come: a kill then is a fault of the neighbours."""
        if program.whole:
            self.excuse(lambda p: p.allocation.gpu == program.allocation.gpu, "a grid for the whole GPU was cut off", later=True)

    def later(self, ms, action, *arguments):
        def act():
            try:
                action(*arguments)
            except ProcessLookupError:
                pass
        timer = threading.Timer(ms / 1e3, act)
        timer.start()
        self.timers.append((timer, act))

    def resume_all(self):
        for timer, act in self.timers:
            timer.cancel()
            timer.join()
            act()
        self.timers = []

    @staticmethod
    def resume(pid):
        os.kill(pid, signal.SIGCONT)

    @staticmethod
    def holds_ledger(pid):
        """It has a lock now, of which there is only the ledger's. Looked at when it has really stopped."""
        while (stat := Path(f"/proc/{pid}/stat")).exists() and stat.read_text().rpartition(")")[2].split()[0] not in "TtZX":
            time.sleep(0.0001)
        return any(line.split()[4] == str(pid) for line in Path("/proc/locks").read_text().splitlines()
                   if line.split()[1] != "->")

    def talk(self, name, message, answered=True):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(PATIENCE_S)
            client.connect(str(self.host.run_dir / name / "port"))
            client.send(message)
            return client.recv(65536) if answered else b""

    # Looking

    def look_at_gpus(self):
        for gpu in range(self.gpus):
            counted = observe.isolation(self.host, self.build, gpu, lambda pid: self.of_pid.get(pid, f"process {pid}"),
                                        lambda owners, at_ns, gpu=gpu: self.may_meet(gpu, owners, at_ns))
            self.counted["blocks"][gpu] = counted["blocks"]

    def expect_no_turns(self, allocation):
        """From now until all is settled, those who share a group with it may be in it side by side."""
        if allocation.name in self.small:
            self.beside.append([allocation.gpu, time.monotonic_ns(), None])

    def may_meet(self, gpu, owners, at_ns):
        return all(owner in self.small for owner in owners) and any(
            where == gpu and begun <= at_ns and (over is None or at_ns < over) for where, begun, over in self.beside)

    def do_settle(self, _event):
        """Everything that was stopped goes on, everything that ends has ended, everybody has what is his."""
        self.resume_all()
        end = time.monotonic() + PATIENCE_S
        for program in [p for p in self.programs if not p.stays]:
            try:
                out, err = program.process.communicate(timeout=max(1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise Violation(f"program {program.name} of {program.allocation.name} does not end") from None
            self.judge(program, out, err)
        for program in [p for p in self.programs if p.stays]:
            if program.process.poll() is not None:
                self.judge(program, *program.process.communicate())
        active = [p.allocation for p in self.programs if p.stays and p.process.poll() is None]
        wait_until(lambda: observe.unsettled(observe.residents(self.host), self.there.values(), active))
        self.look_at_gpus()
        self.check_runtimes()
        for program in [p for p in self.programs if p.stays]:
            program.process.terminate()
            program.process.communicate(timeout=PATIENCE_S)
        self.programs, self.later_excuses = [], []
        for span in self.beside:
            span[2] = span[2] or time.monotonic_ns()
        self.counted["settled"] += 1

    def judge(self, program, out, err):
        status = program.process.returncode
        why = program.excuse or next((why for whom, why in self.later_excuses if whom(program)), "")
        if program.whole and "error 720" in out:
            return  # refused, with the driver's code
        if status == 0 and program.want is not None:
            got = result_of(out)
            expect(got == program.want, f"program {program.name} of {program.allocation.name}: {got}, alone {program.want}")
        elif status != 0 and program.want is not None or program.stays:
            expect(why, f"program {program.name} of {program.allocation.name} ended with status {status}: {err.strip()[-400:]}")

    def check_runtimes(self):
        for allocation in self.there.values():
            if not allocation.living:
                continue
            own = sum(p.allocation is allocation and p.process.poll() is None for p in self.programs)
            neighbours = sum(other.gpu == allocation.gpu for other in self.there.values()) - 1
            most = (self.fds_alone + own * observe.FDS_PROGRAM + neighbours * observe.FDS_NEIGHBOUR + observe.FDS_SPARE)
            pid = allocation.pid
            wait_until(lambda pid=pid, most=most, name=allocation.name: None if observe.descriptors(pid) <= most else
                       f"the runtime of {name} has {observe.descriptors(pid)} descriptors, {most} would be enough")

    def do_empty(self, _event):
        wait_until(lambda: observe.left_over(self.host, self.build, self.gpus))

    def finish(self):
        """End all that is there; returns what was counted."""
        self.do_settle(None)
        for name in list(self.there):
            self.end_one(name)
        self.do_empty(None)
        seen = [watch.end() for watch in self.watches]
        self.watches = []
        return self.counted | {"ledger": seen}

    def told(self):
        """What the node says of itself, for whoever reads of a violation."""
        done = subprocess.run(self.host.command("status", "--config", self.host.conf), env=self.host.env, text=True,
                              capture_output=True, check=False, timeout=PATIENCE_S)
        pids = " ".join(f"{p.name}={p.process.pid}" for p in self.programs if p.process.poll() is None)
        return f"{done.stdout}{done.stderr}{pids}"

    def close(self):
        for timer, _ in self.timers:
            timer.cancel()
        self.pool.shutdown()
        for watch in self.watches:
            watch.process.kill()
            watch.process.communicate()
        for program in self.programs:
            program.process.kill()
            program.process.communicate()
        self.host.close()


def result_of(text):
    """What does not depend on time: a random program's line, a gpuwork's result."""
    text = text.strip()
    try:
        return json.loads(text)["result"] or "done"
    except (ValueError, KeyError, TypeError):
        return text
