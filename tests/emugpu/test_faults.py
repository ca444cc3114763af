# SPDX-License-Identifier: Apache-2.0
"""Whatever dies, hangs or lies: the others go on, groups come back, nothing is left, status tells."""
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import BUILD, Host, is_running, stop, wait_for  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]

LONG_S = 60  # for what takes milliseconds on a machine that is not busy


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def descriptors(pid):
    """What a process has open, by kind: sockets and pipes have numbers in their names."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry).split(":[")[0])
        except OSError:
            pass
    return sorted(found)


def children(pid):
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


class Bystanders:
    """Two halves of a GPU, each with a program. One gets into trouble; the other must not notice."""

    def __init__(self, host):
        self.host = host
        for name in ("job-1", "job-2"):
            host.begin(name, share=400)
        self.programs = {name: host.program(name) for name in ("job-1", "job-2")}
        for program in self.programs.values():
            assert program.answer["refused"] == 0
            program.ask("obey", 0)
        self.runtimes = {name: host.runtime_pid(name) for name in self.programs}
        self.open = descriptors(self.runtimes["job-1"])

    def check(self):
        """The first is as well as before: its program, its groups, its runtime; newcomers are served."""
        assert is_running(self.runtimes["job-1"]) and is_running(self.programs["job-1"].pid)
        resident = self.host.resident("job-1")
        assert resident["runtime"] == "running" if "runtime" in resident else True
        assert self.programs["job-1"].ask("page")["groups"]
        newcomer = self.host.program("job-1")
        assert newcomer.answer["refused"] == 0, newcomer.answer
        newcomer.kill()

    def end(self):
        """End both; nothing may be left of them or open in the bystander's runtime before that."""
        wait_for(lambda: not children(self.runtimes["job-1"]), LONG_S)
        wait_for(lambda: descriptors(self.runtimes["job-1"]) == self.open, LONG_S)
        for name in self.programs:
            self.host.end(name)
        self.host.assert_clean()


@pytest.fixture
def two(host):
    shared = set(os.listdir("/dev/shm"))
    made = Bystanders(host)
    yield made
    assert not {name for name in set(os.listdir("/dev/shm")) - shared if "detshare" in name}


# ---- MPS ----------------------------------------------------------------------------------------


def test_a_killed_mps_daemon_is_started_again(two, host):
    first = host.mps_daemon()
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: host.mps_daemon() not in (first, None) and host.mps_daemon(), LONG_S)
    two.check()
    os.kill(second, signal.SIGKILL)
    wait_for(lambda: host.mps_daemon() not in (first, second, None), LONG_S)
    two.end()


def test_a_program_that_comes_while_mps_is_away_waits_for_it(two, host):
    """Without MPS it would run by turns with the others, wherever its partition is."""
    first = host.mps_daemon()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not is_running(first))
    newcomer = host.program("job-1", wait=False)
    program = newcomer.hear()
    assert program["refused"] == 0
    assert host.mps_daemon() not in (first, None)
    newcomer.kill()
    two.end()


def control_that_first(host, line):
    """In the place of nvidia-cuda-mps-control: that line of shell, then the real one."""
    control = host.dir / "control"
    control.write_text(f'#!/bin/sh\n{line}\nexec {host.config["mps_control"]} "$@"\n')
    control.chmod(0o755)
    host.config["mps_control"] = control
    host.write_conf()


def test_an_mps_that_cannot_be_started_is_named_and_tried_again(host):
    control_that_first(host, f'[ -e {host.dir}/broken ] && [ "$1" = -d ] && {{ echo no device; exit 3; }}')
    host.begin("job-1")
    (host.dir / "broken").touch()
    os.kill(host.mps_daemon(), signal.SIGKILL)
    refused = host.program("job-1").answer
    assert refused["refused"] == 1 and "cannot start MPS" in refused["reason"] and "no device" in refused["reason"]
    (host.dir / "broken").unlink()
    assert host.program("job-1").answer["refused"] == 0
    host.end("job-1")
    host.assert_clean()


