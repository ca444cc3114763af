# SPDX-License-Identifier: Apache-2.0
"""The node runtime and `detshare run`: the real programs, on the emulated GPU."""
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import (BUILD, HELLO, MAGIC, PROGRAM, STEP, VERSION, Host, asleep, is_running,  # noqa: E402
                          stat_fields, stop, wait_for)

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]
HANGS_S = 20  # what hangs would take longer; deadlines are of 3 s
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user, or mount")
NOBODY = 65534


@pytest.fixture
def host():
    made = Host()
    yield made
    made.close()


def one_line(text):
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1]


def refused(done, *words):
    """It failed with one line that holds these words."""
    assert done.returncode == 1, done.stderr
    line = one_line(done.stderr)
    for word in words:
        assert word in line, line


# Begin and end

def test_begin_leaves_what_tasks_need(host):
    host.begin("job-1", share=500)
    folder = host.run_dir / "job-1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    assert stat.S_IMODE(host.run_dir.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "port").stat().st_mode) == 0o666
    assert stat.S_IMODE((folder / "task.env").stat().st_mode) == 0o644
    uuid = host.gpu()["uuid"]
    env = dict(line.split("=", 1) for line in (folder / "task.env").read_text().splitlines())
    assert env == {
        "DETSHARE_REQUIRED": "1",
        "DETSHARE_PORT": str(folder / "port"), "DETSHARE_CLASS": "throughput", "CUDA_VISIBLE_DEVICES": uuid,
        "LD_PRELOAD": str(host.config["coroutine_library"]),
        "CUDA_MPS_PIPE_DIRECTORY": str(host.run_dir / f"gpu-{uuid}" / "mps" / "pipe"),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "100"}
    pid, start = map(int, (folder / "runtime.pid").read_text().split())
    assert stat_fields(pid)[1] == start
    assert host.resident()["groups_held"] == "0-7"
    host.end()
    assert not is_running(pid)
    host.assert_clean()


def test_gpus_are_found_by_minor_number_and_uuid(host):
    host.begin("job-1", gpu=1)
    uuid = host.gpu(1)["uuid"]
    host.begin("job-2", gpu=uuid)
    assert [r["allocation"] for r in host.gpu(1)["residents"]] == ["job-1", "job-2"]
    refused(host.begin("job-3", gpu=7, check=False), "no GPU 7", f"1={uuid}")
    for name in "job-1", "job-2":
        host.end(name)
    host.assert_clean()


def test_topology_is_read_once_per_boot(host):
    host.begin()
    files = sorted(host.run_dir.glob("gpu-*/topology"))
    assert len(files) == 2, "one probe does all GPUs"
    before = [(f.stat().st_ino, f.read_text()) for f in files]
    host.begin("job-2", env={"EMUGPU_HANG": "cuInit"})
    assert [(f.stat().st_ino, f.read_text()) for f in files] == before
    host.end("job-1")
    host.end("job-2")
    for change in ("boot_id=", "boot_id=another"), ("group_sms=8", "group_sms=9"), ("n_groups=15\n", ""):
        files[0].write_text(before[0][1].replace(*change, 1))
        host.begin()
        assert files[0].read_text() == before[0][1], change
        host.end()


def test_cpus_near_a_gpu_are_known_and_used(host):
    """A machine of two sockets, replayed: GPU 0 is at the first, GPU 1 at the second."""
    env = {"HWLOC_XMLFILE": str(Path(__file__).parent / "two_sockets.xml")}
    assert host.node("probe", env=env).returncode == 0
    cpus = {}
    for file in host.run_dir.glob("gpu-*/topology"):
        values = dict(line.split("=", 1) for line in file.read_text().splitlines())
        cpus[values["pci"]] = values["cpus"]
    assert cpus == {"0000:01:00.0": "0-1", "0000:02:00.0": "2-3"}
    allowed = os.sched_getaffinity(0)
    for gpu, near in (0, {0, 1}), (1, {2, 3}):
        name = f"job-{gpu + 1}"
        host.begin(name, gpu=gpu)
        # Where none of the near CPUs is allowed, it stays within what is.
        assert os.sched_getaffinity(host.runtime_pid(name)) == (allowed & near or allowed)


