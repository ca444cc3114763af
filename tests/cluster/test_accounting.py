# SPDX-License-Identifier: Apache-2.0
"""Usage records: from a node's spool, by the collector, into sacct, whatever is down or hostile on the way."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from contextlib import contextmanager

import pytest

from cluster import daemons, processes
from slurm import until

ARRIVAL_S = 60
NOBODY = 65534
MAGIC = b"DSU1"


class Usage:
    """The programs and directories of one cluster's usage records."""

    def __init__(self, cluster, slurm):
        self.cluster = cluster
        self.slurm = slurm
        self.layout = cluster.layout

    def spool(self, job, node="node1", restart=0, name=None, text=None, **more):
        """Put a record into a node's spool, as the node runtime does."""
        folder = self.layout.spool_dir(node)
        file = folder / (name or f"job-{job}.{restart}.json")
        hidden = folder / f".{file.name}.new"
        hidden.write_text(text if text is not None else json.dumps(record(job, node, restart, **more)))
        hidden.rename(file)
        return file

    def send(self, node="node1", *words, check=True):
        return self.cluster.run("detshare-usaged", "send", f"--config={self.layout.node_conf}",
                                f"--node-name={node}", *words, check=check)

    def settle(self, *words):
        """One pass now; False while something waits."""
        run = self.cluster.run("detshare-usaged", "collect", f"--config={self.layout.usaged_conf}",
                               "--once", *words, check=False)
        assert run.returncode in (0, 75), run.stderr
        return run.returncode == 0

    def waiting(self):
        """Numbers of the jobs whose records are stored and not settled."""
        run = self.cluster.run("detshare-usaged", "list", "--json", f"--config={self.layout.node_conf}",
                               "--node-name=node1", f"--collector-config={self.layout.usaged_conf}")
        return [entry["record"]["job_id"] for entry in json.loads(run.stdout)["records"]
                if entry["where"] == "collector"]

    def comment(self, job):
        """The AdminComment in the accounting database."""
        return self.cluster.run("sacct", "-n", "-P", "-X", "-j", str(job), "-o", "admincomment").stdout.rstrip("\n")

    def line(self, job):
        """Our line of the AdminComment, parsed; None: not there yet."""
        lines = [line for line in self.comment(job).split("\n") if line.startswith('{"detshare":')]
        assert len(lines) <= 1, lines
        return json.loads(lines[0])["detshare"] if lines else None

    def arrived(self, job, **expected):
        """Wait for the line, and for what it has to say."""
        def same():
            line = self.line(job)
            return line if line and all(line.get(key) == value for key, value in expected.items()) else None
        return until(f"the usage of job {job} is in AdminComment: {expected}", same, ARRIVAL_S)

    def log(self):
        return (self.layout.log / "usaged.out").read_text()

    @contextmanager
    def without(self, daemon, start):
        """Stop a daemon; start it again in the end."""
        process = daemons.running(self.layout, daemon)
        assert process and not processes.end([process], 15), f"{daemon} had to be killed"
        try:
            yield
        finally:
            start()

    def start_collector(self):
        self.cluster._start_usaged()
        until("the collector listens", lambda: daemons.accepts(self.layout.usage_port))

    def start_slurmdbd(self):
        self.cluster._start("slurmdbd", ["slurmdbd", "-D"], MYSQL_UNIX_PORT=str(self.layout.mariadb_socket))
        until("slurmdbd listens", lambda: daemons.accepts(self.layout.slurmdbd_port))

    def sign(self, text, user=None):
        """A munge credential that only the collector may read."""
        run = subprocess.run(["munge", f"--socket={self.layout.munge_socket}", "--restrict-uid=0"],
                             input=text.encode(), stdout=subprocess.PIPE, check=True, timeout=60, user=user)
        return run.stdout.strip()

    def connect(self):
        peer = socket.create_connection(("127.0.0.1", self.layout.usage_port), timeout=20)
        peer.settimeout(20)
        return peer

    def tell(self, credential):
        """Send a frame; the answer's body, or None when the collector hangs up instead."""
        with self.connect() as peer:
            peer.sendall(frame(credential))
            try:
                head = receive(peer, 8)
                return receive(peer, struct.unpack(">I", head[4:])[0]) if head else None
            except ConnectionResetError:
                return None