def test_a_start_of_mps_that_fails_once_is_tried_again(host):
    """Nobody has to ask: on a machine that is too busy, a start may take too long."""
    control_that_first(host, f'[ "$1" = -d ] && rm {host.dir}/broken 2>/dev/null && exit 3')
    host.begin("job-1")
    first = host.mps_daemon()
    (host.dir / "broken").touch()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: host.mps_daemon() not in (first, None), LONG_S)
    assert not (host.dir / "broken").exists()
    host.end("job-1")
    host.assert_clean()


def test_a_killed_mps_server_takes_its_clients_only(two, host):
    """Programs of another GPU, and programs that come after it, work."""
    client = host.run("--share", "0.25", "--gpu", "1", "--", host.gpuwork, "spin", "--seconds", "600")
    wait_for(lambda: host.clients(1), LONG_S)
    os.kill(int(host.ask_mps("get_server_list", 1)), signal.SIGKILL)
    assert client.wait(LONG_S) != 0
    two.check()
    done = host.run("--share", "0.25", "--gpu", "1", "--", host.gpuwork, "add")
    assert done.wait(LONG_S) == 0, done.stderr.read()
    two.end()


def test_a_daemon_of_the_sites_own_is_used_and_left_alone(host):
    pipes = host.dir / "site"
    pipes.mkdir()
    env = host.env | {"CUDA_MPS_PIPE_DIRECTORY": str(pipes), "CUDA_MPS_LOG_DIRECTORY": str(pipes)}
    control = host.config["mps_control"]
    host.config["mps_pipe_dir"] = pipes
    host.write_conf()
    refused = host.begin("job-1", check=False)
    assert refused.returncode == 1 and "mps_pipe_dir" in refused.stderr and "does not answer" in refused.stderr

    subprocess.run([control, "-d"], env=env, check=True, timeout=60)
    pid = int((pipes / "nvidia-cuda-mps-control.pid").read_text())
    try:
        host.begin("job-1")
        assert f"CUDA_MPS_PIPE_DIRECTORY={pipes}\n" in (host.run_dir / "job-1" / "task.env").read_text()
        assert not list(host.run_dir.glob("gpu-*/mps"))
        assert host.program("job-1").answer["refused"] == 0
        host.end("job-1")
        assert is_running(pid)

        subprocess.run([control], input="set_default_active_thread_percentage 50\n", text=True, env=env, check=True)
        refused = host.begin("job-1", check=False)
        assert refused.returncode == 1 and "thread percentage of 50" in refused.stderr
    finally:
        os.kill(pid, signal.SIGKILL)
    host.assert_clean()


@pytest.fixture
def stray_daemon(host):
    """An MPS daemon that somebody started without a word about directories, for this host's first GPU."""
    pipes = Path("/tmp/nvidia-mps")
    if pipes.exists():
        pytest.skip(f"{pipes} is somebody's")
    pipes.mkdir()
    uuid = host.uuid(0)
    env = host.env | {"CUDA_VISIBLE_DEVICES": uuid, "CUDA_MPS_LOG_DIRECTORY": str(host.dir)}
    subprocess.run([host.config["mps_control"], "-d"], env=env, check=True, timeout=60)
    pid = int((pipes / "nvidia-cuda-mps-control.pid").read_text())
    yield pid
    os.kill(pid, signal.SIGKILL)
    for entry in pipes.iterdir():
        entry.unlink()
    pipes.rmdir()


def test_a_stray_daemon_is_named(host, stray_daemon):
    refused = host.begin("job-1", check=False)
    assert refused.returncode == 1
    assert f"MPS daemon {stray_daemon}" in refused.stderr and "/tmp/nvidia-mps" in refused.stderr
    host.begin("job-2", gpu=1)  # which it does not serve
    host.end("job-2")
    host.assert_clean()


