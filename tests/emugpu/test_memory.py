# SPDX-License-Identifier: Apache-2.0
"""Quotas of GPU memory: real node runtimes, programs that take memory in every way there is, MPS's limit behind it."""
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import BUILD, Host, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

OK, OUT_OF_MEMORY = 0, 2
GPU_MIB = 143360  # what emugpu-host gives a GPU
QUOTA = 1024
CONTEXT = 100  # memory_per_program of these tests

# Ways to take memory that the quota counts, and the largest number of MiB by which each may be off.
COUNTED = {"linear": 0, "pitch": 0, "managed": 0, "async": 31, "pool": 31, "orphan": 31, "physical": 0, "handle": 0,
           "twice": 0, "array": 0, "array3d": 0, "mipmap": 0, "heap": 0}
NOT_COUNTED = ["host", "addresses"]


class Shell:
    """A memory_program, told what to do."""

    def __init__(self, env, *arguments):
        program = Path(BUILD) / "tests" / "gpu" / "memory_program"
        # Not its wrapper's: the library must be preloaded into the program itself.
        program = program.parent / ".libs" / program.name if (program.parent / ".libs" / program.name).exists() else program
        self.process = subprocess.Popen([program, *arguments], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        assert line == "ready 0\n", line + self.process.stderr.read()

    def send(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        return [int(word) for word in self.process.stdout.readline().split()]

    def ask(self, line):
        self.send(line)
        return self.hear()

    def take(self, kind, mib):
        result, number = self.ask(f"take {kind} {mib}")
        return number if result == OK else None

    def give(self, number):
        assert self.ask(f"give {number}") == [OK]

    def free(self):
        result, free, _ = self.ask("info")
        assert result == OK
        return free

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0, self.process.stderr.read()


@pytest.fixture
def host():
    made = Host(gpus=2, memory_per_program=f"{CONTEXT}M")
    made.shells = []

    def shell(name="job-1", *arguments, **env):
        lines = (made.run_dir / name / "task.env").read_text().splitlines()
        task = dict(line.split("=", 1) for line in lines) | env
        made.shells.append(Shell(made.env | {key: value for key, value in task.items() if value is not None}, *arguments))
        return made.shells[-1]

    made.shell = shell
    yield made
    for one in made.shells:
        one.process.kill()
        one.process.wait()
    made.close()


def alone(host):
    """The same program without detshare."""
    host.shells.append(Shell(host.env | {"CUDA_VISIBLE_DEVICES": "0"}))
    return host.shells[-1]


@pytest.mark.parametrize("kind", COUNTED)
def test_every_way_to_take_memory_counts_and_comes_back(host, kind):
    host.begin(memory=QUOTA)
    shell = host.shell()
    assert shell.free() == QUOTA
    for _ in range(2):  # what comes back can be taken again
        number = shell.take(kind, 600)
        assert number is not None
        assert QUOTA - 600 - COUNTED[kind] <= shell.free() <= QUOTA - 600
        assert shell.ask(f"take {kind} 600")[0] == OUT_OF_MEMORY
        assert shell.ask("take linear 500")[0] == OUT_OF_MEMORY, "the others' quota is the same one"
        assert shell.free() <= QUOTA - 600, "what failed took nothing"
        shell.give(number)
        assert shell.ask("sync") == [OK]
        assert shell.free() == QUOTA
    assert host.resident()["memory_peak_mib"] >= 600
    shell.end()


@pytest.mark.parametrize("kind", ["graph", "captured"])
def test_memory_of_graphs_counts_when_they_run_and_is_used_again(host, kind):
    host.begin(memory=QUOTA)
    shell = host.shell()
    assert shell.ask(f"take {kind} {QUOTA + 40}")[0] == OUT_OF_MEMORY
    assert shell.free() == QUOTA
    first = shell.take(kind, 600)
    assert first is not None and QUOTA - 640 <= shell.free() <= QUOTA - 600
    assert shell.take(kind, 600) is not None, "one after the other they use the same memory"
    assert QUOTA - 640 <= shell.free() <= QUOTA - 600
    # What no graph uses now goes before anything fails.
    number = shell.take("linear", 900)
    assert number is not None
    assert shell.ask(f"take {kind} 600")[0] == OUT_OF_MEMORY
    shell.give(number)
    assert shell.take(kind, 600) is not None
    shell.give(first)
    assert shell.free() == QUOTA


@pytest.mark.parametrize("kind", NOT_COUNTED)
def test_what_is_no_memory_of_the_gpu_does_not_count(host, kind):
    host.begin(memory=QUOTA)
    shell = host.shell()
    number = shell.take(kind, 4 * QUOTA)
    assert number is not None and shell.free() == QUOTA
    shell.give(number)


def test_beyond_the_quota_it_fails_as_on_a_full_gpu_and_only_there(host):
    host.begin("job-1", share=250, memory=QUOTA)
    host.begin("job-2", share=250, memory=2 * QUOTA)
    first, second = host.shell("job-1"), host.shell("job-2")
    full = alone(host)
    assert full.ask(f"take linear {GPU_MIB + 2}")[0] == first.ask(f"take linear {QUOTA + 2}")[0] == OUT_OF_MEMORY
    assert first.ask("grab 64 100") == [QUOTA // 64, OUT_OF_MEMORY]
    assert second.ask("grab 64 100") == [2 * QUOTA // 64, OUT_OF_MEMORY], "a neighbour at its quota changes nothing"
    assert first.free() == second.free() == 0
    # No error sticks, and what is there goes on.
    assert first.ask("sync") == [OK]
    first.kill()
    assert second.ask("take linear 2")[0] == OUT_OF_MEMORY, "one job's memory is never another's"


def test_a_caching_allocator_frees_and_tries_again(host):
    host.begin(memory=QUOTA)
    shell = host.shell()
    results = [shell.ask("cached 400") for _ in range(6)]
    assert results == [[OK, 0], [OK, 0], [OK, 1], [OK, 0], [OK, 1], [OK, 0]]


def test_a_pool_gives_back_what_it_does_not_use_before_anything_fails(host):
    host.begin(memory=QUOTA)
    shell = host.shell()
    assert shell.ask("threshold 100000") == [OK]
    shell.give(shell.take("async", 800))
    assert shell.free() <= QUOTA - 800, "the pool keeps it"
    number = shell.take("linear", 900)
    assert number is not None, "the pool's memory was not taken back"
    shell.give(number)
    shell.give(shell.take("async", 800))
    assert shell.ask("trim") == [OK] and shell.free() == QUOTA


def test_programs_of_a_job_have_one_quota_together(host):
    host.begin(memory=QUOTA)
    first, second = host.shell(), host.shell()
    left = QUOTA - CONTEXT  # a second program's contexts lie in the quota
    assert first.free() == second.free() == left
    number = first.take("linear", 600)
    assert number is not None and first.free() == second.free() == left - 600
    assert second.ask("take linear 400")[0] == OUT_OF_MEMORY
    assert second.take("linear", left - 600) is not None
    assert first.ask("take linear 2")[0] == OUT_OF_MEMORY
    first.give(number)
    assert second.take("linear", 600) is not None
    second.kill()
    wait_for(lambda: first.free() == QUOTA)


def test_a_killed_program_gives_its_part_back(host):
    host.begin(memory=QUOTA)
    survivor = host.shell()
    for kind in ("linear", "async", "physical"):
        victim = host.shell()
        assert victim.take(kind, 700) is not None
        assert survivor.ask("take linear 400")[0] == OUT_OF_MEMORY
        victim.kill()
        wait_for(lambda: survivor.free() == QUOTA)
    assert host.resident()["memory_used_mib"] == 0


def test_two_programs_race_at_the_edge_and_are_killed_there(host):
    """Never beyond the quota together, whoever is killed where; and no failure while there is room."""
    piece = 16
    host.begin(memory=QUOTA)
    for _ in range(6):
        shells = [host.shell() for _ in range(3)]
        left = QUOTA - 2 * CONTEXT
        for shell in shells:
            shell.send(f"grab {piece} 1000")
        answers = [shell.hear() for shell in shells]
        assert all(result == OUT_OF_MEMORY for _, result in answers)
        taken = sum(got for got, _ in answers)
        assert taken == left // piece, answers
        # Killed in the middle of taking.
        for shell in shells:
            shell.send(f"grab {piece} 1000")
        for shell in shells:
            shell.kill()
        wait_for(lambda: host.resident().get("memory_used_mib") == 0, 60)
    shell = host.shell()
    assert shell.take("linear", QUOTA) is not None
    assert host.resident()["memory_peak_mib"] == QUOTA


def test_a_stopped_program_keeps_what_it_has_and_holds_nobody_up(host):
    host.begin(memory=QUOTA)
    stopped, other = host.shell(), host.shell()
    assert stopped.take("linear", 500) is not None
    stop(stopped.process.pid)
    assert other.ask("take linear 600")[0] == OUT_OF_MEMORY
    assert other.take("linear", 400) is not None
    stopped.process.send_signal(signal.SIGCONT)
    assert stopped.ask("sync") == [OK]


def test_cuda_and_nvml_agree(host):
    host.begin(memory=QUOTA)
    shell = host.shell()
    assert shell.take("linear", 300) is not None
    assert shell.ask("info") == [OK, QUOTA - 300, QUOTA]
    assert shell.ask("total") == [OK, QUOTA]
    for version in (1, 2):
        assert shell.ask(f"nvml {version}") == [OK, QUOTA, QUOTA - 300, 300]
    # A process that uses no GPU is asked for none: it asks the runtime.
    idle = host.shell("job-1", "idle")
    assert idle.ask("total") == [OK, QUOTA]
    for version in (1, 2):
        assert idle.ask(f"nvml {version}") == [OK, QUOTA, QUOTA - 300, 300]
    assert [p["pid"] for p in host.resident()["programs"]] == [shell.process.pid]


def test_another_gpu_and_other_processes_are_shown_as_they_are(host):
    host.begin(memory=QUOTA, gpu=1)  # NVML's GPU 0 is not the allocation's
    shell = host.shell()
    assert shell.ask("total") == [OK, QUOTA]
    for version in (1, 2):
        assert shell.ask(f"nvml {version}")[:2] == [OK, GPU_MIB]
    outside = alone(host)
    assert outside.ask("total") == [OK, GPU_MIB]
    assert outside.ask("nvml 1")[:2] == [OK, GPU_MIB]


def test_pynvml_finds_it_too(host):
    """ctypes: dlopen, then dlsym."""
    host.begin(memory=QUOTA)
    code = """
import ctypes
nvml = ctypes.CDLL("libnvidia-ml.so.1")
class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]
gpu, memory = ctypes.c_void_p(), Memory()
assert nvml.nvmlInit_v2() == 0
assert nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(gpu)) == 0
assert nvml.nvmlDeviceGetMemoryInfo(gpu, ctypes.byref(memory)) == 0
print(memory.total >> 20, memory.used >> 20)
"""
    task = dict(line.split("=", 1) for line in (host.run_dir / "job-1" / "task.env").read_text().splitlines())
    done = subprocess.run(["/usr/bin/python3", "-c", code], env=host.env | task, text=True, capture_output=True, timeout=60,
                          check=False)
    assert (done.stdout, done.returncode) == (f"{QUOTA} 0\n", 0), done.stderr


def test_without_nvml_nothing_of_it_shows(host):
    host.begin(memory=QUOTA)
    code = """
import ctypes
here = ctypes.CDLL(None)
try:
    here.nvmlDeviceGetMemoryInfo
    print("there")
except AttributeError:
    print("not there")
"""
    task = dict(line.split("=", 1) for line in (host.run_dir / "job-1" / "task.env").read_text().splitlines())
    done = subprocess.run(["/usr/bin/python3", "-c", code], env=host.env | task, text=True, capture_output=True, timeout=60,
                          check=False)
    assert done.stdout == "not there\n", done.stderr


def test_reset_and_fork_leave_the_books_right(host):
    host.begin(memory=QUOTA)
    shell = host.shell()
    assert shell.take("linear", 500) is not None
    assert shell.ask("reset") == [OK]
    assert shell.free() == QUOTA
    assert shell.take("linear", 500) is not None
    assert shell.ask("fork") == [3], "a child has no CUDA (NOT_INITIALIZED)"
    assert shell.free() == QUOTA - 500


def test_the_default_is_the_share(host):
    host.begin(share=500)
    shell = host.shell()
    quota = (GPU_MIB - 1024) // 2 - CONTEXT
    assert shell.ask("total") == [OK, quota] and host.resident()["memory_quota_mib"] == quota


def test_what_does_not_fit_is_refused_in_one_line(host):
    host.begin("job-1", share=250, memory=100000)
    refused = host.begin("job-2", share=250, memory=60000, check=False)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert "job-2 needs 60000M of GPU" in refused.stderr and "job-1 has 100000M" in refused.stderr
    assert "42136M are left" in refused.stderr
    refused = host.begin("job-3", share=250, memory=200000, check=False)
    assert "200000M of GPU memory are asked, and a job can have 142236M" in refused.stderr
    assert not (host.run_dir / "job-2").exists() and not (host.run_dir / "job-3").exists()
    host.begin("job-2", share=250, memory=42136)
    host.end("job-1")
    host.begin("job-3", share=250, memory=100000)


def control(host, command):
    """Ask the MPS daemon of GPU 0."""
    pipe = next(iter(host.run_dir.glob("gpu-*/mps/pipe")))
    done = subprocess.run([host.config["mps_control"]], input=command + "\n", env=host.env | {"CUDA_MPS_PIPE_DIRECTORY": str(pipe)},
                          text=True, capture_output=True, timeout=60, check=True)
    return done.stdout.strip()


def test_mps_stops_a_program_without_the_library_at_the_largest_quota(host):
    """The user removes the library and every variable but the pipe's: MPS still knows a limit."""
    host.begin("job-1", share=250, memory=2048)
    host.begin("job-2", share=250, memory=4096)
    bare = {"LD_PRELOAD": None, "DETSHARE_PORT": None, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": None}
    rogue = host.shell("job-1", **bare)
    got, result = rogue.ask("grab 16 2000")
    assert result == OUT_OF_MEMORY and got == (4096 + CONTEXT) // 16
    # The neighbour's quota is there all the same.
    other = host.shell("job-2")
    assert other.take("linear", 4096) is not None
    # Setting the variable higher is no way out either.
    rogue.kill()
    rogue = host.shell("job-1", **bare | {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=100G"})
    assert rogue.ask("grab 16 2000") == [(4096 + CONTEXT) // 16, OUT_OF_MEMORY]


def test_mps_lets_through_the_quota_of_one_that_comes_later(host):
    host.begin("job-1", share=250, memory=1024)
    first = host.shell("job-1")  # now a server runs, with the limit of then
    host.begin("job-2", share=250, memory=8192)
    second = host.shell("job-2")
    assert second.take("linear", 8192) is not None
    assert first.take("linear", 1024) is not None


def test_usage_record_status_and_run(host):
    host.begin("job-1", memory=QUOTA)
    shell = host.shell()
    assert shell.take("linear", 512) is not None
    resident = host.resident()
    assert (resident["memory_quota_mib"], resident["memory_used_mib"], resident["memory_peak_mib"]) == (QUOTA, 512, 512)
    assert "1G" in host.status_text()
    shell.end()
    wait_for(lambda: host.resident().get("memory_used_mib") == 0, 60)
    host.end("job-1")
    assert host.record()["reported_by_program"]["memory_peak_mib"] == 512


def test_detshare_run_takes_memory_too(host):
    program = Path(BUILD) / "tests" / "gpu" / "memory_program"
    program = program.parent / ".libs" / program.name if (program.parent / ".libs" / program.name).exists() else program
    done = subprocess.run(host.command("run", "--config", host.conf, "--share", "0.25", "--memory", "2G", "--", program),
                          env=host.env, input="total\ntake linear 3000\n", text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["0 2048", f"{OUT_OF_MEMORY} 0"]
    done = subprocess.run(host.command("run", "--config", host.conf, "--share", "0.25", "--memory", "2GB", "--", "true"),
                          env=host.env, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2 and '"2GB" is not a size of memory' in done.stderr


def test_garbage_in_the_book_stays_in_the_job(host):
    """A program overwrites the whole book, again and again: what its job hears may be wrong, its neighbour is not hurt."""
    host.begin("job-1", share=250, memory=QUOTA)
    host.begin("job-2", share=250, memory=QUOTA)
    vandal = host.program("job-1")
    neighbour = host.shell("job-2")
    for _ in range(20):
        assert vandal.ask("scribble") == "done"
        resident = host.resident("job-1")
        assert resident["memory_used_mib"] <= QUOTA and resident["memory_peak_mib"] <= QUOTA
    assert neighbour.free() == QUOTA and neighbour.take("linear", QUOTA) is not None
    # Its own job is told that nothing is left, until the last of its programs has ended.
    assert host.shell("job-1").ask("take linear 2")[0] in (OK, OUT_OF_MEMORY)
    assert os.path.exists(f"/proc/{host.runtime_pid('job-1')}")


def test_threads_of_one_program(host):
    """Several programs take and give at once; in the end all is free."""
    host.begin(memory=QUOTA)
    shells = [host.shell() for _ in range(3)]
    failures = []

    def work(shell):
        for kind in ("linear", "async", "physical", "array") * 5:
            number = shell.take(kind, 200)
            if number is not None:
                shell.give(number)
            elif kind not in ("async",):
                failures.append(kind)

    threads = [threading.Thread(target=work, args=(shell,)) for shell in shells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [], "3 x 200 MiB fit"
    for shell in shells:
        assert shell.ask("sync") == [OK]
    assert shells[0].free() == QUOTA - 2 * CONTEXT


def test_detshare_run_waits_for_memory(host):
    """Another run has most of it: one without --wait is refused, one with it gets its turn."""
    program = ["sh", "-c", "echo begun; read line; echo done"]
    options = ["run", "--config", host.conf, "--gpu", "0", "--share", "0.25", "--memory", "100G"]
    first = subprocess.Popen(host.command(*options, "--", *program), env=host.env, text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert first.stdout.readline() == "begun\n", first.stderr.read()
    refused = subprocess.run(host.command(*options, "--", "true"), env=host.env, text=True, capture_output=True, timeout=60, check=False)
    assert refused.returncode == 1 and "no room for a share of 0.25 with 100G of memory" in refused.stderr
    assert "and 100G" in refused.stderr
    never = subprocess.run(host.command(*options[:-1], "300G", "--wait", "--", "true"), env=host.env, text=True, capture_output=True,
                           timeout=60, check=False)
    assert never.returncode == 1 and "300G of GPU memory are asked" in never.stderr
    second = subprocess.Popen(host.command(*options, "--wait", "--", "echo", "late"), env=host.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first.communicate("go\n", timeout=60)
    out, err = second.communicate(timeout=60)
    assert (out, second.returncode) == ("late\n", 0), err
