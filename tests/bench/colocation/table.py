# SPDX-License-Identifier: Apache-2.0
"""What is printed. Pure."""
from .figures import alone_of, sums


def number(value, digits=2):
    return "-" if value is None else f"{value:.{digits}f}"


def verdict(entry):
    if entry["reproducible"] is False:
        return "varies alone"
    return {True: "as alone", False: "DIFFERENT", None: "too few"}[entry["equal"]]


def lines(results, entries):
    """The whole table as text."""
    out = ["alone on the whole GPU:"]
    for name, alone in sorted(alone_of(results).items()):
        out.append(f"  {name:10} {number(alone['rate'], 1):>9}/s   step p50 {number(alone.get('step_p50_ms'), 3)} p99 "
                   f"{number(alone.get('step_p99_ms'), 3)} ms" + ("" if alone["reproducible"] else "   NOT REPRODUCIBLE"))
    head = (f"{'row':18} {'program':8} {'rate':>6} {'p50':>6} {'p99':>6} {'worst':>7} {'first p99':>9} {'request p99':>11} "
            f"{'runs':>4}  outputs")
    total = sums(entries)
    for group in dict.fromkeys(entry["group"] for entry in entries):
        out += ["", f"{group}, relative to alone:", head]
        last = None
        for entry in [e for e in entries if e["group"] == group]:
            name = entry["row"] if entry["row"] != last else ""
            out.append(f"{name:18} {entry['program']:8} {number(entry.get('rate_rel')):>6} {number(entry.get('step_p50_ms_rel')):>6} "
                       f"{number(entry.get('step_p99_ms_rel')):>6} {number(entry.get('worst_rel')):>7} "
                       f"{number(entry.get('first_p99_ms_rel')):>9} {number(entry.get('request_p99_ms_rel')):>11} "
                       f"{entry['runs']:>4}  {verdict(entry)}")
            last = entry["row"]
        out += [f"  sum of rates, {row}: {value:.2f}" for (row, of), value in total.items() if of == group]
    failed = [result for result in results if not result["ok"]]
    out += [""] + [f"FAILED {result['key']}: {result['why']}" for result in failed] if failed else []
    return out
