# SPDX-License-Identifier: Apache-2.0
"""The emulated GPU with several processes: who ran which block where and when, told by its trace."""

import json
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runtime_host import stop

BUILD = Path(os.environ.get("DETSHARE_BUILD") or os.environ.get("DETSHARE_BUILDDIR") or ".").resolve()
EMUGPU = BUILD / "tests" / "emugpu"
GPUWORK = BUILD / "tests" / "gpu" / "gpuwork"
MPS_CLIENTS = 48
ILLEGAL_ADDRESS = "CUDA_ERROR_ILLEGAL_ADDRESS (700)"

pytestmark = pytest.mark.skipif(not GPUWORK.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


class Host:
    """An emulated host, and programs on it."""

    def __init__(self, path, *options):
        self.path = path
        self.started = []
        subprocess.run([EMUGPU / "emugpu-host", "create", path, *options], check=True)
        self.environment = {**os.environ, "EMUGPU_DIR": str(path),
                            "LD_LIBRARY_PATH": str(EMUGPU / ".libs"),
                            "CUDA_MPS_PIPE_DIRECTORY": str(path / "no-mps")}
        for name in ("CUDA_VISIBLE_DEVICES", "EMUGPU_HANG", "LD_PRELOAD"):
            self.environment.pop(name, None)

    def start(self, *arguments, program=GPUWORK, **environment):
        process = subprocess.Popen([program, *arguments], env={**self.environment, **environment},
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def work(self, *arguments, **environment):
        """Run gpuwork to its end; what it printed, which must be a success."""
        return result(self.start(*arguments, **environment))

    def trace(self, gpu=0):
        lines = subprocess.run([EMUGPU / "emugpu-host", "trace", self.path, str(gpu)], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def check(self, gpu=0):
        """What was counted since the last clear, and whether no SM was shared."""
        done = subprocess.run([EMUGPU / "emugpu-host", "check", self.path, str(gpu)],
                              stdout=subprocess.PIPE, text=True, check=False)
        return json.loads(done.stdout), done.returncode == 0

    def clients(self, gpu=0):
        lines = subprocess.run([EMUGPU / "emugpu-host", "clients", self.path, str(gpu)], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def wait_for_client(self, process, gpu=0):
        """Until the process has work on the GPU."""
        until = time.monotonic() + 60
        while not any(block["pid"] == process.pid for block in self.trace(gpu)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "no block ran within 60 s"
            time.sleep(0.02)

    def wait_for_kernels(self, *processes, gpu=0):
        """Until each of the processes has a kernel on the GPU."""
        until = time.monotonic() + 60
        while {process.pid for process in processes} - {c["pid"] for c in self.clients(gpu) if c["sms"]}:
            assert time.monotonic() < until, "no kernel ran within 60 s"
            time.sleep(0.02)

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


class Mps:
    """A control daemon for a host; its clients find it through the host's environment."""

    def __init__(self, host, path, *options):
        self.host = host
        self.path = path
        (path / "log").mkdir(parents=True)
        path.chmod(0o755)
        host.environment |= {"CUDA_MPS_PIPE_DIRECTORY": str(path),
                             "CUDA_MPS_LOG_DIRECTORY": str(path / "log")}
        subprocess.run([EMUGPU / "nvidia-cuda-mps-control", "-d", *options], check=True,
                       env=host.environment, timeout=60)
        self.pid = int((path / "nvidia-cuda-mps-control.pid").read_text())

    def ask(self, command):
        return subprocess.run([EMUGPU / "nvidia-cuda-mps-control"], input=command + "\n", text=True,
                              env=self.host.environment, stdout=subprocess.PIPE, check=True,
                              timeout=60).stdout.strip()

    def end(self):
        if not (self.path / "nvidia-cuda-mps-control.pid").exists():
            return
        os.kill(self.pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while (self.path / "nvidia-cuda-mps-control.pid").exists():
            assert time.monotonic() < until, "the MPS control daemon does not end"
            time.sleep(0.02)


def result(process):
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return json.loads(output)


def failure(process):
    """The one line that a program which must fail printed."""
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert len(error.splitlines()) == 1, error
    return error.strip()


def overlap_ns(trace, one, other):
    """How long blocks of two processes ran at the same time."""
    def spans(pid):
        merged = []
        for begin, end in sorted((b["begin_ns"], b["end_ns"]) for b in trace if b["pid"] == pid):
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        return merged

    return sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in spans(one) for b in spans(other))


def assert_one_block_per_sm(trace):
    by_sm = {}
    for block in trace:
        assert block["begin_ns"] < block["end_ns"]
        by_sm.setdefault(block["sm"], []).append((block["begin_ns"], block["end_ns"]))
    for sm, spans in by_sm.items():
        spans.sort()
        for before, after in zip(spans, spans[1:]):
            assert before[1] <= after[0], f"two blocks at once on SM {sm}"


@pytest.fixture
def host(tmp_path):
    tmp_path.chmod(0o755)
    made = Host(tmp_path / "gpus", "--gpus", "2")
    yield made
    made.end()


@pytest.fixture
def mps(host, tmp_path):
    made = Mps(host, tmp_path / "mps")
    yield made
    host.end()
    made.end()


# One process


@pytest.mark.parametrize("stream", ["null", "blocking", "nonblocking", "perthread"])
@pytest.mark.parametrize("link", ["getproc", "dlsym"])
def test_results_do_not_depend_on_stream_or_lookup(host, stream, link):
    options = ("--stream", stream, "--link", link, "--n", "100000")
    assert host.work("add", *options)["result"] == "c7cd6152f9a44d12"
    assert host.work("reduce", *options)["result"] == "138deedc2ea0ad4b"


def test_linked_program(host):
    process = host.start("add", "--n", "100000", program=BUILD / "tests" / "gpu" / "gpuwork-linked")
    assert result(process)["result"] == "c7cd6152f9a44d12"


def test_fma_is_checked_against_the_host(host):
    done = host.work("fma", "--launches", "3")
    assert done["launches"] == 3 and len(done["result"]) == 16


def test_trace_tells_every_block(host):
    process = host.start("spin", "--blocks", "10", "--block-us", "2000", "--launches", "3")
    done = result(process)
    trace = host.trace()
    assert len(trace) == 30
    assert {block["pid"] for block in trace} == {process.pid}
    assert {tuple(block["block"]) for block in trace} == {(i, 0, 0) for i in range(10)}
    assert all(block["end_ns"] - block["begin_ns"] == 2_000_000 for block in trace)
    assert all(block["kernel"] == "spin_us" for block in trace)
    assert set(done["smids"]) <= {block["sm"] for block in trace}
    assert_one_block_per_sm(trace)


def test_rate_is_proportional_to_sms(tmp_path):
    for sms, waves in ("16", 3), ("48", 1):
        small = Host(tmp_path / sms, "--gpus", "1", "--sms", sms)
        small.work("spin", "--blocks", "48", "--launches", "20", "--block-us", "1000")
        assert_one_block_per_sm(small.trace())
        blocks = sorted(small.trace(), key=lambda block: block["begin_ns"])
        assert len(blocks) == 20 * 48
        # By the GPU's own time. A busy machine may come late to the next launch, or to a wave of one.
        assert min(max(block["end_ns"] for block in launch) - launch[0]["begin_ns"]
                   for launch in (blocks[i:i + 48] for i in range(0, len(blocks), 48))) == waves * 1000000


def test_visible_devices(host):
    uuids = [host.work("mem", "--device", str(i))["uuid"] for i in range(2)]
    assert uuids[0] != uuids[1]
    for visible in ("1", uuids[1], uuids[1][:18], "1,0", "1,7,0"):
        assert host.work("mem", CUDA_VISIBLE_DEVICES=visible)["uuid"] == uuids[1]
    for nothing in ("", "-1", "7", "GPU-nonsense", "1,1"):
        assert "CUDA_ERROR_NO_DEVICE" in failure(host.start("mem", CUDA_VISIBLE_DEVICES=nothing))


def test_device_files_and_information(host):
    information = host.path / "proc" / "0000:02:00.0" / "information"
    text = information.read_text()
    assert host.work("mem", "--device", "1")["uuid"] in text
    assert "Device Minor: \t 1\n" in text and "Bus Location: \t 0000:02:00.0\n" in text
    assert (host.path / "dev" / "emugpu1").exists()


@pytest.mark.parametrize("directory", ["", "/nonexistent"])
def test_no_gpu_is_explained_once(host, directory):
    process = host.start("mem", EMUGPU_DIR=directory)
    _, error = process.communicate(timeout=60)
    lines = error.splitlines()
    assert process.returncode == 1 and len(lines) == 2
    assert lines[0].startswith("emugpu: no GPU: ") and "emugpu-host create" in lines[0]
    assert lines[1].endswith("CUDA_ERROR_NO_DEVICE (100)")


def test_hang_in_cuinit(host):
    process = host.start("mem", EMUGPU_HANG="cuInit")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)


def test_host_is_removed_entirely(host):
    host.work("add")
    subprocess.run([EMUGPU / "emugpu-host", "destroy", host.path], check=True)
    assert not host.path.exists()


def test_fault_is_reported(host):
    assert failure(host.start("trap")).endswith(ILLEGAL_ADDRESS)
    assert host.work("add")["blocks"] == 4096


# Several processes


def test_without_mps_processes_take_turns(host):
    work = ("spin", "--seconds", "2", "--blocks", "60")
    both = [host.start(*work), host.start(*work)]
    rates = [result(process)["rate"] for process in both]
    trace = host.trace()
    assert overlap_ns(trace, both[0].pid, both[1].pid) == 0
    assert_one_block_per_sm(trace)
    assert 0.25 < rates[0] / rates[1] < 4, rates


def test_with_mps_processes_overlap(host, mps):
    # Longer than it may take the second to start on a busy machine.
    work = ("spin", "--seconds", "3", "--blocks", "60")
    both = [host.start(*work), host.start(*work)]
    for process in both:
        result(process)
    trace = host.trace()
    assert overlap_ns(trace, both[0].pid, both[1].pid) > 500_000_000
    assert_one_block_per_sm(trace)


def test_check_finds_processes_that_could_share_an_sm(host, mps):
    # Each alone is no meeting, nor is what comes after; both at once on all SMs are.
    for _ in range(2):
        host.work("spin", "--blocks", "8", "--block-us", "1000", "--launches", "3")
    assert host.check() == ({"blocks": 48, "overlaps": 0, "meetings": 0}, True)
    both = [host.start("spin", "--blocks", "8", "--block-us", "1000", "--seconds", "3")
            for _ in range(2)]
    for process in both:
        result(process)
    counted, good = host.check()
    assert not good and counted["overlaps"] == 0 and counted["meetings"] > 10
    assert [sorted(met["pids"]) for met in counted["met"]] == [sorted(process.pid for process in both)]
    subprocess.run([EMUGPU / "emugpu-host", "clear", host.path, "0"], check=True)
    assert host.check() == ({"blocks": 0, "overlaps": 0, "meetings": 0}, True)
    # The dead share nothing.
    killed = host.start("spin", "--blocks", "132", "--block-us", "1000000")
    time.sleep(0.3)
    killed.kill()
    killed.communicate()
    host.work("spin", "--blocks", "8", "--block-us", "1000", "--launches", "3")
    assert host.check()[1]


def test_check_knows_time_slices(host):
    for process in [host.start("spin", "--seconds", "0.3") for _ in range(2)]:
        result(process)
    assert host.check()[1]


def test_with_mps_processes_share_sms_evenly(host, mps):
    work = ("spin", "--seconds", "1", "--blocks", "264")
    both = [host.start(*work), host.start(*work)]
    rates = [result(process)["rate"] for process in both]
    assert 0.5 < rates[0] / rates[1] < 2, rates
    assert_one_block_per_sm(host.trace())


def test_gpus_are_independent(host):
    both = [host.start("spin", "--seconds", "3", "--device", str(i)) for i in range(2)]
    for process in both:
        result(process)
    traces = [host.trace(i) for i in range(2)]
    for trace, process in zip(traces, both):
        assert {block["pid"] for block in trace} == {process.pid}
    # On one GPU without MPS they would only take turns; how long both were on a CPU is the machine's affair.
    assert overlap_ns(traces[0] + traces[1], both[0].pid, both[1].pid) > 0


@pytest.mark.parametrize("with_mps", [False, True])
def test_kill_in_mid_kernel_frees_everything(host, request, with_mps):
    if with_mps:
        request.getfixturevalue("mps")
    victim = host.start("spin", "--seconds", "60", "--block-us", "10000000")
    until = time.monotonic() + 60
    while [client["sms"] for client in host.clients()] != [132]:
        assert time.monotonic() < until
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    assert host.work("spin", "--launches", "3")["blocks"] == 396
    assert not host.clients()
    killed = [block for block in host.trace() if block.get("killed")]
    assert len(killed) == 132 and {block["pid"] for block in killed} == {victim.pid}
    assert_one_block_per_sm(host.trace())
    assert host.work("mem")["free"] == host.work("mem")["total"]


def test_stopped_process_does_not_hold_the_gpu(host):
    stopped = host.start("spin", "--seconds", "60", "--block-us", "5000")
    host.wait_for_client(stopped)
    stop(stopped.pid)
    assert host.work("spin", "--launches", "20")["launches"] == 20
    stopped.send_signal(signal.SIGCONT)
    assert_one_block_per_sm(host.trace())


# MPS


def test_mps_lists_servers_and_clients(host, mps):
    assert mps.ask("get_server_list") == ""
    client = host.start("spin", "--seconds", "60")
    host.wait_for_client(client)
    server = mps.ask("get_server_list")
    assert Path(f"/proc/{server}").exists()
    assert mps.ask(f"get_client_list {server}") == str(client.pid)
    uuid = host.work("mem")["uuid"]
    columns = mps.ask("ps").splitlines()[1].split()
    assert columns[:4] == [str(client.pid), "1", server, uuid[:22]]
    assert columns[5] == str(GPUWORK)
    assert mps.ask(f"get_server_status {server}") == "ACTIVE"
    assert mps.ask("get_client_list 1") == "Server 1 not found"
    assert host.clients()[0]["server"] == int(server)
    client.kill()
    client.wait()
    until = time.monotonic() + 60
    while mps.ask(f"get_client_list {server}"):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_second_daemon_is_refused(host, mps):
    process = host.start("-d", program=EMUGPU / "nvidia-cuda-mps-control")
    assert "already running" in failure(process)


def test_a_daemon_ends_however_soon_it_is_asked(host, tmp_path):
    for number in range(40):
        Mps(host, tmp_path / f"mps{number}").end()


def test_fault_of_one_client_ends_all_and_new_ones_work(host, mps):
    neighbours = [host.start("spin", "--seconds", "60", "--blocks", "8") for _ in range(2)]
    for process in neighbours:
        host.wait_for_client(process)
    assert failure(host.start("trap")).endswith(ILLEGAL_ADDRESS)
    for process in neighbours:
        assert failure(process).endswith(ILLEGAL_ADDRESS)
    assert host.work("add")["blocks"] == 4096


def test_kill_of_one_client_leaves_its_neighbour_alone(host, mps):
    victim = host.start("spin", "--seconds", "60", "--blocks", "60")
    neighbour = host.start("spin", "--seconds", "5", "--blocks", "60")
    host.wait_for_client(neighbour)
    host.wait_for_client(victim)
    victim.kill()
    assert result(neighbour)["launches"] > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_in_a_long_kernel_takes_the_neighbours_along(host, mps, number):
    """As measured on an H200; those that ended by themselves, or by MPS's hand, do no harm."""
    long = ("spin", "--seconds", "60", "--blocks", "8", "--block-us", "5000000")
    neighbour = host.start("spin", "--seconds", "60", "--blocks", "8")
    victims = [host.start(*long) for _ in range(3)]
    host.wait_for_client(neighbour)
    host.wait_for_kernels(*victims)
    server = mps.ask("get_server_list")
    for victim in victims[:2]:
        assert mps.ask(f"terminate_client {server} {victim.pid}") == "0"
        victim.send_signal(number)
        victim.wait()
    assert host.work("add")["blocks"] == 4096
    assert neighbour.poll() is None
    victims[2].send_signal(number)
    assert failure(neighbour).endswith(ILLEGAL_ADDRESS)
    assert host.work("add")["blocks"] == 4096


def test_terminate_client(host, mps):
    clients = [host.start("spin", "--seconds", seconds, "--blocks", "8") for seconds in ("60", "5")]
    for process in reversed(clients):
        host.wait_for_client(process)
    server = mps.ask("get_server_list")
    assert mps.ask(f"terminate_client {server} {clients[0].pid}") == "0"
    assert failure(clients[0]).endswith("CUDA_ERROR_MPS_CLIENT_TERMINATED (810)")
    result(clients[1])
    assert "Invalid process" in mps.ask(f"terminate_client {server} {clients[0].pid}")


def test_client_limit(host, mps):
    clients = [host.start("spin", "--seconds", "600", "--blocks", "1", "--block-us", "1000000")
               for _ in range(MPS_CLIENTS)]
    until = time.monotonic() + 90
    while len(host.clients()) < MPS_CLIENTS:
        assert time.monotonic() < until, [process.poll() for process in clients]
        time.sleep(0.05)
    error = failure(host.start("mem"))
    assert error.endswith("CUDA_ERROR_MPS_MAX_CLIENTS_REACHED (808)")
    assert host.work("mem", "--device", "1")["free"] > 0
    clients[0].kill()
    clients[0].wait()
    host.work("mem")


def test_thread_percentage_changes_what_programs_see(host, mps):
    for percentage, sms in (("50", 66), ("40", 52), ("20", 26), ("100", 132)):
        seen = host.work("spin", CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=percentage)
        assert seen["sms"] == sms


def test_device_memory_limit(host, mps):
    limited = host.work("mem", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=4G")
    assert limited["free"] == 4 << 30
    process = host.start("add", "--n", str(1 << 20), CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=6M")
    assert "cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY" in failure(process)


def test_quit_ends_daemon_server_and_clients(host, mps):
    client = host.start("spin", "--seconds", "60")
    host.wait_for_client(client)
    server = mps.ask("get_server_list")
    mps.ask("quit -t 0")
    assert not Path(f"/proc/{server}").exists() and not any(mps.path.glob("*.pid"))
    assert "CUDA_ERROR_MPS_RPC_FAILURE" in failure(client)
    host.work("add")


def test_quit_waits_for_clients(host, mps):
    client = host.start("spin", "--seconds", "1")
    host.wait_for_client(client)
    mps.ask("quit")
    assert result(client)["launches"] > 0
    assert not any(mps.path.glob("*.pid"))


def test_clients_fail_when_their_server_dies(host, mps):
    client = host.start("spin", "--seconds", "60")
    host.wait_for_client(client)
    os.kill(mps.pid, signal.SIGKILL)
    assert "CUDA_ERROR_MPS_RPC_FAILURE" in failure(client)
    # A dead daemon's socket means no MPS.
    host.work("add")
    (mps.path / "nvidia-cuda-mps-control.pid").unlink()


def test_without_daemon_control_program_says_so(host):
    process = host.start(program=EMUGPU / "nvidia-cuda-mps-control")
    process.communicate()
    asked = subprocess.run([EMUGPU / "nvidia-cuda-mps-control"], input="get_server_list\n", text=True,
                           env=host.environment, capture_output=True, check=False)
    assert asked.returncode == 1 and "Cannot find MPS control daemon" in asked.stderr


def test_hang_of_control_program(host):
    process = host.start("-d", program=EMUGPU / "nvidia-cuda-mps-control", EMUGPU_HANG="mps")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of two users")
@pytest.mark.parametrize("multiuser", [False, True])
def test_two_users(host, tmp_path, multiuser):
    mps = Mps(host, tmp_path / "mps", *(["-M"] if multiuser else []))
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    try:
        mine = host.start("spin", "--seconds", "60" if multiuser else "2", "--blocks", "8")
        host.wait_for_client(mine)
        user = pwd.getpwnam("nobody").pw_uid
        theirs = subprocess.Popen([GPUWORK, "add"], env=host.environment, user=user, group=65534,
                                  extra_groups=[], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        host.started.append(theirs)
        result(theirs)
        # Without -M the other user's program waited until the first user's was gone.
        if multiuser:
            assert mine.poll() is None
        else:
            result(mine)
            blocks = {process.pid: [b for b in host.trace() if b["pid"] == process.pid] for process in (mine, theirs)}
            assert max(b["end_ns"] for b in blocks[mine.pid]) < min(b["begin_ns"] for b in blocks[theirs.pid])
    finally:
        host.end()
        mps.end()
