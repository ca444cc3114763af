# SPDX-License-Identifier: Apache-2.0
"""One program: `python3 programs SPEC`. It speaks lines of JSON on standard input and output.

    -> {"ready": "imported"}             before it has touched CUDA, so that this need not be waited for
    <- {"partition": [first, last] or null}      begin to use the GPU
    -> {"ready": "warm", "step_ms": ...}
    <- {"at": CLOCK_MONOTONIC, "seconds": ..., "rate": requests a second, 0: as fast as it can}
    -> the results
"""
import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
DIGESTS_MOST = 400


def say(words):
    print(json.dumps(words), file=channel, flush=True)


def hear():
    line = sys.stdin.readline()
    if not line:
        sys.exit(3)  # nobody is there any more
    return json.loads(line)


def wait_until(at):
    while (left := at - time.monotonic()) > 0:
        time.sleep(min(left, 0.2) if left > 0.002 else 0)


def saturating(program, begin, until):
    """Step after step."""
    steps, last = [], begin
    while last < until:
        program.step()
        now = time.monotonic()
        steps.append((now - last) * 1e3)
        last = now
    return {"steps_ms": steps, "work": len(steps), "seconds": last - begin}


def requests(program, begin, until, rate):
    """Poisson arrivals of requests of so many steps each, one after the other. First steps are measured from the arrival."""
    drawn, steps, first, whole = random.Random(5), [], [], []
    arrival = begin
    while True:
        arrival += drawn.expovariate(rate)
        if arrival >= until:
            break
        wait_until(arrival)
        program.new_request(len(whole))
        last = arrival
        for index in range(program.steps_each):
            program.step()
            now = time.monotonic()
            (steps if index else first).append((now - last) * 1e3)
            last = now
        whole.append((last - arrival) * 1e3)
        # Whoever cannot keep up must end all the same.
        if last > until + (until - begin):
            break
    return {"steps_ms": steps, "first_ms": first, "request_ms": whole, "work": len(whole) * program.steps_each,
            "seconds": max(time.monotonic(), until) - begin}


spec = json.loads(sys.argv[1])
# Programs and libraries may print; the channel is ours alone.
channel = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
if spec["backend"] == "torch":
    import torch_programs as backend
else:
    import emulated_programs as backend
say({"ready": "imported"})
start = hear()
worker = backend.make(spec["name"], start["partition"])
for _ in range(worker.warmup):
    worker.step()
took = []
for _ in range(5):
    before = time.monotonic()
    worker.step()
    took.append((time.monotonic() - before) * 1e3)
worker.reset()
say({"ready": "warm", "step_ms": sorted(took)[2], "steps_each": worker.steps_each})
go = hear()
wait_until(go["at"])
if go["rate"]:
    measured = requests(worker, go["at"], go["at"] + go["seconds"], go["rate"])
else:
    worker.new_request(0)
    measured = saturating(worker, go["at"], go["at"] + go["seconds"])
say(measured | {"digests": worker.digests()[:DIGESTS_MOST], "facts": backend.facts()})
