#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs programs, several at a time, and says what became of each.

Reads a JSON list of {"name", "argv", "timeout", "environment"} from standard input (null in the
environment takes a variable away); the one argument is how many run at a time. Prints a JSON object:
name -> {"status", "output", "errors", "seconds"} and what the coroutine library counted. A program over
its time is killed with its children, and its status is "timeout".

The counts are what the coroutine library writes to the file that DETSHARE_REPORT names, one line per
process, when the process ends; without the library they are 0.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import time


COUNTS = ("launches", "remaps", "stalls", "pinned_graphs")


def counted(path):
    sums = dict.fromkeys(COUNTS, 0)
    try:
        with open(path, encoding="ascii") as report:
            for line in report:
                process = json.loads(line)
                sums = {name: sums[name] + process[name] for name in COUNTS}
    except FileNotFoundError:
        pass
    return sums


def run(job, folder):
    report = os.path.join(folder, job["name"])
    environment = dict(os.environ, DETSHARE_REPORT=report) | job["environment"]
    environment = {name: value for name, value in environment.items() if value is not None}
    began = time.monotonic()
    process = subprocess.Popen(job["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, errors="replace", start_new_session=True, env=environment)
    try:
        output, errors = process.communicate(timeout=job["timeout"])
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        status = "timeout"
    return {"status": status, "output": output, "errors": errors[-2000:], "seconds": round(time.monotonic() - began, 2),
            **counted(report)}


def main():
    jobs = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder, \
            concurrent.futures.ThreadPoolExecutor(int(sys.argv[1])) as pool:
        running = {job["name"]: pool.submit(run, job, folder) for job in jobs}
        results = {name: future.result() for name, future in running.items()}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
