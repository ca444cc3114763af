# SPDX-License-Identifier: Apache-2.0
"""The command `detshare`, as a program: what it prints and how it ends."""
import json
import os
import pwd
import re
import subprocess
import time
from pathlib import Path

import pytest

BUILD = os.environ.get("DETSHARE_BUILDDIR") or os.environ.get("DETSHARE_BUILD")
pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(120),
]

ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
GPU = "GPU-0a0a0a0a-0000-4000-8000-000000000001"


def detshare(*arguments, status=0, environment=None):
    """Run the command; its stdout, or its stderr if another status than 0 is due."""
    program = Path(BUILD) / "noderuntime" / "command" / "detshare"
    run = subprocess.run([program, *arguments], env=ENVIRONMENT | (environment or {}), text=True,
                         stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20)
    assert run.returncode == status, run.stdout + run.stderr
    if status == 0:
        assert run.stderr == ""
        return run.stdout
    return run.stderr


def one_line(text):
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1]


# The program as such


def test_version():
    assert re.fullmatch(r"detshare \d+\.\d+\.\d+\n", detshare("--version"))


@pytest.mark.parametrize("arguments", [["--help"], ["help"]])
def test_help_names_every_command(arguments):
    text = detshare(*arguments)
    for command in ("status", "plan", "run"):
        assert f"\n  {command} " in text


@pytest.mark.parametrize("command", ["status", "plan", "run"])
def test_help_of_a_command(command):
    text = detshare("help", command)
    assert text.startswith(f"Usage: detshare {command} ")
    assert "--help" in text
    assert ("--json" in text) == (command != "run")
    assert detshare(command, "--help") == text
    assert detshare(command, "--version").startswith("detshare ")


@pytest.mark.parametrize("arguments", [["foo"], ["help", "foo"], ["foo", "--json"], ["--", "foo"]])
def test_unknown_command(arguments):
    line = one_line(detshare(*arguments, status=2))
    assert line.startswith('detshare: no command "foo"; there are status, plan, run')


def test_no_command():
    assert one_line(detshare(status=2)) == "detshare: no command given (see detshare --help)"


@pytest.mark.parametrize("arguments", [["--foo"], ["status", "--foo"], ["plan", "--foo", "1"]])
def test_unknown_option(arguments):
    assert "--foo" in detshare(*arguments, status=2).splitlines()[0]


def test_full_output_is_an_error():
    with open("/dev/full", "w", encoding="ascii") as full:
        run = subprocess.run([Path(BUILD) / "noderuntime/command/detshare", "plan", "0.5"], stdout=full,
                             stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False, timeout=20)
    assert run.returncode == 1
    assert one_line(run.stderr) == "detshare plan: cannot write the output: No space left on device"


# detshare plan


def plan(*arguments):
    made = json.loads(detshare("plan", "--json", *arguments))
    return [(p["groups"], p["sms"], p["weight"]) for p in made["partitions"]]


@pytest.mark.parametrize("requests, expected", [
    (["0.5"], [("0-7", 64, 1)]),
    (["0.5", "0.5"], [("0-7", 64, 1), ("8-14+rest", 68, 1)]),
    (["1"], [("0-14+rest", 132, 1)]),
    (["0.6", "0.4"], [("0-8+rest", 84, 1), ("9-14", 48, 1)]),
    (["latency:0.25", "detshare:throughput:500"], [("0-3", 32, 1), ("4-11", 64, 1)]),
    (["gres:detshare:500", "gres/detshare:latency=250"], [("0-7", 64, 1), ("8-11", 32, 1)]),
    (["detshare:0.5,shard:500"], [("0-7", 64, 1)]),
    (["0.02", "0.02", "0.02"], [("0", 8, 0.3)] * 3),
])
def test_plan(requests, expected):
    assert plan(*requests) == expected


def test_plan_of_other_gpus():
    assert plan("--shape", "16,8,0", "0.5", "0.5") == [("0-7", 64, 1), ("8-15", 64, 1)]
    assert plan("--gpu-sms", "142", "--group-sms", "2", "0.5") == [("0-35", 72, 1)]
    assert plan("--gpu-sms=108", "--group-sms=4", "1") == [("0-26", 108, 1)]


