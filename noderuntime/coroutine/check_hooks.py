#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare hooks.def with cuda.h: name every driver call that takes a stream and is not in the table.

Run by `make check` with DS_CPP (the preprocessor, with the path of cuda.h), DS_TABLE (hooks.def) and
DS_LIBRARY (the built library). Ends 0, or 1 with one line per finding.
"""
import os
import re
import shlex
import subprocess
import sys


def preprocessed(include):
    source = f"#define __CUDA_API_VERSION_INTERNAL\n#include <{include}>\n"
    run = subprocess.run(shlex.split(os.environ["DS_CPP"]) + ["-P", "-x", "c", "-"],
                         input=source, capture_output=True, text=True, check=True)
    return re.sub(r"\s+", " ", run.stdout)


def cuda_version():
    run = subprocess.run(shlex.split(os.environ["DS_CPP"]) + ["-P", "-x", "c", "-"],
                         input="#include <cuda.h>\nCUDA_VERSION\n", capture_output=True, text=True,
                         check=True)
    return int(run.stdout.split()[-1])


def functions(text):
    """Entry points and their parameter lists."""
    return dict(re.findall(r"CUresult (cu[A-Z]\w*) ?\(([^;]*?)\) ?;", text))


def stream_types(text):
    """CUstream, and every struct (by any name it has) that holds one."""
    types = {"CUstream"}
    for tag, body, name in re.findall(r"typedef struct (\w+) \{([^{}]*)\} (\w+) ?;", text):
        if re.search(r"\bCUstream \w+ ?;", body):
            types |= {tag, name}
    for _ in range(3):  # typedefs of typedefs
        for old, new in re.findall(r"typedef (?:struct )?(\w+) (\w+) ?;", text):
            if old in types:
                types.add(new)
    return types


def table(path):
    """Symbols of the table with the versions it gives for them."""
    text = re.sub(r"/\*.*?\*/", "", open(path).read(), flags=re.S)
    text = "\n".join(line for line in re.sub(r"\\\n", " ", text).split("\n")
                     if not line.startswith("#"))
    rows = {}
    pattern = (r"^DS_(STREAM|SYNC|SETTLE|FREE|SPECIAL|PLAIN)(_PT)?\("
               r"(?:[A-Z]+, )?\s*(\w+),\s*(\w+),\s*(\d+)(?:,\s*(\d+))?")
    for kind, twin, symbol, base, since, since_pt in re.findall(pattern, text, re.M):
        rows[symbol] = (base, int(since), "", kind)
        if twin:
            suffix = "_ptds" if kind in ("SYNC", "SETTLE") else "_ptsz"
            rows[symbol + suffix] = (base, int(since_pt), suffix, kind)
    return rows


def typedef_versions(text):
    """(base, version, twin suffix) of every entry point that cuGetProcAddress hands out."""
    return {(base, int(version), suffix or "") for base, version, suffix in
            re.findall(r"\(? ?\* ?PFN_(cu\w+?)_v(\d+)(_ptsz|_ptds)? ?\)", text)}


def exported(library):
    run = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True,
                         check=True)
    return {line.split()[-1] for line in run.stdout.splitlines()}


def main():
    header = preprocessed("cuda.h")
    known = functions(header)
    carriers = stream_types(header)
    rows = table(os.environ["DS_TABLE"])
    handed_out = typedef_versions(preprocessed("cudaTypedefs.h"))
    findings = []

    takers = {name for name, params in known.items()
              if carriers & set(re.findall(r"\w+", params))}
    if len(takers) < 100:
        findings.append(f"only {len(takers)} calls with a stream found in cuda.h: is it parsed right?")
    for name in sorted(takers - rows.keys()):
        findings.append(f"{name} takes a stream and is not in the table")
    for name in sorted(rows):
        for suffix in ("_ptsz", "_ptds"):
            if name + suffix in known and name + suffix not in rows:
                findings.append(f"{name}{suffix}, the per-thread twin of {name}, is not in the table")
    version = cuda_version()
    for name, (base, since, suffix, _) in sorted(rows.items()):
        if since <= version and (base, since, suffix) not in handed_out:
            findings.append(f"{name}: cudaTypedefs.h knows no {base} of version {since}{suffix}")

    library = os.environ["DS_LIBRARY"]
    want = {name for name, row in rows.items() if row[3] != "PLAIN"} | {"dlsym"}
    have = exported(library)
    for name in sorted(want - have):
        findings.append(f"{name} is in the table and not exported by {library}")
    for name in sorted(have - want):
        findings.append(f"{name} is exported by {library} and not in the table")

    for finding in findings:
        print("check_hooks:", finding)
    print(f"check_hooks: {len(takers)} calls of CUDA {version} take a stream, {len(rows)} rows, "
          f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
