# SPDX-License-Identifier: Apache-2.0
"""What a program's end, a fault, or a stray does to its neighbour under the real MPS, and what MPS says of it."""
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from test_gpu import GPUWORK, RESULTS, RUNTIME_DIR, pytestmark, residents, start, status, wait_for

MINUTES = 2.5
KILLS = int(os.environ.get("DETSHARE_KILLS", "100"))
VICTIM = ("spin", "--block-us", "50000", "--seconds", "600")
END = 8  # DS_PORT_END

__all__ = ["pytestmark"]


def note(name, text):
    print(f"{name}: {text}")
    if RESULTS:
        with open(Path(RESULTS) / "neighbours.txt", "a", encoding="utf-8") as file:
            print(f"{name}: {text}", file=file)


def program_of(run):
    """(allocation, pid) of the program that `detshare run` started, when it is on the GPU."""
    def look():
        assert run.poll() is None, run.communicate()
        for resident in residents():
            if resident["allocation"] == f"run-{run.pid}" and resident["programs"]:
                return resident["allocation"], resident["programs"][0]["pid"]
        return None
    return wait_for(look, "the program at its port")


def launching(allocation):
    """Until its kernels run: it says so itself."""
    def launches():
        for resident in residents():
            if resident["allocation"] == allocation:
                return any(p.get("reported_by_program", {}).get("launches", 0) > 1 for p in resident["programs"])
        return False
    wait_for(launches, f"launches of {allocation}")


def take_off(allocation, *pids):
    """As slurmstepd does it before it kills."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as port:
        port.settimeout(2)
        port.connect(str(RUNTIME_DIR / allocation / "port"))
        port.send(struct.pack(f"=IHHIII{len(pids)}i", 0x44535054, 3, END, 0, 0, len(pids), *pids))
        answer = port.recv(4096)
    return len(answer) > 8 and struct.unpack_from("=IHH", answer)[2] == 0


def mps_logs():
    return {file.name: file.read_text(errors="replace") for file in sorted(RUNTIME_DIR.glob("gpu-*/mps/log/*"))}


@pytest.fixture
def neighbour():
    run = start("0.5", GPUWORK, "reduce", "--seconds", "600")
    allocation, _ = program_of(run)
    launching(allocation)
    yield run
    if run.poll() is None:
        run.terminate()
    run.communicate(timeout=30)


def test_a_hundred_kills_in_mid_kernel_go_unnoticed(neighbour):
    took_ms = []
    for _ in range(KILLS):
        victim = start("0.5", GPUWORK, *VICTIM)
        allocation, pid = program_of(victim)
        launching(allocation)
        begin = time.monotonic()
        assert take_off(allocation, pid), "MPS did not end the client in time"
        took_ms.append(1e3 * (time.monotonic() - begin))
        os.kill(pid, signal.SIGKILL)
        victim.communicate(timeout=30)
        assert neighbour.poll() is None, neighbour.communicate()
    took_ms.sort()
    note("kills", f"{KILLS} in kernels of 50 ms, terminate_client first: the neighbour noticed none; "
         f"p50 {took_ms[len(took_ms) // 2]:.0f} ms, most {took_ms[-1]:.0f} ms before the kill")


def test_groups_come_back_when_mps_lists_the_client_no_more(neighbour):
    victim = start("0.5", GPUWORK, *VICTIM)
    allocation, pid = program_of(victim)
    launching(allocation)
    assert take_off(allocation, pid)
    os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: not any(p["pid"] == pid for r in residents() for p in r["programs"]), "the program's groups")
    note("groups", f"back {1e3 * (time.monotonic() - begin):.0f} ms after the kill")
    victim.communicate(timeout=30)
    assert neighbour.poll() is None


def test_a_fault_and_what_mps_says_of_it(neighbour):
    """The format of MPS's log is written down for noderuntime/faults.c, whatever it is."""
    keeper = start("0.25", "sleep", "300")  # keeps MPS, and with it the log
    wait_for(lambda: any(r["allocation"] == f"run-{keeper.pid}" for r in residents()), "one that stays")
    before = mps_logs()
    culprit = start("0.25", GPUWORK, "trap")
    _, error = culprit.communicate(timeout=60)
    neighbour.wait(timeout=30)
    ended = time.monotonic()
    assert neighbour.returncode != 0 and culprit.returncode != 0, error
    logs = mps_logs()
    keeper.terminate()
    keeper.communicate(timeout=30)
    assert logs
    for name, text in logs.items():
        note(f"MPS {name} at a fault", repr(text[len(before.get(name, "")):]))
    again = start("0.25", GPUWORK, "add")
    assert again.wait(timeout=30) == 0, again.communicate()
    note("ready again", f"a program had run {time.monotonic() - ended:.2f} s after the last victim's end")
    found = [fault for gpu in status()["gpus"] for fault in gpu["faults"]]
    note("faults", json.dumps(found))
    assert found


def seen_of(pid):
    """What there is to find it by."""
    files = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.append(os.readlink(file))
        except OSError:
            continue
    return sorted({file for file in files if "nvidia" in file})


def test_a_program_without_the_library_is_found(neighbour):
    holder = start("0.25", "sh", "-c", f"unset LD_PRELOAD; echo $$; exec {GPUWORK} spin --seconds 600")
    begin = time.monotonic()
    pid = int(holder.stdout.readline())

    def found():
        return [pid for r in residents() if r["allocation"] == f"run-{holder.pid}" for pid in r.get("programs_without_port", [])]
    try:
        pids = wait_for(found, "the stray in detshare status")
        note("stray", f"seen {time.monotonic() - begin:.1f} s after it was started, cuInit included")
        assert pids == [pid]
        assert neighbour.poll() is None
        assert take_off(f"run-{holder.pid}", *pids)
    finally:
        note("stray's files", seen_of(pid))
        os.kill(pid, signal.SIGKILL)
        holder.communicate(timeout=30)
    assert neighbour.poll() is None
