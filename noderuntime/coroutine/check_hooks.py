#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare hooks.def with cuda.h: name every driver call that takes or gives a stream, event, context, graph
or memory, by itself or somewhere inside a struct, and is neither in the table nor in unmapped.txt, which
says why it need not be.

Run by `make check` with DS_CPP (the preprocessor, with the path of cuda.h), DS_TABLE (hooks.def) and
DS_LIBRARY (the built library). Ends 0, or 1 with one line per finding.
"""
import os
import re
import shlex
import subprocess
import sys

FOLDER = os.path.dirname(os.path.realpath(__file__))


def table_version():
    """Of the newest headers that the table knows."""
    with open(os.path.join(FOLDER, "hooks.h")) as header:
        return int(re.search(r"^#define DS_TABLE_VERSION (\d+)", header.read(), re.M)[1])


TABLE_VERSION = table_version()


def preprocessed(include):
    source = f"#define __CUDA_API_VERSION_INTERNAL\n#include <{include}>\n"
    run = subprocess.run(shlex.split(os.environ["DS_CPP"]) + ["-P", "-x", "c", "-"],
                         input=source, capture_output=True, text=True, check=True)
    return re.sub(r"\s+", " ", run.stdout)


def with_paths(include):
    return subprocess.run(shlex.split(os.environ["DS_CPP"]) + ["-x", "c", "-"], input=f"#include <{include}>\n",
                          capture_output=True, text=True, check=True).stdout


def cuda_version():
    run = subprocess.run(shlex.split(os.environ["DS_CPP"]) + ["-P", "-x", "c", "-"],
                         input="#include <cuda.h>\nCUDA_VERSION\n", capture_output=True, text=True,
                         check=True)
    return int(run.stdout.split()[-1])


def functions(text):
    """Entry points and their parameter lists."""
    return dict(re.findall(r"CUresult (cu[A-Z]\w*) ?\(([^;]*?)\) ?;", text))


# What a call may take. Every opaque type of cuda.h is here, or the check does not know what it is about.
HANDLES = {
    "a stream": {"CUstream"},
    "an event": {"CUevent"},
    "a context": {"CUcontext", "CUgreenCtx", "CUdevResourceDesc"},
    "a graph": {"CUgraph", "CUgraphNode", "CUgraphDeviceNode", "CUgraphConditionalHandle"},
    "an executable graph": {"CUgraphExec"},
    "memory": {"CUdeviceptr", "CUdeviceptr_v1", "CUdeviceptr_v2", "CUarray", "CUmipmappedArray", "CUmemoryPool",
               "CUmemGenericAllocationHandle", "CUexternalMemory", "CUexternalSemaphore", "CUgraphicsResource"},
}
# Code is the primary context's and launched on any stream of it; the rest has nothing to do with streams.
OTHER_HANDLES = {"CUmodule", "CUfunction", "CUlibrary", "CUkernel", "CUtexref", "CUsurfref", "CUlinkState",
                 "CUuserObject", "CUeglStreamConnection", "CUasyncCallbackHandle", "CUcoredumpCallbackHandle",
                 "CUlogsCallbackHandle", "CUdevWorkqueueConfigResource", "CUcheckpointOperationHandle"}


def braced(text, start):
    """The end of the block whose brace opens at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return i
    raise ValueError("unbalanced braces")


def structs(text):
    """(names, the words inside) of every struct and union at file level, whatever is nested in it."""
    at, found = 0, []
    while match := re.compile(r"(typedef )?(?:struct|union)(?: __attribute__ ?\(\(.*?\)\))? ?(\w*) ?\{").search(text, at):
        end = braced(text, match.end() - 1)
        after = re.match(r"\s*([\w, *]*);", text[end + 1:]) if match[1] else None
        names = set(re.findall(r"\w+", after[1] if after else "")) | {match[2]} - {""}
        found.append((names, set(re.findall(r"\w+", text[match.end():end]))))
        at = end
    return found


def carriers(text, handles):
    """The handles, and every type that holds one, by any name it has."""
    types, size = set(handles), 0
    blocks, aliases = structs(text), re.findall(r"typedef (?:struct |union )?(\w+) \*? ?(\w+) ?;", text)
    while size != len(types):
        size = len(types)
        for names, inside in blocks:
            if inside & types:
                types |= names
        types |= {new for old, new in aliases if old in types}
    return types


