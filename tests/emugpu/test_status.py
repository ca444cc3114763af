# SPDX-License-Identifier: Apache-2.0
"""`detshare status` answers at every moment, whatever is being made, joined or left meanwhile."""
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runtime_host import BUILD, Host  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not BUILD, reason="DETSHARE_BUILDDIR does not name a built tree"),
    pytest.mark.timeout(300),
]
ROUNDS = 12


class Looker(threading.Thread):
    """Asks again and again; keeps what was not answered."""

    def __init__(self, host, *options):
        super().__init__()
        self.command = host.command("status", *options, "--config", host.conf)
        self.env = host.env
        self.over = False
        self.answers = []
        self.failures = []

    def run(self):
        while not self.over:
            done = subprocess.run(self.command, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  check=False)
            self.answers.append(done.stdout)
            if done.returncode or done.stderr:
                self.failures.append((done.returncode, done.stderr))

    def stop(self):
        self.over = True
        self.join()


def come_and_go(host):
    """The first to come to a GPU makes its ledger; the last to go leaves it empty."""
    host.begin("job-1", gpu=0)
    host.begin("job-2", gpu=1)
    host.begin("job-3", gpu=0, share=250)
    host.end("job-1")
    host.begin("job-4", gpu=1, share=250)
    for name in ("job-2", "job-3", "job-4"):
        host.end(name)


def test_while_ledgers_are_made_and_residents_come_and_go():
    allocations = set()
    for _ in range(ROUNDS):
        host = Host()
        lookers = [Looker(host, "--json"), Looker(host, "--json"), Looker(host)]
        for looker in lookers:
            looker.start()
        try:
            come_and_go(host)
        finally:
            for looker in lookers:
                looker.stop()
            host.close()
        assert [failure for looker in lookers for failure in looker.failures] == []
        for answer in lookers[0].answers + lookers[1].answers:
            allocations |= {r["allocation"] for gpu in json.loads(answer)["gpus"] for r in gpu["residents"]}
    assert allocations and allocations <= {"job-1", "job-2", "job-3", "job-4"}
