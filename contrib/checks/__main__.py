# SPDX-License-Identifier: Apache-2.0
"""Command line behind contrib/check, which has installed what is needed."""

import argparse
import signal
import sys
import time
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "checks"

# The path is set above.
from checks.results import Results, last_lines, reason  # noqa: E402
from checks.runner import Runner, StageFailed  # noqa: E402
from checks.stages import STAGES  # noqa: E402

FAILURES_SHOWN = 20


def main() -> int:
    """Run the stages; the last line counts."""
    # A shell starts background commands with SIGINT ignored, and what is ignored is inherited: tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    arguments = _parse()
    if arguments.list:
        for name, (function, limit_s) in STAGES.items():
            print(f"{name:12} {function.__doc__.strip()} (at most {limit_s} s)")
        return 0
    unknown = [name for name in arguments.stages if name not in STAGES]
    if unknown:
        print(f"check: no stage {', '.join(unknown)}; there are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    out = Path(arguments.dir).resolve()
    total = Results()
    for name in arguments.stages or STAGES:
        total.add(_run(name, out, Path(arguments.cuda)))
    print("\n".join(last_lines(total)))
    return 0 if total.passed and not total.failed else 1


def _run(name: str, out: Path, cuda: Path) -> Results:
    function, limit_s = STAGES[name]
    top = Path(__file__).resolve().parents[2]
    runner = Runner(top, out, name, cuda, limit_s)
    begin = time.monotonic()
    try:
        found = function(runner)
    except StageFailed as error:
        found = Results()
        found.fail(f"{name}: {error}", runner.tail())
    except OSError as error:
        found = Results()
        found.fail(f"{name}: {error}")
    verdict = "FAILED" if found.failed else "ok" if found.passed else "skipped" if found.skipped else "empty"
    counts = found.counts() + (f", {len(found.late)} of them only by itself, the second time" if found.late else "")
    print(f"{name:12} {verdict:8} {time.monotonic() - begin:4.0f} s   {counts}", flush=True)
    for line in found.late:
        print(f"  {line}")
    if found.failed:
        for failure in found.failures[:FAILURES_SHOWN]:
            print("\n".join([f"  {failure.what}", *(f"    {line}" for line in reason(failure.output))]))
        if not any(failure.output for failure in found.failures):
            print(runner.tail())
        print(f"  (more in {runner.log})", flush=True)
    return found


def _parse():
    parser = argparse.ArgumentParser(prog="check", add_help=False)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--cuda", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("stages", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