def test_the_runtime_is_small_and_never_loads_the_driver(host):
    host.begin()
    pid = host.runtime_pid()
    assert "libcuda" not in Path(f"/proc/{pid}/maps").read_text()
    if "SAN_OPTIONS" not in "".join(os.environ) and "libasan" not in Path(f"/proc/{pid}/maps").read_text():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmHWM"].split()[0]) <= 10 * 1024
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3
    assert os.getsid(pid) != os.getsid(0)


def test_nothing_wakes_up_while_nothing_changes(host):
    host.begin("job-1")
    host.begin("job-2")
    program = host.program("job-1")
    assert program.answer["refused"] == 0
    pids = [host.runtime_pid(name) for name in ("job-1", "job-2")]
    wait_for(lambda: asleep(pids, 1.5))


def test_begin_again_is_the_same_allocation(host):
    host.begin()
    pid = host.runtime_pid()
    host.begin()
    assert host.runtime_pid() == pid
    refused(host.begin(share=250, check=False), "job-1 runs here already")
    assert is_running(pid)


def test_shares_beyond_one_gpu_are_refused(host):
    host.begin("job-1", share=700)
    refused(host.begin("job-2", share=400, check=False), "job-2 does not fit", "300 are left")
    assert not (host.run_dir / "job-2").exists()
    host.begin("job-3", share=300)


@pytest.mark.parametrize("arguments, words", [
    (["--allocation", "../x"], "--allocation ../x"), (["--allocation", "gpu-1"], "--allocation gpu-1"),
    (["--allocation", "x" * 32], "--allocation"), (["--uid", "-1"], "--uid -1"), (["--uid", "root"], "--uid root"),
    (["--deadline-ms", "0"], "--deadline-ms 0"), (["--job-id", "0"], "--job-id 0"), (["more"], "more"),
])
def test_wrong_arguments_cost_one_line(host, arguments, words):
    done = host.node("begin", "--allocation", "job-1", "--uid", "0", "--gpu", "0", "--grant", "x", *arguments)
    assert done.returncode == 2
    assert words in one_line(done.stderr)


def test_a_broken_grant_is_refused(host):
    done = host.node("begin", "--allocation", "job-1", "--uid", os.getuid(), "--gpu", "0", "--grant", "v=1,share=2")
    refused(done, "--grant")
    assert not host.run_dir.exists()


def test_a_broken_configuration_is_refused(host):
    host.conf.write_text("runtime_dir = \"/x\"\nruntime_dri = \"/y\"\n")
    refused(host.node("end", "--allocation", "job-1"), f"{host.conf}:2", "runtime_dri")


# The usage record

def test_the_record_says_what_was_held(host):
    begun = time.time()
    host.begin("job-7", more=["--restart", "2"])
    host.program("job-7")
    host.program("job-7")
    assert host.program("job-7", hello=HELLO.pack(MAGIC, VERSION, STEP, 0, 250)).answer == {
        "refused": 0, "reason": "", "fds": 0}
    time.sleep(0.5)
    host.end("job-7")
    seconds = time.time() - begun
    record = host.record(7, 2)
    assert record["share_milli"] == 500 and record["class"] == "throughput" and record["uid"] == os.getuid()
    assert record["programs"] == 2 and record["step_granted_max_milli"] == 250
    assert 64 * 0.45 < record["granted_sm_s"] < 64 * (seconds + 0.2)
    assert 0.4 < record["end_unix_s"] - record["begin_unix_s"] < seconds + 0.2