def record(job, node="node1", restart=0, begin=None, **more):
    begin = begin if begin is not None else time.time()
    return {"v": 1, "cluster": "", "node": node, "job_id": job, "restart": restart, "uid": 0,
            "class": "throughput", "share_milli": 500, "gpu_uuid": "GPU-00000000-1111-2222-3333-444444444444",
            "begin_unix_s": begin, "end_unix_s": begin + 2.5, "granted_sm_s": 165.0, "programs": 1,
            "step_granted_max_milli": 500, **more}


def message(job, **more):
    return json.dumps({"detshare_usage": 1, "nonce": os.urandom(16).hex(), "record": record(job, **more)})


def frame(body):
    return MAGIC + struct.pack(">I", len(body)) + body


def receive(peer, length):
    data = b""
    while len(data) < length:
        more = peer.recv(length - len(data))
        if not more:
            return None
        data += more
    return data


@pytest.fixture
def usage(cluster, slurm):
    if not cluster.installed.usaged.exists():
        pytest.skip(f"{cluster.installed.usaged} is not installed")
    return Usage(cluster, slurm)


def ended_job(usage, *options, wrap="true"):
    job = usage.slurm.sbatch(*options, wrap=wrap)
    usage.slurm.wait_end(job)
    return job


def test_the_line_stands_beside_the_sites_text(usage):
    site = "ticket 4711: 'quoted' and \"double\" \\ \\n\n\ttwo lines; -- {\"json\": [1]} %s $HOME"
    job, go_on = usage.slurm.sbatch_until_told()
    usage.slurm.wait_running(job)
    usage.slurm.command("scontrol", "update", f"jobid={job}", f"admincomment={site}")
    go_on()
    usage.slurm.wait_end(job)
    usage.spool(job)
    usage.send()
    line = usage.arrived(job)
    assert line == {"v": 1, "class": "throughput", "share_milli": 500, "nodes": 1, "restarts": 0, "seconds": 2.5,
                    "granted_sm_s": 165.0, "programs": 1, "step_granted_max_milli": 500}
    assert usage.comment(job).split("\n")[:-1] == site.split("\n")
    assert not list(usage.layout.spool_dir("node1").glob("*.json"))
    assert job not in usage.waiting()


def test_two_nodes_become_one_line(usage):
    job = ended_job(usage, "--nodes=2")
    begin = time.time()
    usage.spool(job, "node1", begin=begin)
    usage.spool(job, "node2", begin=begin + 1, programs=3)
    usage.send("node1")
    until("the first node's record waits for the second's", lambda: job in usage.waiting())
    until("a pass has looked at it", lambda: not usage.settle())
    assert usage.line(job) is None
    usage.send("node2")
    line = usage.arrived(job)
    assert (line["nodes"], line["granted_sm_s"], line["programs"], line["seconds"]) == (2, 330.0, 4, 3.5)
    assert "nodes_missing" not in line


def test_a_silent_node_is_missed_then_merged(usage):
    job = ended_job(usage, "--nodes=2")
    usage.spool(job, "node1")
    usage.send("node1")
    until("the pass that waits for nobody writes", lambda: usage.settle("--grace=0") or usage.line(job))
    assert usage.arrived(job)["nodes_missing"] == 1
    usage.spool(job, "node2")
    usage.send("node2")
    assert "nodes_missing" not in usage.arrived(job, nodes=2)


def test_tasks_of_an_array_have_their_own_lines(usage):
    array = usage.slurm.sbatch("--array=0-2", wrap="true")
    ids = until("all tasks have ended", lambda: ended_tasks(usage, array))
    for task, job in ids.items():
        usage.spool(job, "node1", programs=10 + task)
    usage.send()
    for task in ids:
        assert usage.arrived(f"{array}_{task}")["programs"] == 10 + task


def ended_tasks(usage, array):
    rows = usage.slurm.sacct(array, "jobid", "jobidraw", "state")
    ended = {int(name.split("_")[1]): int(raw) for name, raw, state in rows if "_" in name and state == "COMPLETED"}
    return ended if len(ended) == 3 else None


