# SPDX-License-Identifier: Apache-2.0
"""Other users than root, and two users at once."""

from slurm import until

USER = "nobody"


def test_another_user_has_a_share(slurm):
    run = slurm.srun("--gres=detshare:0.5", "sh", "-c", "id -un; echo $DETSHARE_SHARE", user=USER)
    assert run.stdout.split() == [USER, "0.5"]


def test_another_users_program_runs(slurm, gpuwork):
    slurm.srun("--gres=detshare:0.5", gpuwork, "add", user=USER)


def test_a_user_cannot_read_the_port_of_another(slurm):
    """The port answers only the job's user (and root)."""
    job = slurm.sbatch("--gres=detshare:0.5", "-w", "node1", wrap="sleep 300")
    slurm.wait_running(job)
    port = slurm.cluster.layout.runtime_dir("node1") / f"job-{job}" / "port"
    until("the port is open (a job runs before its prolog has ended)", port.is_socket)
    talk = ("import socket,struct,sys; s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); "
            "s.connect(sys.argv[1]); s.send(struct.pack('=IHHII',0x44535054,1,1,0,0)); "
            "d=s.recv(4096); print(struct.unpack('=IHH',d[:8])[2] if d else 1)")
    run = slurm.command("/usr/bin/python3", "-c", talk, port, user=USER, check=False)
    assert run.stdout.strip() == "1" or run.returncode != 0


def test_users_do_not_meet_on_a_node(slurm):
    """isolation = user, the default: Slurm itself keeps the second user's job waiting."""
    first = slurm.sbatch("--gres=detshare:0.3", "-w", "node1", wrap="sleep 300")
    slurm.wait_running(first)
    second = slurm.sbatch("--gres=detshare:0.3", "-w", "node1", wrap="true", user=USER)
    same_user = slurm.sbatch("--gres=detshare:0.3", "-w", "node1", wrap="sleep 300")
    slurm.wait_running(same_user)
    assert slurm.state(second) == "PENDING"
    slurm.command("scancel", first, same_user)
    slurm.wait_state(second, "COMPLETED")