def test_groups_come_back_when_mps_lists_their_program_no_more(host):
    """What a killed program had on the GPU runs on for a moment, and nobody else may be there then."""
    host.env["EMUGPU_LINGER_MS"] = "1500"
    host.begin("job-1", share=1000)
    work = subprocess.Popen([host.gpuwork, "spin", "--seconds", "600"], env=host.env | host.task_env("job-1"),
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(host.clients, LONG_S)
    work.kill()
    work.wait()
    programs = host.resident()["programs"]
    assert [p["pid"] for p in programs] == [work.pid], "forgotten before MPS had let go of it"
    listed = host.ask_mps(f"get_client_list {host.ask_mps('get_server_list')}")
    assert str(work.pid) in listed.split()
    wait_for(lambda: host.resident()["programs"] == [], LONG_S)
    assert host.ask_mps(f"get_client_list {host.ask_mps('get_server_list')}") == ""
    host.end("job-1")
    host.assert_clean()


# ---- programs without a port --------------------------------------------------------------------


def test_a_daemon_that_is_busy_is_asked_again(host):
    """Seen on an H200 with four jobs that came and went at once: it refuses, and answers a moment later."""
    host.begin("job-1")
    pipes = Path(host.task_env("job-1")["CUDA_MPS_PIPE_DIRECTORY"])
    (pipes / "busy").write_text("3\n")
    host.begin("job-2")
    assert (pipes / "busy").read_text().split()[0] == "0"
    host.end("job-1")
    host.end("job-2")
    host.assert_clean()


def stray(host, name="job-1", mps=True, **more):
    """A program that was started with the job's environment, but without the library."""
    env = host.env | host.task_env(name) | {"SLURM_JOB_ID": name[4:]} | more
    del env["LD_PRELOAD"]
    if not mps:
        env["CUDA_MPS_PIPE_DIRECTORY"] = str(host.dir / "nowhere")
    process = subprocess.Popen([host.gpuwork, "spin", "--seconds", "600"], env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: process.pid in {c["pid"] for c in host.clients()}, LONG_S)
    return process


@pytest.mark.parametrize("mps", [True, False])
def test_a_program_without_a_port_is_found_and_shown(two, host, mps):
    process = stray(host, "job-2", mps)
    try:
        wait_for(lambda: host.resident("job-2")["programs_without_port"] == [process.pid], LONG_S)
        assert host.resident("job-1")["programs_without_port"] == []
        assert f"job-2: process {process.pid} uses the GPU without" in host.status_text()
        assert process.poll() is None
        two.check()
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: host.resident("job-2")["programs_without_port"] == [], LONG_S)
    two.end()


@pytest.mark.parametrize("mps", [True, False])
def test_a_program_without_a_port_is_ended_if_the_site_says_so(host, mps):
    host.config["program_without_port"] = "end"
    host.write_conf()
    two = Bystanders(host)
    process = stray(host, "job-2", mps)
    assert process.wait(LONG_S) != 0
    two.check()
    two.end()


def test_a_program_without_a_port_is_found_where_there_is_no_other(host):
    run = host.run("--share", "0.25", "--", "sh", "-c", f"unset LD_PRELOAD; echo $$; exec {host.gpuwork} spin --seconds 600")
    pid = int(run.stdout.readline())
    try:
        wait_for(lambda: host.resident(f"run-{run.pid}").get("programs_without_port") == [pid], LONG_S)
    finally:
        os.kill(pid, signal.SIGKILL)
        run.communicate(timeout=LONG_S)


def test_programs_with_a_port_their_children_and_lookers_are_no_strays(host):
    host.config["program_without_port"] = "end"
    host.write_conf()
    host.begin("job-1")
    env = host.env | host.task_env("job-1") | {"SLURM_JOB_ID": "1"}
    work = subprocess.Popen([host.gpuwork, "spin", "--seconds", "600"], env=env, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: host.resident()["programs"], LONG_S)
    # As a monitor does: the device, without CUDA's memory device.
    looker = subprocess.Popen(["sh", "-c", f"exec 5< {host.config['gpu_device_prefix']}0; exec sleep 600"], env=env)
    marker = stray(host, "job-1")  # when this one is gone, all have been looked at
    assert marker.wait(LONG_S) != 0
    assert work.poll() is None and looker.poll() is None
    assert host.resident()["programs_without_port"] == []
    looker.kill()
    looker.wait()
    work.kill()
    work.wait()
    host.end("job-1")
    host.assert_clean()