def test_the_record_is_sent_when_there_is_a_collector(host):
    sender = host.dir / "sender"
    sender.write_text(f"#!/bin/sh\necho \"$@\" > {host.dir}/sent.new && mv {host.dir}/sent.new {host.dir}/sent\n")
    sender.chmod(0o755)
    host.config |= {"usage_host": "localhost", "usage_sender": sender}
    host.write_conf()
    host.begin()
    host.end()
    words = wait_for(lambda: (host.dir / "sent").exists() and (host.dir / "sent").read_text())
    assert words.startswith("send ") and f"--config {host.conf}" in words


def test_a_runtime_that_was_killed_is_accounted_for(host):
    begun = time.monotonic()
    host.begin("job-9")
    time.sleep(0.3)
    os.kill(host.runtime_pid("job-9"), signal.SIGKILL)
    host.end("job-9")
    assert 64 * 0.25 < host.record(9)["granted_sm_s"] < 64 * (time.monotonic() - begun + 0.2)
    host.assert_clean()


def test_a_runtime_has_one_inotify_instance(host):
    """The kernel gives a user, root here, 128 of them by default."""
    host.begin()
    folder = Path(f"/proc/{host.runtime_pid()}/fdinfo")

    def instances():
        try:
            return [info.read_text().count("\ninotify ") > 0 for info in folder.iterdir()].count(True)
        except OSError:  # one was closed while we looked
            return 0

    assert wait_for(instances) == 1


# End, in whatever state the runtime is

def test_end_of_what_never_began(host):
    host.end("job-404")
    host.begin()
    host.end("job-404")
    host.end()
    host.end()
    host.assert_clean()


def test_end_of_a_stopped_runtime(host):
    host.begin()
    pid = host.runtime_pid()
    stop(pid)
    started = time.monotonic()
    host.end()
    assert time.monotonic() - started < HANGS_S
    assert not is_running(pid)
    host.assert_clean()


def test_end_and_begin_again_after_kill(host):
    host.begin()
    program = host.program()
    os.kill(host.runtime_pid(), signal.SIGKILL)
    wait_for(lambda: not host.resident()["runtime_alive"])
    host.begin(share=250, more=["--restart", "1"])
    assert not is_running(program.pid)
    assert host.resident()["share_milli"] == 250
    host.end()
    host.assert_clean()


def test_programs_left_over_are_ended(host):
    host.begin()
    mild, hard = host.program(), host.program(ignore_term=True)
    host.end()
    assert not is_running(mild.pid) and not is_running(hard.pid)
    host.assert_clean()


def test_programs_of_a_killed_runtime_are_ended(host):
    host.begin()
    program = host.program(ignore_term=True)
    os.kill(host.runtime_pid(), signal.SIGKILL)
    host.end()
    assert not is_running(program.pid)
    host.assert_clean()


def test_a_reused_pid_is_never_hit(host):
    """The state names another process's pid with the runtime's start time, as after a reuse."""
    host.begin()
    pid = host.runtime_pid()
    _, start = stat_fields(pid)
    os.kill(pid, signal.SIGKILL)
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # start times are in ticks: two processes may have the same
    bystander = subprocess.Popen(["sleep", "60"])
    assert stat_fields(bystander.pid)[1] != start
    state = host.run_dir / "job-1" / "state"
    old = struct.pack("=i4xQ", pid, start)
    assert state.read_bytes().count(old) == 1
    state.write_bytes(state.read_bytes().replace(old, struct.pack("=i4xQ", bystander.pid, start)))
    host.end()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    host.assert_clean()


def test_a_broken_state_file_does_not_prevent_the_end(host):
    host.begin()
    (host.run_dir / "job-1" / "state").write_bytes(b"rubbish")
    pid = host.runtime_pid()
    host.end()
    assert not is_running(pid)
    host.assert_clean()


# The port

