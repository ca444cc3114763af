# SPDX-License-Identifier: Apache-2.0
"""check_hooks.py finds what is missing from the table of driver calls, and names it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
FOLDER = TOP / "noderuntime" / "coroutine"
BUILD = Path(os.environ.get("DETSHARE_BUILD", "."))
LIBRARY = BUILD / "noderuntime" / "coroutine" / ".libs" / "libdetshare-cuda.so"

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")


def make_variable(name):
    return re.search(rf"^{name} = (.*)$", (BUILD / "noderuntime" / "coroutine" / "Makefile").read_text(),
                     re.M).group(1)


def cuda_flags():
    """The headers that it is about: named, or those of the build."""
    named = os.environ.get("DETSHARE_CUDA_INCLUDE")
    return f"-isystem {named}" if named else make_variable("CUDA_CPPFLAGS")


def check(table, library=LIBRARY, headers=None):
    flags = f"-isystem {headers}" if headers else cuda_flags()
    environment = dict(os.environ, DS_TABLE=str(table), DS_LIBRARY=str(library), DS_CPP=f"cpp {flags}")
    return subprocess.run([sys.executable, FOLDER / "check_hooks.py"], env=environment, text=True,
                          capture_output=True)


@pytest.fixture
def table(tmp_path):
    """A copy of the table without the rows of these calls."""
    def without(*symbols):
        text = (FOLDER / "hooks.def").read_text()
        for symbol in symbols:
            text, n = re.subn(rf"^DS_\w+\((?:[A-Z]+, )?{symbol},.*?\n(?=\n|DS_|/\*|#)", "", text,
                              flags=re.M | re.S)
            assert n == 1, symbol
        path = tmp_path / "hooks.def"
        path.write_text(text)
        return path
    return without


def test_the_table_is_complete(table):
    found = check(table())
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("symbol, twin", [
    ("cuLaunchKernel", "cuLaunchKernel_ptsz"),
    ("cuStreamGetId", "cuStreamGetId_ptsz"),
    ("cuStreamCreate", None),                             # gives a stream
    ("cuLaunchKernelEx", "cuLaunchKernelEx_ptsz"),        # the stream is in a struct
    ("cuGraphInstantiateWithParams", "cuGraphInstantiateWithParams_ptsz"),
    ("cuLaunchCooperativeKernelMultiDevice", None),
    ("cuMemcpyHtoDAsync", None),                          # an old form, which libcuda still exports
])
def test_a_missing_call_is_named(checker, table, symbol, twin):
    newest_headers(checker)
    found = check(table(symbol))
    assert found.returncode == 1
    for name in filter(None, (symbol, twin)):
        assert f"{name} takes a stream and is not in the table" in found.stdout


@pytest.mark.parametrize("symbol, what", [
    ("cuEventSynchronize", "an event"),
    ("cuCtxSynchronize_v2", "a context"),
    ("cuGraphAddKernelNode_v2", "a context"),              # in the node's parameters
    ("cuGraphAddNode_v2", "an event"),                     # in a union of the parameters of all nodes
    ("cuArrayDestroy", "memory"),
    ("cuMemcpy3D_v2", "memory"),                           # in the parameters of the copy
])
def test_a_missing_call_with_another_handle_is_named(checker, table, symbol, what):
    newest_headers(checker)
    found = check(table(symbol))
    assert found.returncode == 1
    assert f"{symbol} takes {what} and is not in the table" in found.stdout


@pytest.fixture(scope="module")
def checker():
    """check_hooks.py as a module, with what it finds in the headers: to ask it many times."""
    spec = importlib.util.spec_from_file_location("check_hooks", FOLDER / "check_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    os.environ["DS_CPP"] = f"cpp {cuda_flags()}"
    module.headers = module.Headers()
    module.rows = module.table(FOLDER / "hooks.def")
    module.left_alone = module.unmapped(FOLDER / "unmapped.txt")
    return module


def newest_headers(checker):
    if checker.headers.version < checker.TABLE_VERSION:
        pytest.skip(f"the headers are of CUDA {checker.headers.version}, the table is of {checker.TABLE_VERSION}")


def names(findings, symbol):
    return [finding for finding in findings if finding.split()[0].rstrip(",") == symbol]


def test_every_single_row_is_missed(checker):
    """Without any one of them the check fails and names it; twins by their own name."""
    newest_headers(checker)
    exported = {name for name, row in checker.rows.items() if row[3] != "PLAIN"} | {"dlsym"}
    taking = 0
    for symbol in checker.rows:
        rows = {name: row for name, row in checker.rows.items() if name != symbol}
        found = names(checker.findings_about_table(checker.headers, rows, checker.left_alone), symbol)
        if checker.headers.takers.get(symbol):
            assert any("takes" in finding for finding in found), symbol
            taking += 1
        else:
            found = names(checker.findings_about_library(rows, "the library", exported), symbol)
            assert found, symbol
    assert taking > 250


def test_every_call_that_is_left_alone_is_missed(checker):
    newest_headers(checker)
    for symbol in checker.left_alone:
        left_alone = {name: why for name, why in checker.left_alone.items() if name != symbol}
        found = names(checker.findings_about_table(checker.headers, checker.rows, left_alone), symbol)
        assert any("takes" in finding for finding in found), symbol


@pytest.mark.parametrize("struct, what", [
    ("CUlaunchAttributeValue", "an event"),          # programmatic and launch completion events
    ("CUlaunchAttribute", "an event"),
    ("CUlaunchConfig", "a stream"),
    ("CUlaunchConfig", "an event"),                  # in its attributes
    ("CUDA_GRAPH_INSTANTIATE_PARAMS", "a stream"),   # hUploadStream
    ("CUDA_LAUNCH_PARAMS", "a stream"),              # an array of them is a launch
    ("CUDA_KERNEL_NODE_PARAMS", "a context"),
    ("CUDA_BATCH_MEM_OP_NODE_PARAMS", "a context"),
    ("CUDA_MEMCPY_NODE_PARAMS", "a context"),
    ("CUDA_MEMSET_NODE_PARAMS_v2", "a context"),
    ("CUgraphNodeParams", "a context"),
    ("CUgraphNodeParams", "an event"),
    ("CUDA_CHILD_GRAPH_NODE_PARAMS", "a graph"),
    ("CUDA_CONDITIONAL_NODE_PARAMS", "a context"),
    ("CUgraphExecUpdateResultInfo", "a graph"),
    ("CUDA_MEMCPY3D_PEER", "a context"),
    ("CUstreamBatchMemOpParams", "memory"),
    ("CUdevResource", None),                         # SMs, and no handle
])
def test_handles_are_found_inside_structs(checker, struct, what):
    newest_headers(checker)
    if what:
        assert struct in checker.headers.carriers[what]
    else:
        assert not any(struct in types for types in checker.headers.carriers.values())


@pytest.fixture
def headers(tmp_path):
    """The headers with something that no driver has yet."""
    def with_more(text):
        (tmp_path / "cuda.h").write_text(f'#include_next <cuda.h>\n{text}\n')
        return f"{tmp_path} {cuda_flags()}"
    return with_more


@pytest.mark.parametrize("text, finding", [
    ("CUresult cuNewCall(CUevent *event);", "cuNewCall takes an event and is not in the table"),
    ("CUresult cuNewCall(CUmemoryPool pool);", "cuNewCall takes memory and is not in the table"),
    ("typedef struct CUnew_st { union { int a; struct { CUlaunchAttribute *b; } c; } d; } CUnew_v1;"
     "typedef CUnew_v1 CUnew; CUresult cuNewCall(const CUnew *parameters);",
     "cuNewCall takes an event and is not in the table"),
    ("typedef struct CUnewQueue_st *CUnewQueue;", "CUnewQueue is a handle that this check does not know"),
])
def test_what_a_new_driver_brings_is_named(table, headers, text, finding):
    found = check(table(), headers=headers(text))
    assert found.returncode == 1
    assert finding in found.stdout


def test_a_missing_twin_is_named(table, tmp_path):
    path = table()
    text = path.read_text().replace("DS_SYNC_PT(cuMemcpy, cuMemcpy, 4000, 7000,",
                                    "DS_SYNC(cuMemcpy, cuMemcpy, 4000,")
    path.write_text(text)
    found = check(path)
    assert found.returncode == 1
    assert "cuMemcpy_ptds, the per-thread twin of cuMemcpy, is not in the table" in found.stdout


def test_a_wrong_version_is_named(table):
    path = table()
    path.write_text(path.read_text().replace("DS_STREAM_PT(KERNEL, cuLaunchKernel, cuLaunchKernel, 4000,",
                                             "DS_STREAM_PT(KERNEL, cuLaunchKernel, cuLaunchKernel, 4010,"))
    found = check(path)
    assert found.returncode == 1
    assert "cudaTypedefs.h knows no cuLaunchKernel of version 4010" in found.stdout


def test_only_the_table_is_exported(checker):
    symbols = checker.exported(LIBRARY)
    assert "dlsym" in symbols and "cuLaunchKernel" in symbols
    assert all(name == "dlsym" or name.startswith(("cu", "nvmlDeviceGetMemoryInfo")) for name in symbols)


def test_dlsym_has_the_versions_of_the_c_library():
    text = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], text=True, capture_output=True,
                          check=True).stdout
    assert {line.split()[-1] for line in text.splitlines() if " dlsym" in line} in (
        {"dlsym@@GLIBC_2.34", "dlsym@GLIBC_2.2.5"}, {"dlsym@@GLIBC_2.34", "dlsym@GLIBC_2.17"})


def test_needs_the_c_library_alone():
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], text=True, capture_output=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert set(needed) <= {"libc.so.6", "libdl.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"} or any(
        "san" in name for name in needed)