# ---- faults of the GPU --------------------------------------------------------------------------


def work(host, name, *arguments):
    """A program of an allocation, with the library, on the GPU."""
    process = subprocess.Popen([host.gpuwork, *arguments], env=host.env | host.task_env(name), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: process.poll() is not None or process.pid in {c["pid"] for c in host.clients() if c["sms"]}, LONG_S)
    return process


def trap(host):
    return work(host, "job-2", "trap")


def kill_in_a_long_kernel(host):
    process = work(host, "job-2", "spin", "--seconds", "600", "--block-us", "5000000")
    process.kill()
    return process


@pytest.fixture
def mps_tells(host):
    """An MPS that names whose fault it was, and not whoever connected first."""
    (host.dir / "host" / "mps-tells").touch()


def test_nobody_is_accused_where_mps_cannot_tell(host):
    """As on an H200: the log names the client that connected first."""
    for name in ("job-1", "job-2"):
        host.begin(name, share=250)
    victim = work(host, "job-1", "spin", "--seconds", "600", "--block-us", "500")
    trap(host).wait(LONG_S)
    assert victim.wait(LONG_S) == 1
    log = next(host.run_dir.glob("gpu-*/mps/log/server.log"))
    wait_for(lambda: f"Client {{PID: {victim.pid}, Context: 1}} encountered a fatal GPU error." in log.read_text(), LONG_S)
    for name in ("job-1", "job-2"):
        host.end(name)
    said = {job: (host.record(job).get("fault_code"), host.record(job).get("fault_suspect")) for job in (1, 2)}
    assert said == {1: (700, None), 2: (700, None)}
    host.assert_clean()


@pytest.mark.parametrize("harm", [trap, kill_in_a_long_kernel])
@pytest.mark.usefixtures("mps_tells")
def test_who_made_the_gpu_fail_is_on_record(host, harm):
    for name in ("job-1", "job-2", "job-3"):
        host.begin(name, share=250, gpu=1 if name == "job-3" else 0)
    victim = work(host, "job-1", "spin", "--seconds", "600", "--block-us", "500")
    elsewhere = host.program("job-3")
    harm(host).wait(LONG_S)
    assert victim.wait(LONG_S) == 1
    assert "ILLEGAL_ADDRESS" in victim.stderr.read()

    # Ready again at once: neither side's next program finds anything of it.
    for name in ("job-1", "job-2"):
        assert work(host, name, "add").wait(LONG_S) == 0
    wait_for(lambda: not host.resident("job-1")["programs"] and not host.resident("job-2")["programs"], LONG_S)
    assert "job-1" in host.status_text()
    faults = host.gpu()["faults"]
    assert ("job-1", victim.pid, 700) in [(f["allocation"], f["pid"], f["cuda_error"]) for f in faults]
    assert f"job-1: process {victim.pid} had CUDA error 700" in host.status_text()
    elsewhere.kill()
    for name in ("job-1", "job-2", "job-3"):
        host.end(name)
    said = {job: (host.record(job).get("fault_code"), host.record(job).get("fault_suspect")) for job in (1, 2, 3)}
    assert said == {1: (700, 2), 2: (700, 2) if harm is trap else (None, None), 3: (None, None)}, faults
    host.assert_clean()