def test_components_of_a_heterogeneous_job_have_their_own_lines(usage):
    job = usage.slurm.sbatch("--nodelist=node1", ":", "--nodelist=node2", script=script(usage, "true"))
    usage.slurm.wait_end(job)
    rows = until("the database has both", lambda: (lambda rows: rows if len(rows) == 2 else None)(
        usage.slurm.sacct(job, "jobidraw", "nodelist")))
    for raw, node in rows:
        usage.spool(int(raw), node, programs=20 + int(raw) - job)
        usage.send(node)
    for offset in range(2):
        assert usage.arrived(f"{job}+{offset}")["programs"] == 20 + offset


def script(usage, *lines):
    file = usage.layout.work / "het.sh"
    file.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    file.chmod(0o755)
    return file


def test_a_requeued_jobs_line_is_in_its_last_run(usage):
    job = usage.slurm.sbatch("--requeue", wrap='test "$SLURM_RESTART_COUNT" || sleep 300')
    usage.slurm.wait_running(job)
    usage.spool(job, restart=0)
    usage.send()
    usage.slurm.command("scontrol", "requeue", str(job))
    until("it waits to run again", lambda: usage.slurm.state(job) == "PENDING")
    assert not usage.settle("--grace=0") and usage.line(job) is None
    usage.slurm.command("scontrol", "update", f"jobid={job}", "starttime=now")
    usage.slurm.wait_end(job, 60)
    usage.spool(job, restart=1)
    usage.send()
    line = usage.arrived(job)
    assert (line["restarts"], line["nodes"], line["programs"], line["seconds"]) == (1, 1, 2, 5.0)
    rows = usage.cluster.run("sacct", "-n", "-P", "-X", "-D", "-j", str(job), "-o", "state,admincomment").stdout.splitlines()
    assert len(rows) == 2 and rows[0].endswith("|") and '"restarts":1' in rows[1], rows


def test_a_collector_that_was_down_gets_it_later(usage):
    job = ended_job(usage)
    with usage.without("usaged", usage.start_collector):
        file = usage.spool(job)
        run = usage.send(check=False)
        assert run.returncode == 1 and "1 usage records wait" in run.stderr
        assert len(run.stderr.splitlines()) == 1 and file.exists()
        sender = subprocess.Popen(
            ["detshare-usaged", "send", f"--config={usage.layout.node_conf}", "--node-name=node1", "--for=50"],
            env=usage.cluster.environment(), stderr=subprocess.PIPE, text=True)
        lock = usage.layout.spool_dir("node1") / ".send.lock"
        until("the sender knows until when", lambda: int(lock.read_text() or 0) > (time.time() + 30) * 1000)
        assert file.exists() and sender.poll() is None
    assert sender.wait(timeout=60) == 0, sender.stderr.read()
    sender.stderr.close()
    assert usage.arrived(job)


def test_slurmdbd_that_was_down_gets_it_later(usage):
    job = ended_job(usage)
    before = daemons.running(usage.layout, "usaged")
    with usage.without("slurmdbd", usage.start_slurmdbd):
        usage.spool(job)
        usage.send()
        until("the collector says so", lambda: "cannot connect to slurmdbd" in usage.log())
        assert job in usage.waiting()
    assert usage.arrived(job)
    assert daemons.running(usage.layout, "usaged") == before


def test_slurmdbd_that_hangs_keeps_nobody_from_reporting(usage):
    job = ended_job(usage)
    slurmdbd = daemons.running(usage.layout, "slurmdbd")
    slurmdbd.kill(signal.SIGSTOP)
    try:
        usage.spool(job)
        usage.send()
        time.sleep(2)  # the pass is under way, and waits
        usage.spool(job, "node2")
        begin = time.monotonic()
        usage.send("node2")
        assert time.monotonic() - begin < 20  # it hangs for ever
    finally:
        slurmdbd.kill(signal.SIGCONT)
    assert usage.arrived(job, nodes=2)