def test_a_program_learns_its_partition(host):
    host.begin()
    program = host.program()
    assert program.answer == {"refused": 0, "fds": 3, "epoch": 2, "n_groups": 15, "group_sms": 8, "rest": 12,
                              "share": 500, "groups": 0xff, "flags": 0, "window_us": 0, "hold_back": [0, 0, ""], "step": 0, "spin": [0, 3]}
    programs = host.resident()["programs"]
    assert [(p["pid"], p["groups"]) for p in programs] == [(program.pid, "0-7")]
    assert program.ask("close") == "done"
    time.sleep(0.1)
    assert len(host.resident()["programs"]) == 1, "closing the connection is not the program's end"
    program.kill()
    wait_for(lambda: host.resident()["programs"] == [])


def test_the_page_cannot_be_written_and_the_port_not_resized(host):
    host.begin()
    program = host.program()
    for attempt in "map page", "reopen page", "write page":
        assert program.ask(attempt) in ("Permission denied", "Operation not permitted"), attempt
    assert program.ask("resize port", 0) == "Operation not permitted"
    assert program.ask("resize port", 1 << 20) == "Operation not permitted"


@root_only
def test_only_the_user_and_root_are_welcome(host):
    host.begin(uid=NOBODY)
    assert host.program(uid=NOBODY).answer["refused"] == 0
    assert host.program().answer["refused"] == 0
    answer = host.program(uid=1).answer
    assert answer["refused"] == 1 and "uid 65534, not to uid 1" in answer["reason"]
    answer = host.program(uid=NOBODY, hello=HELLO.pack(MAGIC, VERSION, STEP, 0, 100)).answer
    assert answer["refused"] == 1 and "root" in answer["reason"]


@pytest.mark.parametrize("hello, words", [
    (b"x", "bytes"), (b"x" * 16, "not a hello"), (b"x" * 17, "bytes"),
    (HELLO.pack(MAGIC, 9, PROGRAM, 0, 0), "version 9"), (HELLO.pack(MAGIC, VERSION, 99, 0, 0), "kind"),
    (HELLO.pack(MAGIC, VERSION, STEP, 0, 0), "share"), (HELLO.pack(MAGIC, VERSION, STEP, 0, 1001), "share"),
    (HELLO.pack(MAGIC, VERSION, STEP, 0, 501), "more than its allocation"),
])
def test_a_wrong_hello_is_refused(host, hello, words):
    host.begin()
    answer = host.program(hello=hello).answer
    assert answer["refused"] == 1 and words in answer["reason"]
    assert host.program().answer["refused"] == 0


def test_those_who_say_nothing_keep_nobody_out(host):
    host.begin()
    silent = []
    for _ in range(100):
        silent.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        silent[-1].connect(str(host.run_dir / "job-1" / "port"))
    assert host.program().answer["refused"] == 0
    for one in silent:
        one.close()


def test_a_program_that_connects_again_and_again_is_one_program(host):
    host.begin()
    program = host.program()
    pid = host.runtime_pid()
    for _ in range(5):
        assert program.ask("connect again", str(host.run_dir / "job-1" / "port")) == 0
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(50):
        assert program.ask("connect again", str(host.run_dir / "job-1" / "port")) == 0
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors)
    assert len(host.resident()["programs"]) == 1


def test_a_runtime_directory_that_others_can_write_is_refused(host):
    host.run_dir.mkdir(mode=0o755)
    host.node("probe")
    host.run_dir.chmod(0o777)
    refused(host.begin(check=False), "nobody else can write")


def test_mps_serves_48_programs(host):
    host.begin("job-1")
    host.begin("job-2")
    for i in range(48):
        assert host.program(f"job-{1 + i % 2}").answer["refused"] == 0, i
    answer = host.program().answer
    assert answer["refused"] == 1 and "MPS can serve 48" in answer["reason"]
    host.programs[0].kill()
    wait_for(lambda: host.program().answer["refused"] == 0)


def test_a_program_notices_the_runtimes_death(host):
    host.begin()
    program = host.program()
    assert program.ask("connected") is True
    os.kill(host.runtime_pid(), signal.SIGKILL)
    wait_for(lambda: program.ask("connected") is not True)


# Neighbours