@pytest.mark.usefixtures("mps_tells")
def test_whoever_runs_without_slurm_is_told_by_the_command(host):
    host.config["on_neighbour_fault"] = "notify"
    host.write_conf()
    victim = host.run("--share", "0.25", "--", host.gpuwork, "spin", "--seconds", "600", "--block-us", "500")
    wait_for(lambda: [c for c in host.clients() if c["sms"]], LONG_S)
    culprit = host.run("--share", "0.25", "--", host.gpuwork, "trap")
    said = culprit.communicate(timeout=LONG_S)[1]
    assert culprit.returncode == 1 and "detshare run" not in said, said
    said = victim.communicate(timeout=LONG_S)[1]
    assert victim.returncode == 1
    assert f"CUDA error 700, by a fault of run-{culprit.pid} beside it (MPS's log names it)\n" in said, said
    assert said.count("detshare run:") == 1
    host.assert_clean()


@pytest.mark.usefixtures("mps_tells")
def test_the_gpu_is_ready_when_its_last_victim_is_gone(host):
    """Without a wait in between: who comes then is let in, computes, and nothing of the fault is with it."""
    names = [f"job-{i}" for i in (1, 2, 3, 4)]
    for name in names:
        host.begin(name, share=250)
    victims = [work(host, name, "spin", "--seconds", "600", "--block-us", "500") for name in names if name != "job-2"]
    culprit = trap(host)
    for process in (culprit, *victims):
        assert process.wait(LONG_S) == 1
    gone_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert work(host, "job-3", "add").wait(LONG_S) == 0
    wait_for(lambda: not [p for n in names for p in host.resident(n)["programs"]], LONG_S)
    assert all(f["at_boottime_ns"] < gone_ns for f in host.gpu()["faults"])
    for name in names:
        host.end(name)
    suspects = {job: host.record(job).get("fault_suspect") for job in (1, 2, 3, 4)}
    assert suspects == {1: 2, 2: 2, 3: 2, 4: 2}
    host.assert_clean()


def test_what_detshare_ends_itself_is_no_fault(host):
    for name in ("job-1", "job-2"):
        host.begin(name, share=250)
    other = work(host, "job-1", "spin", "--seconds", "600", "--block-us", "500")
    left = work(host, "job-2", "spin", "--seconds", "600", "--block-us", "5000000")
    host.end("job-2")
    assert left.wait(LONG_S) != 0
    assert other.poll() is None
    other.kill()
    other.wait()
    host.end("job-1")
    assert "fault_code" not in host.record(1) and "fault_code" not in host.record(2)
    host.assert_clean()


# ---- everything else, one after the other -------------------------------------------------------
#
# Each does its harm to job-2, or to what both stand on. job-1 must not notice, and nothing may be left.


def kill_program(two, host):
    two.programs["job-2"].kill()
    wait_for(lambda: host.resident("job-2")["programs"] == [], LONG_S)


def kill_runtime(two, host):
    os.kill(two.runtimes["job-2"], signal.SIGKILL)
    two.programs["job-2"].kill()
    wait_for(lambda: not (host.resident("job-2") or {}).get("programs"), LONG_S)


def stop_runtime(two, host):
    """It hangs for ever; `end` gets it out of the way."""
    stop(two.runtimes["job-2"])


def stop_program(two, host):
    """It acknowledges nothing more: its own groups stay its own, and nobody waits for it otherwise."""
    stop(two.programs["job-2"].pid)


def garbage_in_the_port(two, host):
    program = two.programs["job-2"]
    for seed in range(8):
        program.ask("write", [(seed * 37 + i * i) % 256 for i in range(4096)])
        program.ask("send", list(bytes(range(seed, seed + 24))))
    program.ask("write", [255] * 4096)


def garbage_at_the_port(two, host):
    for size in (0, 1, 15, 17, 4096):
        talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        talk.connect(str(host.run_dir / "job-2" / "port"))
        talk.send(bytes(i % 251 for i in range(size)))
        talk.close()


def truncate_the_ledger(two, host):
    os.truncate(host.run_dir / f"gpu-{host.uuid()}" / "ledger", 0)
    rejoin(two, host)


def corrupt_the_ledger(two, host):
    with open(host.run_dir / f"gpu-{host.uuid()}" / "ledger", "r+b") as ledger:
        size = ledger.seek(0, os.SEEK_END)
        for at in range(0, size, 8):
            ledger.seek(at)
            ledger.write(b"\xa5" * 8)
    rejoin(two, host)