def test_a_record_of_a_job_that_the_database_does_not_know_waits(usage):
    usage.spool(4000000)
    usage.send()
    assert 4000000 in usage.waiting()
    assert not usage.settle()
    assert 4000000 in usage.waiting()
    (usage.layout.collector_dir / "waiting" / "+4000000.0+node1.json").unlink()


def test_an_answer_that_was_lost_is_given_again(usage):
    job = ended_job(usage)
    text = record(job)
    for _ in range(3):
        usage.spool(job, text=json.dumps(text))
        usage.send()
    assert usage.arrived(job)["programs"] == 1
    usage.spool(job, text=json.dumps(text))
    usage.send()
    assert job not in usage.waiting(), "an already settled record was stored again"


def test_a_record_that_another_user_signed_is_refused(usage):
    job = ended_job(usage)
    assert usage.tell(usage.sign(message(job), user=NOBODY)) is None
    assert job not in usage.waiting()
    until("the log names the uid", lambda: f"uid {NOBODY}" in usage.log())


def test_a_replayed_record_is_refused(usage):
    job = ended_job(usage)
    credential = usage.sign(message(job))
    assert usage.tell(credential) is not None
    assert usage.tell(credential) is None
    assert usage.arrived(job)


def test_a_changed_credential_is_refused(usage):
    job = ended_job(usage)
    credential = bytearray(usage.sign(message(job)))
    credential[40] ^= 1
    assert usage.tell(bytes(credential)) is None
    assert job not in usage.waiting()


def test_what_is_no_record_is_answered_and_not_stored(usage):
    for text in ("", "{}", "[]", message(0), message(1, node="../../etc/passwd"), message(1).replace("1", "2", 1)):
        assert usage.tell(usage.sign(text)) is not None
    assert 0 not in usage.waiting()


def test_hostile_peers_cost_nothing(usage):
    job = ended_job(usage)
    hostile = [b"", b"GET / HTTP/1.0\r\n\r\n", MAGIC, MAGIC + b"\xff\xff\xff\xff", MAGIC + b"\0\0\0\0",
               frame(b"x" * 16384), frame(b"MUNGE:AAAA:"), MAGIC + struct.pack(">I", 16384) + b"slow"]
    peers = []
    try:
        for number in range(100):
            peer = usage.connect()
            peer.sendall(hostile[number % len(hostile)])
            peers.append(peer)
        usage.spool(job)
        begin = time.monotonic()
        usage.send()
        assert time.monotonic() - begin < 5
    finally:
        for peer in peers:
            peer.close()
    assert usage.arrived(job)


@pytest.mark.parametrize("signer", [None, NOBODY])
def test_an_answer_that_the_collector_did_not_sign_is_not_believed(usage, signer):
    """Somebody took the port while the collector was down, and says that all is stored."""
    file = usage.spool(77)
    with usage.without("usaged", usage.start_collector), socket.create_server(
            ("127.0.0.1", usage.layout.usage_port)) as server:
        server.settimeout(20)
        sender = subprocess.Popen(
            ["detshare-usaged", "send", f"--config={usage.layout.node_conf}", "--node-name=node1"],
            env=usage.cluster.environment(), stderr=subprocess.PIPE, text=True)
        peer = server.accept()[0]
        with peer:
            peer.settimeout(20)
            head = receive(peer, 8)
            receive(peer, struct.unpack(">I", head[4:])[0])
            answer = json.dumps({"detshare_answer": 1, "nonce": "0" * 32, "verdict": "stored", "job_id": 77,
                                 "restart": 0, "node": "node1", "reason": ""})
            # Even root's word is worth nothing without the nonce of this very try.
            peer.sendall(frame(usage.sign(answer, user=signer)))
            _, said = sender.communicate(timeout=30)
    assert sender.returncode == 1
    assert ("cannot believe" if signer else "answered something else") in said
    assert file.exists()
    file.unlink()