def test_a_killed_neighbour_is_noticed(host):
    host.begin("job-1")
    host.begin("job-2")
    os.kill(host.runtime_pid("job-2"), signal.SIGKILL)
    wait_for(lambda: host.resident("job-2") is None)
    host.end("job-2")
    host.end("job-1")
    host.assert_clean()


def test_groups_of_a_killed_neighbour_stay_with_its_programs(host):
    host.begin("job-1")
    host.begin("job-2")
    program = host.program("job-2")
    os.kill(host.runtime_pid("job-2"), signal.SIGKILL)
    wait_for(lambda: not host.resident("job-2")["runtime_alive"])
    time.sleep(0.2)
    assert host.resident("job-2")["groups_held"] == "8-14+rest"
    program.kill()
    wait_for(lambda: host.resident("job-2") is None)


def test_a_program_waits_for_groups_that_others_still_use(host):
    """Alone, 0.95 gets all 15 groups; beside 0.05 it gets 14, but its program may be on all."""
    host.begin("job-1", share=950)
    first = host.program("job-1")
    host.begin("job-2", share=50)
    assert host.resident("job-2")["groups_held"] == "none"
    second = host.program("job-2", wait=False)
    time.sleep(0.2)
    first.kill()
    answer = second.hear()
    assert answer["refused"] == 0 and bin(answer["groups"]).count("1") == 1
    assert host.resident("job-1")["groups_held"].startswith("0-13")


# Users

@root_only
def test_one_users_jobs_are_kept_apart_from_anothers(host):
    host.begin("job-1", uid=NOBODY)
    refused(host.begin("job-2", check=False, isolation="none"), "isolation = user", "job-1 of uid 65534")
    assert not (host.run_dir / "job-2").exists()
    host.begin("job-3", uid=NOBODY)
    host.begin("job-4", gpu=1)