def graphics(text):
    """Entry points of the headers beside cuda.h, which cannot be preprocessed without the graphics libraries'."""
    folders = {os.path.dirname(path) for path in re.findall(r'^# \d+ "(.*/cuda\.h)"', text, re.M)}
    known = {}
    for folder in folders:
        for name in ("cudaGL.h", "cudaEGL.h", "cudaVDPAU.h"):
            path = os.path.join(folder, name)
            if os.path.exists(path):
                code = re.sub(r"/\*.*?\*/|^ *#.*?$", " ", open(path).read(), flags=re.S | re.M)
                known |= dict(re.findall(r"CUresult CUDAAPI (cu[A-Z]\w*) ?\(([^;]*?)\) ?;", re.sub(r"\s+", " ", code)))
    return known


def unmapped(path):
    """Calls that need no mapping, each with the reason."""
    reason, found = None, {}
    for line in open(path):
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():
            found |= {name: reason for name in line.split()}
        else:
            reason = line.strip()
    return found


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
    return {line.split()[-1].split("@")[0] for line in run.stdout.splitlines() if line.split()[-2] != "A"}


class Headers:
    """What the headers say: entry points, those that take or give a handle, and what cuGetProcAddress knows."""

    def __init__(self):
        header = preprocessed("cuda.h")
        self.version = cuda_version()
        self.known = functions(header)
        self.everything = self.known | graphics(with_paths("cuda.h"))
        self.handed_out = typedef_versions(preprocessed("cudaTypedefs.h"))
        self.opaque = set(re.findall(r"typedef struct \w+ \* ?(\w+) ?;", header))
        self.carriers = {what: carriers(header, handles) for what, handles in HANDLES.items()}
        self.takers = {name: [what for what, types in self.carriers.items()
                              if types & set(re.findall(r"\w+", params))]
                       for name, params in self.everything.items()}
        self.n_takers = sum(map(bool, self.takers.values()))


def findings_about_headers(headers):
    findings = []
    for name in sorted(headers.opaque - set().union(*HANDLES.values()) - OTHER_HANDLES):
        if name.startswith("CU"):
            findings.append(f"{name} is a handle that this check does not know: say what it stands for")
    if sum("a stream" in what for what in headers.takers.values()) < 100 or headers.n_takers < 350:
        findings.append(f"only {headers.n_takers} calls with a handle found in cuda.h: is it parsed right?")
    return findings


def findings_about_table(headers, rows, left_alone):
    findings = []
    for name, what in sorted(headers.takers.items()):
        if what and name not in rows and name not in left_alone:
            findings.append(f"{name} takes {what[0]} and is not in the table")
        # What the program has as one executable are several: no call may take the handle for the thing.
        if "an executable graph" in what and name in left_alone:
            findings.append(f"{name} takes an executable graph and belongs into the table, not unmapped.txt")
    for name in sorted(left_alone):
        if name in rows:
            findings.append(f"{name} is in the table and in unmapped.txt")
        elif name in headers.everything and not headers.takers[name] and headers.version >= TABLE_VERSION:
            findings.append(f"{name} is in unmapped.txt, but takes nothing that could be mapped")
        elif name not in headers.everything and headers.version >= TABLE_VERSION:
            findings.append(f"{name} is in unmapped.txt and in no header")
    for name in sorted(rows):
        for suffix in ("_ptsz", "_ptds"):
            if name + suffix in headers.known and name + suffix not in rows:
                findings.append(f"{name}{suffix}, the per-thread twin of {name}, is not in the table")
    for name, (base, since, suffix, _) in sorted(rows.items()):
        declared = name in headers.everything or headers.version >= TABLE_VERSION
        if declared and since <= headers.version and (base, since, suffix) not in headers.handed_out:
            findings.append(f"{name}: cudaTypedefs.h knows no {base} of version {since}{suffix}")
    return findings


def findings_about_library(rows, library, have):
    nvml = {"nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"}  # nvml.c
    want = {name for name, row in rows.items() if row[3] != "PLAIN"} | {"dlsym"} | nvml
    return ([f"{name} is in the table and not exported by {library}" for name in sorted(want - have)] +
            [f"{name} is exported by {library} and not in the table" for name in sorted(have - want)])


def main():
    headers = Headers()
    rows = table(os.environ["DS_TABLE"])
    left_alone = unmapped(os.path.join(FOLDER, "unmapped.txt"))
    library = os.environ["DS_LIBRARY"]
    findings = (findings_about_headers(headers) + findings_about_table(headers, rows, left_alone) +
                findings_about_library(rows, library, exported(library)))
    for finding in findings:
        print("check_hooks:", finding)
    print(f"check_hooks: {headers.n_takers} calls of CUDA {headers.version} take a handle: {len(rows)} rows, "
          f"{len(left_alone)} calls left alone, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