def remove_the_ledger(two, host):
    (host.run_dir / f"gpu-{host.uuid()}" / "ledger").unlink()
    rejoin(two, host)


def rejoin(two, host):
    """Whoever next has business with it makes a new one, and the residents come back into it."""
    host.begin("job-3", share=2)
    wait_for(lambda: {r["allocation"] for r in host.gpu()["residents"]} >= {"job-1", "job-2"}, LONG_S)
    host.end("job-3")
    for name in ("job-1", "job-2"):
        wait_for(lambda name=name: host.resident(name)["programs"], LONG_S)


def stop_mps(two, host):
    """The daemon hangs, its server works on: those that run are not concerned."""
    stop(host.mps_daemon())


def kill_slurmd(two, host):
    """Nothing of a running job hangs on what began it: `begin` again is as if nothing had been."""
    for name in two.programs:
        host.begin(name, share=400)
        assert host.runtime_pid(name) == two.runtimes[name]


HARMS = [kill_program, kill_runtime, stop_runtime, stop_program, garbage_in_the_port, garbage_at_the_port, truncate_the_ledger,
         corrupt_the_ledger, remove_the_ledger, stop_mps, kill_slurmd]


@pytest.mark.parametrize("harm", HARMS)
def test_others_go_on_and_nothing_is_left(two, host, harm):
    harm(two, host)
    assert is_running(two.runtimes["job-1"]) and is_running(two.programs["job-1"].pid)
    assert two.programs["job-1"].ask("page")["groups"]
    assert "job-1" in host.status_text()
    assert host.resident("job-1")["runtime_alive"]
    if harm is not stop_mps:
        two.check()
    host.end("job-2")
    assert host.resident("job-2") is None
    assert not is_running(two.runtimes["job-2"])
    if harm is not stop_mps:
        host.begin("job-5", share=400)
        assert host.program("job-5").answer["refused"] == 0
        host.end("job-5")
    wait_for(lambda: not children(two.runtimes["job-1"]), LONG_S)
    wait_for(lambda: not Counter(descriptors(two.runtimes["job-1"])) - Counter(two.open), LONG_S)
    host.end("job-1")
    host.assert_clean()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is full")
def test_a_runtime_directory_that_is_full_stops_newcomers_only(host):
    host.run_dir.mkdir(mode=0o755, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=755", "tmpfs", host.run_dir], check=False, stderr=subprocess.PIPE)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        host.begin("job-1")
        with open(host.run_dir / "job-1" / "fill", "wb", buffering=0) as fill, pytest.raises(OSError):
            while True:
                fill.write(b"x" * 4096)
        refused = host.begin("job-2", check=False)
        assert refused.returncode == 1 and "space" in refused.stderr, refused.stderr
        assert not (host.run_dir / "job-2").exists()
        program = host.program("job-1")
        assert program.answer["refused"] == 0
        assert host.resident("job-1")["programs"]
        program.kill()
        wait_for(lambda: not host.resident("job-1")["programs"], LONG_S)
        host.end("job-1")
        host.assert_clean()
    finally:
        wait_for(lambda: subprocess.run(["umount", host.run_dir], check=False).returncode == 0, LONG_S)


def test_forty_eight_residents_come_and_go(host):
    """As many as MPS serves, each with a program; the next program is refused and the rest go on."""
    names = [f"run-{i}" for i in range(48)]
    for name in names:
        host.begin(name, share=20)
    programs = {name: host.program(name) for name in names}
    for program in programs.values():
        assert program.answer["refused"] == 0, program.answer
    more = host.program("run-0").answer
    assert more["refused"] == 1 and "MPS can serve 48" in more["reason"]
    for i, name in enumerate(names):
        if i % 3 == 0:
            os.kill(host.runtime_pid(name), signal.SIGKILL)
        if i % 3 == 1:
            programs[name].kill()
        host.end(name)
    host.assert_clean()