@root_only
def test_users_who_may_share_a_gpu_run_at_the_same_time(host):
    host.begin("job-1", uid=NOBODY, isolation="none")
    host.begin("job-2", uid=1, isolation="none")
    running = []
    for name, uid in ("job-1", NOBODY), ("job-2", 1):
        env = dict(line.split("=", 1) for line in (host.run_dir / name / "task.env").read_text().splitlines())
        running.append(subprocess.Popen([host.gpuwork, "spin", "--seconds", "1"], env=host.env | env, user=uid, group=uid,
                                        extra_groups=[], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for one in running:
        _, said = one.communicate(timeout=60)
        assert one.returncode == 0, said


# What hangs or is missing

@pytest.mark.parametrize("hang, words", [("cuInit", "probe"), ("mps", "MPS")])
def test_nothing_waits_for_what_hangs(host, hang, words):
    started = time.monotonic()
    done = host.begin(env={"EMUGPU_HANG": hang}, more=["--deadline-ms", "1500"], check=False)
    assert time.monotonic() - started < HANGS_S
    refused(done, words)
    host.assert_clean()
    host.begin()
    host.end()


def test_a_hung_mps_daemon_is_killed_at_the_end(host):
    host.begin()
    pids = host.mps_pids()
    assert len(pids) == 1
    stop(pids[0])
    started = time.monotonic()
    host.end()
    assert time.monotonic() - started < HANGS_S
    host.assert_clean()


def test_a_hung_mps_daemon_is_replaced_for_the_first_and_reported_to_the_next(host):
    host.begin("job-1")
    old = host.mps_pids()
    stop(old[0])
    said = host.begin("job-2", check=False)
    # As long as there was time for it, at the end of what it waited for.
    if "not ready in time" not in said.stderr:
        refused(said, "MPS", "does not answer")
    assert said.returncode == 1 and not (host.run_dir / "job-2").exists()
    os.kill(host.runtime_pid("job-1"), signal.SIGKILL)
    wait_for(lambda: not host.resident("job-1")["runtime_alive"])
    host.begin("job-2")
    assert host.mps_pids() and host.mps_pids() != old


def test_mps_that_is_not_installed_is_named(host):
    host.config["mps_control"] = "/nonexistent/nvidia-cuda-mps-control"
    host.write_conf()
    refused(host.begin(check=False), "there is no program /nonexistent/nvidia-cuda-mps-control", "mps_control")
    host.assert_clean()


def test_a_machine_without_a_driver_is_named(host):
    host.config["gpu_info_dir"] = "/nonexistent"
    host.write_conf()
    refused(host.begin(check=False), "/nonexistent", "driver")
    host.config |= {"gpu_info_dir": host.dir / "host" / "proc", "cuda_library": "/nonexistent/libcuda.so.1"}
    host.write_conf()
    refused(host.begin(check=False), "cannot load /nonexistent/libcuda.so.1")


@root_only
def test_a_full_runtime_directory(host):
    host.run_dir.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", host.run_dir], check=False).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        filler = host.run_dir / "gpu-filler"
        with filler.open("wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)
        started = time.monotonic()
        refused(host.begin(check=False), "No space left")
        assert time.monotonic() - started < HANGS_S
        host.end()
        assert [e.name for e in host.run_dir.iterdir() if not e.name.startswith("gpu-")] == []
        filler.unlink()
    finally:
        subprocess.run(["umount", "-l", host.run_dir], check=False)


# MPS

def test_racing_allocations_start_and_end_mps_once(host):
    def at_once(verb, names):
        arguments = ["--uid", str(os.getuid()), "--gpu", "0", "--grant",
                     "v=1,class=throughput,kind=throughput,share=100,isolation=user,config=0000000000000000"]
        started = [subprocess.Popen([host.noderuntime, verb, "--config", host.conf, "--allocation", name, "--deadline-ms", "30000",
                                     *(arguments if verb == "begin" else [])], env=host.env, stderr=subprocess.PIPE)
                   for name in names]
        for one in started:
            _, said = one.communicate(timeout=60)
            assert one.returncode == 0, said
    names = [f"job-{i}" for i in range(1, 6)]
    at_once("begin", names)
    assert len(host.mps_pids()) == 1
    at_once("end", names[:-1])
    assert len(host.mps_pids()) == 1
    at_once("end", names[-1:])
    host.assert_clean()


def test_mps_never_gets_a_thread_percentage(host):
    host.begin(env={"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50", "CUDA_VISIBLE_DEVICES": "1", "LD_PRELOAD": ""})
    pid, = host.mps_pids()
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PERCENTAGE" not in environ and b"LD_PRELOAD" not in environ
    assert b"CUDA_VISIBLE_DEVICES=" + host.gpu()["uuid"].encode() in environ


def test_mps_can_be_left_out(host):
    host.config["mps_control"] = ""
    host.write_conf()
    host.begin()
    assert host.mps_pids() == []
    assert "MPS" not in (host.run_dir / "job-1" / "task.env").read_text()
    host.end()
    host.assert_clean()


@root_only
def test_runtime_and_mps_leave_the_callers_cgroup(host):
    """In every hierarchy where the caller is not at the root, where nobody would end them."""
    def groups(pid):
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return {line.split(":")[0]: line.split(":", 2)[2] for line in lines}
    here = {number: path for number, path in groups("self").items() if path != "/"}
    if not here or not os.access("/sys/fs/cgroup", os.W_OK):
        pytest.skip("this process is at the root of every cgroup hierarchy, or they cannot be written")
    host.begin()
    for number in here:
        wait_for(lambda n=number: groups(host.runtime_pid())[n] == "/detshare")
        assert groups(host.mps_pids()[0])[number] == "/detshare/mps"


# detshare run

def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_run_gives_the_command_its_environment(host):
    status, out, err = finish(host.run("--share", "0.25", "--class", "latency", "--gpu", "1", "--", "env",
                                       env={"DETSHARE_SHARE": "1", "LD_PRELOAD": "", "DETSHARE_X": "1"}))
    assert (status, err) == (0, "")
    env = dict(line.split("=", 1) for line in out.splitlines())
    assert env["DETSHARE_SHARE"] == "0.25" and env["DETSHARE_CLASS"] == "latency" and "DETSHARE_X" not in env
    assert env["CUDA_VISIBLE_DEVICES"] == host.gpu(1)["uuid"]
    assert env["LD_PRELOAD"] == str(host.config["coroutine_library"])
    host.assert_clean()


def test_two_halves_run_on_their_own_sms(host):
    def both_work():
        sms = {}
        for block in host.trace(0):
            sms.setdefault(block["pid"], set()).add(block["sm"])
        return sorted(map(len, sms.values())) == [64, 68] and sms

    work = ["--share", "0.5", "--gpu", "0", "--", host.gpuwork, "spin", "--seconds", "100"]
    jobs = [host.run(*work), host.run(*work)]
    try:
        first, second = wait_for(both_work, 60).values()
    finally:
        for job in jobs:
            job.send_signal(signal.SIGTERM)
            finish(job)
    assert not first & second, f"{sorted(first)} and {sorted(second)}"
    host.assert_clean()


@pytest.mark.parametrize("command, status", [
    (["true"], 0), (["sh", "-c", "exit 42"], 42), (["sh", "-c", "kill -9 $$"], 137), (["sh", "-c", "kill -15 $$"], 143),
    (["/nonexistent/program"], 127), (["/"], 126),
])
def test_run_ends_as_its_command_ends(host, command, status):
    got, _, err = finish(host.run("--share", "0.5", "--", *command))
    assert got == status, err
    host.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_run_passes_signals_on_and_cleans_up(host, number):
    script = f"trap 'echo caught; exit 7' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    run = host.run("--share", "0.5", "--", "sh", "-c", script)
    assert run.stdout.readline() == "ready\n"
    run.send_signal(number)
    status, out, err = finish(run)
    assert (status, out, err) == (7, "caught\n", "")
    host.assert_clean()


def test_a_killed_run_takes_its_share_along(host):
    run = host.run("--share", "0.5", "--", "sh", "-c", "echo $$; exec sleep 60")
    command = int(run.stdout.readline())
    run.kill()
    run.wait()
    wait_for(lambda: not is_running(command) and not list(host.run_dir.glob("run-*")))
    host.assert_clean()


def test_run_inside_a_run(host):
    inner = [*host.command("run"), "--config", host.conf, "--share", "0.25", "--gpu", "1", "--"]
    status, out, err = finish(host.run("--share", "0.5", "--gpu", "0", "--", *inner, "sh", "-c",
                                       "echo $DETSHARE_SHARE $CUDA_VISIBLE_DEVICES $LD_PRELOAD"))
    assert status == 0, err
    assert out.split() == ["0.25", host.gpu(1)["uuid"], str(host.config["coroutine_library"])]
    host.assert_clean()


def test_run_ends_programs_that_its_command_left(host):
    port = "$DETSHARE_PORT"
    status, out, err = finish(host.run(
        "--share", "0.5", "--", "sh", "-c",
        f"{host.gpuwork} spin --seconds 60 >/dev/null 2>&1 & echo $!; "
        f"while [ -e {port} ] && ! env -u LD_PRELOAD {host.command()[0]} status --config {host.conf} --json | grep -q \"\\\"pid\\\": $!\"; "
        "do sleep 0.05; done"))
    assert status == 0, err
    assert not is_running(int(out))
    host.assert_clean()


def test_run_without_room_says_who_has_what(host):
    first = host.run("--share", "0.7", "--gpu", "0", "--", "sh", "-c", "echo up; sleep 1.5")
    assert first.stdout.readline() == "up\n"
    status, _, err = finish(host.run("--share", "0.5", "--gpu", "0", "--", "true"))
    assert status == 1
    assert "no room for a share of 0.5: GPU 0: run-" in one_line(err) and "has 0.7" in err and "--wait" in err
    # Another GPU has room; and waiting ends when the first has ended.
    assert finish(host.run("--share", "0.5", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"))[1].strip() == \
        host.gpu(1)["uuid"]
    assert finish(host.run("--share", "0.5", "--gpu", "0", "--wait", "--", "echo", "waited"))[:2] == (0, "waited\n")
    finish(first)
    host.assert_clean()


def test_waiting_can_be_interrupted(host):
    first = host.run("--share", "1", "--gpu", "0", "--", "sh", "-c", "echo up; exec sleep 60")
    assert first.stdout.readline() == "up\n"
    second = host.run("--share", "0.5", "--gpu", "0", "--wait", "--", "true")
    status = Path(f"/proc/{second.pid}/status")
    # Before, it dies of signals as any program does. (SIGTERM itself is let through while it sleeps.)
    wait_for(lambda: int(re.search(r"SigBlk:\s*(\w+)", status.read_text())[1], 16) >> signal.SIGCHLD - 1 & 1)
    time.sleep(0.3)
    second.terminate()
    assert finish(second)[0] == 143
    first.terminate()
    assert finish(first)[0] == 143
    host.assert_clean()


@pytest.mark.parametrize("arguments, status, words", [
    (["--", "true"], 2, "--share"), (["--share", "0.5"], 2, "command"), (["--share", "2.5", "--", "true"], 2, "2.5"),
    (["--share", "0", "--", "true"], 2, "--share 0"), (["--share", "half", "--", "true"], 2, "half"),
    (["--share", "0.5", "--class", "none", "--", "true"], 1, "--class none"),
    (["--share", "0.5", "--gpu", "9", "--", "true"], 1, "no GPU 9"), (["--shore", "1", "--", "true"], 2, "--shore"),
])
def test_a_wrong_run_costs_one_line(host, arguments, status, words):
    got, _, err = finish(host.run(*arguments))
    assert got == status and words in err
    if "shore" not in arguments[0]:
        one_line(err)


@root_only
def test_a_user_runs_in_a_directory_of_his_own(host):
    own = host.dir / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    own.chmod(0o700)
    status, out, err = finish(host.run("--share", "0.5", "--", host.gpuwork, "add", user=NOBODY, group=NOBODY,
                                       extra_groups=[], env={"XDG_RUNTIME_DIR": str(own)}))
    assert status == 0, err
    assert '"result"' in out
    assert (own / "detshare").stat().st_mode & 0o777 == 0o700
    assert [e.name for e in (own / "detshare").iterdir() if not e.name.startswith("gpu-")] == []
    assert not host.run_dir.exists()
    (own / "detshare").chmod(0o755)
    status, _, err = finish(host.run("--share", "0.5", "--", "true", user=NOBODY, group=NOBODY, extra_groups=[],
                                     env={"XDG_RUNTIME_DIR": str(own)}))
    assert status == 1 and "0700" in one_line(err)


def may_be_realtime():
    """Whether a process of ours may be scheduled in real time; it is asked in one of its own."""
    ask = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", ask], stderr=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.skipif(not may_be_realtime(), reason="no process may be scheduled in real time here")
def test_a_runtime_in_real_time_starts_ordinary_processes_and_can_become_one(host):
    host.config["realtime"] = "yes"
    host.write_conf()
    host.begin()
    pid = host.runtime_pid()
    wait_for(lambda: os.sched_getscheduler(pid) == os.SCHED_RR | os.SCHED_RESET_ON_FORK)
    assert os.sched_getscheduler(host.mps_daemon()) == os.SCHED_OTHER
    os.kill(pid, signal.SIGXCPU)  # as the kernel does when it computes for too long
    wait_for(lambda: os.sched_getscheduler(pid) == os.SCHED_OTHER)
    host.end()
    host.assert_clean()


def test_a_runtime_is_ordinary_unless_told_otherwise(host):
    host.begin()
    assert os.sched_getscheduler(host.runtime_pid()) == os.SCHED_OTHER
    host.end()