def test_plan_for_people():
    lines = detshare("plan", "0.5", "latency:0.25").splitlines()
    assert lines[0] == "132 SMs: 15 groups of 8 and a rest of 12"
    assert lines[1].split() == ["REQUEST", "CLASS", "SHARE", "GROUPS", "SMS", "WEIGHT", "OF-GPU"]
    assert lines[2].split() == ["0.5", "-", "0.5", "0-7", "64", "1", "48.5%"]
    assert lines[3].split() == ["latency:0.25", "latency", "0.25", "8-11", "32", "1", "24.2%"]
    assert len(lines) == 4


def test_plan_json_has_all():
    made = json.loads(detshare("plan", "--json", "latency:0.25"))
    assert made == {
        "shape": {"sms": 132, "groups": 15, "group_sms": 8, "rest_sms": 12},
        "partitions": [{"request": "latency:0.25", "class": "latency", "share": 0.25, "share_milli": 250,
                        "groups": "0-3", "sms": 32, "weight": 1.0, "percent_of_gpu": 24.24}],
    }


@pytest.mark.parametrize("arguments, message", [
    (["0.5", "latency:0.6"],
     "request 2 (latency:0.6) does not fit: it asks 0.6 of the GPU and 0.5 is left"),
    (["1", "0.002"], "request 2 (0.002) does not fit: it asks 0.002 of the GPU and 0 is left"),
    (["0.01"] * 65, "65 requests: one GPU takes at most 64"),
])
def test_plan_refuses_what_does_not_fit(arguments, message):
    assert one_line(detshare("plan", *arguments, status=1)) == f"detshare plan: {message}"


@pytest.mark.parametrize("arguments", [
    ["0"], ["1.5"], ["-0.5"], ["0,5"], ["nan"], ["0.0001"], ["1001"], [""], ["detshare:"], ["gpu"],
    ["detshare:latency:2.0"], ["none"], ["latency:x"], ["detshare:0.5,detshare:0.5"], ["x" * 300],
])
def test_plan_refuses_what_it_cannot_read(arguments):
    if arguments[0].startswith("-"):
        arguments = ["--", *arguments]
    line = one_line(detshare("plan", *arguments, status=2))
    assert line.startswith(f"detshare plan: request 1 ({arguments[-1][:40]}): ")


@pytest.mark.parametrize("arguments, option", [
    (["--shape", "0,8,0", "1"], "--shape"), (["--shape", "128,8,0", "1"], "--shape"),
    (["--shape", "15,8", "1"], "--shape"), (["--shape", "15,8,12,", "1"], "--shape"),
    (["--shape", "a,b,c", "1"], "--shape"), (["--gpu-sms", "0", "1"], "--gpu-sms"),
    (["--gpu-sms", "-1", "1"], "--gpu-sms"), (["--group-sms", "8x", "1"], "--group-sms"),
    (["--group-sms", "99999999999999999999", "1"], "--group-sms"),
    (["--gpu-sms", "4", "--group-sms", "8", "1"], "4 SMs in groups of 8"),
    (["--gpu-sms", "1000", "--group-sms", "2", "1"], "1000 SMs in groups of 2"),
    ([], "no request given"),
])
def test_plan_refuses_odd_arguments(arguments, option):
    assert option in one_line(detshare("plan", *arguments, status=2))


# detshare status


class Node:
    """A node's runtime directory, its configuration, and what to put into its ledgers."""

    def __init__(self, folder):
        self.runtime_dir = folder / "run"
        self.runtime_dir.mkdir()
        self.config = folder / "detshare-node.conf"
        self.config.write_text(f'runtime_dir = "{self.runtime_dir}"\n')

    def ledger(self, *lines, gpu=GPU):
        program = Path(BUILD) / "tests" / "unit" / "ledger_fixture"
        text = "\n".join([f"gpu {gpu} 15 8 12", *lines]) + "\n"
        subprocess.run([program, self.runtime_dir], input=text, text=True, check=True, timeout=20)

    def status(self, *arguments, **more):
        return detshare("status", "--config", self.config, *arguments, **more)

    def json(self):
        return json.loads(self.status("--json"))


@pytest.fixture(name="node")
def make_node(tmp_path):
    return Node(tmp_path)