def test_broken_files_are_set_aside_once_and_the_rest_goes(usage):
    job = ended_job(usage)
    spool = usage.layout.spool_dir("node1")
    usage.spool(0, name="job-1.0.json", text="{\"v\":1")
    usage.spool(0, name="job-2.0.json", text="x" * 100000)
    (spool / "job-3.0.json").symlink_to("/etc/passwd")
    usage.spool(job)
    run = usage.send()
    assert sorted(file.name for file in (spool / "broken").iterdir()) == ["job-1.0.json", "job-2.0.json", "job-3.0.json"]
    assert len(run.stderr.splitlines()) == 3 and "set aside" in run.stderr
    assert usage.send().stderr == ""
    assert usage.arrived(job)
    for file in (spool / "broken").iterdir():
        file.unlink()


def test_a_spool_that_others_can_write_to_is_not_signed(usage):
    spool = usage.layout.spool_dir("node1")
    spool.chmod(0o777)
    try:
        run = usage.send(check=False)
    finally:
        spool.chmod(0o755)
    assert run.returncode == 1 and "lets others write" in run.stderr


@pytest.mark.parametrize("user, delivered", [(NOBODY, True), ("root", False)])
def test_a_collector_that_is_not_root_is_believed_if_the_nodes_expect_it(usage, user, delivered):
    port = usage.layout.usage_port + 7
    home = usage.layout.work / "not-root"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    conf = usage.layout.work / "usage-user.conf"
    lines = [line for line in usage.layout.node_conf.read_text().splitlines() if not line.startswith("usage_port")]
    conf.write_text("\n".join([*lines, f"usage_port = {port}", f'usage_user = "{user}"', ""]))
    collector = subprocess.Popen(
        [usage.cluster.installed.usaged, "collect", "--listen=127.0.0.1", f"--port={port}", f"--state-dir={home}",
         f"--munge-socket={usage.layout.munge_socket}"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/",
        env={**usage.cluster.environment(), "DETSHARE_USAGED_CONF": str(no_settling(usage))},
        stderr=subprocess.DEVNULL)
    try:
        until("it listens", lambda: daemons.accepts(port))
        file = usage.spool(78)
        run = usage.cluster.run("detshare-usaged", "send", f"--config={conf}", "--node-name=node1", check=False)
        assert (run.returncode == 0) is delivered, run.stderr
        assert file.exists() is not delivered
        assert (home / "waiting" / "+78.0+node1.json").exists() is delivered
    finally:
        collector.terminate()
        assert collector.wait(timeout=10) == 0
        (usage.layout.spool_dir("node1") / "job-78.0.json").unlink(missing_ok=True)
        shutil.rmtree(home)


def no_settling(usage):
    conf = usage.layout.work / "no-settling.conf"
    conf.write_text('settle_program = "/bin/true"\n')
    return conf


def test_there_is_one_collector(usage):
    run = usage.cluster.run("detshare-usaged", "collect", f"--config={usage.layout.usaged_conf}", check=False)
    assert run.returncode == 1 and "another process" in run.stderr


def test_sigterm_ends_the_collector_at_once(usage):
    with usage.without("usaged", usage.start_collector):
        collector = subprocess.Popen(
            ["detshare-usaged", "collect", f"--config={usage.layout.usaged_conf}"],
            env=usage.cluster.environment(), stderr=subprocess.DEVNULL)
        until("it listens", lambda: daemons.accepts(usage.layout.usage_port))
        collector.terminate()
        assert collector.wait(timeout=5) == 0


@pytest.mark.parametrize("words, said", [
    ([], "no command"), (["steal"], "no command"), (["send", "--for=soon"], "--for soon"), (["send", "x"], "x: no further"),
    (["send", "--once", "--for=3"], "exclude each other"), (["collect", "--port=70000"], "--port 70000"),
])
def test_wrong_use_is_told(usage, words, said):
    run = usage.cluster.run("detshare-usaged", *words, check=False)
    assert run.returncode == 2 and said in run.stderr


def test_an_unknown_key_is_an_error(usage):
    conf = usage.layout.work / "usaged.conf"
    conf.write_text('port = 17\ncolour = "blue"\n')
    run = usage.cluster.run("detshare-usaged", "collect", f"--config={conf}", "--once", check=False)
    assert run.returncode == 1 and f"{conf}:2: no such option 'colour'" in run.stderr