@pytest.fixture(name="process")
def make_process():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_status_of_nothing(node):
    expected = f"No GPU of this node is shared: there is none in {node.runtime_dir}.\n"
    assert node.status() == expected
    assert node.json() == {"runtime_dir": str(node.runtime_dir), "gpus": []}
    node.runtime_dir.rmdir()
    assert node.status() == expected
    assert node.json()["gpus"] == []


def test_status_of_an_unused_gpu(node):
    (node.runtime_dir / f"gpu-{GPU}").mkdir()
    (node.runtime_dir / "job-1").mkdir()
    assert node.status() == f"GPU {GPU}: not shared since the machine started\n"
    assert node.json()["gpus"] == [{"uuid": GPU, "shape": None, "residents": []}]


def test_status_of_an_empty_ledger(node):
    node.ledger()
    assert node.status() == (f"GPU {GPU}: 132 SMs, 15 groups of 8 and a rest of 12\n"
                             "free: share 1, groups 0-14+rest (132 SMs)\n")


def test_status_of_two_halves(node, process):
    me = os.getpid()
    begin = int(time.time())
    node.ledger(f"join job-12 12 {os.getuid()} latency 500 {me}", f"join run-7 0 4999 batch 250 {me}",
                f"program job-12 {me}", f"program job-12 {process.pid}")
    lines = node.status().splitlines()
    assert lines[0] == f"GPU {GPU}: 132 SMs, 15 groups of 8 and a rest of 12"
    assert lines[1].split() == ["ALLOCATION", "JOB", "USER", "CLASS", "SHARE", "PLANNED", "HELD", "SMS", "WEIGHT",
                                "MEMORY", "SINCE", "PROGRAMS", "RUNTIME"]
    user = pwd.getpwuid(os.getuid()).pw_name
    first, second = lines[2].split(), lines[3].split()
    assert first[:9] == ["job-12", "12", user, "latency", "0.5", "0-7", "0-7", "64", "1"]
    assert first[9] == "?/0M" and first[11:] == ["2", "alive"]
    assert abs(time.mktime(time.strptime(first[10], "%Y-%m-%dT%H:%M:%S")) - time.timezone - begin) <= 86400
    assert second[:9] == ["run-7", "-", "4999", "batch", "0.25", "8-11", "8-11", "32", "1"]
    assert lines[4] == "free: share 0.25, groups 12-14+rest (36 SMs)"
    assert len(lines) == 5

    gpu, = node.json()["gpus"]
    assert gpu["uuid"] == GPU
    assert gpu["shape"] == {"sms": 132, "groups": 15, "group_sms": 8, "rest_sms": 12}
    assert gpu["generation"] == 4
    assert (gpu["free_groups"], gpu["free_sms"], gpu["free_share"]) == ("12-14+rest", 36, 0.25)
    assert gpu["programs_left"] == []
    resident = gpu["residents"][0]
    assert begin - 2 <= resident.pop("since_unix_s") <= time.time() + 1
    assert not resident.pop("whole_gpu")["suspended"]
    assert resident == {
        "allocation": "job-12", "job_id": 12, "uid": os.getuid(), "user": user, "class": "latency",
        "kind": "latency", "share": 0.5, "share_milli": 500, "groups_planned": "0-7", "groups_held": "0-7",
        "sms": 64, "weight": 1.0, "runtime_pid": me, "runtime_alive": True, "waits_for": [],
        "groups_own": "0-7", "demand": "idle", "drain_us": 0, "wish": 0.5, "lends_to": [], "borrows_from": [], "advance": None,
        "memory_quota_mib": 0,
        "programs": [{"allocation": "job-12", "pid": me, "alive": True, "groups": "0-7", "late_s": None},
                     {"allocation": "job-12", "pid": process.pid, "alive": True, "groups": "0-7", "late_s": None}],
        "turn": None,
        "programs_ended": 0,
    }
    assert gpu["residents"][1]["user"] == "4999"


def test_status_says_who_waits_for_whom(node, process):
    me = os.getpid()
    node.ledger(f"join job-12 12 0 latency 980 {me}", f"program job-12 {process.pid}",
                f"join job-13 13 0 latency 20 {me}")
    text = node.status()
    assert f"\njob-13 waits for groups 14 of job-12, whose process {process.pid} still runs there\n" in text
    waiting = node.json()["gpus"][0]["residents"][1]
    assert waiting["groups_planned"] == "14"
    assert waiting["groups_held"] == "none"
    assert waiting["sms"] == 0
    assert waiting["waits_for"] == [
        {"allocation": "job-12", "pid": process.pid, "alive": True, "groups": "14", "late_s": None}]
    process.kill()
    process.wait()
    assert f"job-13 waits for groups 14 of job-12, whose process {process.pid} has just ended\n" in node.status()
    assert node.json()["gpus"][0]["residents"][1]["waits_for"][0]["alive"] is False


def test_status_of_processes_left_over(node, process):
    me = os.getpid()
    node.ledger(f"join job-1 1 0 batch 500 {me}", f"program job-1 {process.pid}", "leave job-1",
                f"join job-2 2 0 batch 1000 {me}")
    text = node.status()
    assert f"\njob-2 waits for groups 0-7 of job-1, whose process {process.pid} still runs there\n" in text
    assert f"\njob-1 is gone, but its process {process.pid} still runs on groups 0-7\n" in text
    left = node.json()["gpus"][0]["programs_left"]
    assert left == [{"allocation": "job-1", "pid": process.pid, "alive": True, "groups": "0-7", "late_s": None}]


def test_status_of_a_dead_runtime(node, process):
    node.ledger(f"join job-1 1 0 batch 500 {process.pid}")
    assert node.json()["gpus"][0]["residents"][0]["runtime_alive"] is True
    process.kill()
    process.wait()
    assert node.json()["gpus"][0]["residents"][0]["runtime_alive"] is False
    assert node.status().splitlines()[2].split()[-1] == "dead"


def test_status_of_several_gpus(node):
    node.ledger("join job-2 2 0 batch 500 1", gpu="GPU-b")
    node.ledger("join job-1 1 0 batch 500 1", gpu="GPU-a")
    gpus = node.json()["gpus"]
    assert [gpu["uuid"] for gpu in gpus] == ["GPU-a", "GPU-b"]
    assert [gpu["residents"][0]["allocation"] for gpu in gpus] == ["job-1", "job-2"]
    assert "\n\nGPU GPU-b: " in node.status()


def test_status_of_a_broken_ledger(node):
    node.ledger("join job-1 1 0 batch 500 1", gpu="GPU-a")
    node.ledger("join job-2 2 0 batch 500 1", gpu="GPU-b")
    ledger = node.runtime_dir / "gpu-GPU-a" / "ledger"
    ledger.write_bytes(b"spoilt")
    reason = f"cannot use {ledger}: it is no ledger"
    said = one_line(node.status(status=1))
    assert said.startswith(f"detshare status: GPU GPU-a: {reason}; ") and "made anew" in said
    run = subprocess.run([Path(BUILD) / "noderuntime/command/detshare", "status", "--config", node.config, "--json"],
                         text=True, capture_output=True, check=False, env=ENVIRONMENT, timeout=20)
    assert run.returncode == 1
    first, second = json.loads(run.stdout)["gpus"]
    assert first == {"uuid": "GPU-a", "error": said.partition("GPU-a: ")[2]}
    assert second["residents"][0]["allocation"] == "job-2"


def test_status_of_an_unreadable_folder(node):
    node.runtime_dir.rmdir()
    node.runtime_dir.write_text("")
    assert one_line(node.status(status=1)) == f"detshare status: cannot read {node.runtime_dir}: Not a directory"


def test_status_finds_its_node(node, tmp_path):
    (tmp_path / "n7").mkdir()
    node.config.write_text(f'runtime_dir = "{tmp_path}/%n"\n')
    found = json.loads(detshare("status", "--json", "--node-name=n7", environment={"DETSHARE_NODE_CONF": str(node.config)}))
    assert found["runtime_dir"] == f"{tmp_path}/n7"


def test_status_refuses_a_broken_configuration(node):
    node.config.write_text("no_such_key = 1\n")
    assert "no_such_key" in one_line(node.status(status=1))
    node.config.unlink()
    assert str(node.config) in one_line(node.status(status=1))


def test_status_takes_no_arguments(node):
    assert "too many arguments" in node.status("job-1", status=2).lower()
