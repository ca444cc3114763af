# SPDX-License-Identifier: Apache-2.0
"""How programs come to the driver: every way of finding it, every name and version, and drivers that are older."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coroutine_host import BUILD, EMUGPU, GPU, LIBRARY, NOT_PERMITTED, one_line, sanitizer_runtimes, sms_of

pytestmark = pytest.mark.skipif(not LIBRARY.exists(),
                                reason="DETSHARE_BUILD does not name a build (contrib/check sets it)")

DRIVER = EMUGPU / ".libs" / "libcuda.so.1"
PRELOADED = "libdetshare-cuda.so"


def exported(library):
    names = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    return {name for line in names.stdout.splitlines() if (name := line.split()[-1].split("@")[0]).startswith("cu")}


def look_up(host, experiment, preload, names=None, **more):
    done = subprocess.run([GPU / "lookup_program", experiment], capture_output=True, text=True, timeout=100,
                          input="\n".join(names or ()), env=host.environment(preload=preload, **more))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def substituted(lines):
    """What the library should make of the answers that the driver alone gives."""
    hooks = exported(LIBRARY)

    def one(line):
        return re.sub(r"(\S+) libcuda\.so\S*$",
                      lambda match: f"{match[1]} {PRELOADED}" if match[1] in hooks else match[0], line)

    return [re.sub(r"(\S+) libcuda\.so\S*( error \d)$", lambda match: f"{match[1]} {PRELOADED}{match[2]}"
                   if match[1] in hooks else match[0], one(line)) for line in lines]


def all_names():
    """What the driver exports, what the table has, and what cuGetProcAddress knows them by; and some that are not."""
    symbols = exported(DRIVER) | exported(LIBRARY)
    bases = {re.sub(r"(_v\d+)?(_ptsz|_ptds)?$", "", symbol) for symbol in symbols}
    return sorted(symbols | bases | {"cuNoSuchCall", "cuLaunchKernel_v9", "cu", "cuda"})


# Versions in which something changed: streams in green contexts, the first release of 12, calls with several forms.
@pytest.mark.parametrize("version", ["13050", "13000", "12080", "12050", "12040", "12000", "11040"])
def test_every_call_by_every_name_and_version(host, version):
    """The library answers for exactly those entry points that the driver has, and stands in for those of the table."""
    names = all_names()
    alone = look_up(host, "every", False, names, EMUGPU_CUDA_VERSION=version)
    inside = look_up(host, "every", True, names, EMUGPU_CUDA_VERSION=version)
    assert len(inside) == len(alone) > 50000
    differ = [(want, got) for want, got in zip(substituted(alone), inside) if want != got]
    assert differ == []
    assert sum(PRELOADED in line for line in inside) > 5000


@pytest.mark.parametrize("experiment", ["odd", "again", "versions"])
def test_every_way_to_the_driver(host, experiment):
    alone = look_up(host, experiment, False)
    assert look_up(host, experiment, True) == substituted(alone)


@pytest.mark.parametrize("experiment", ["again"])
def test_late_and_again_in_a_partition(host, runtime, experiment):
    granter = runtime(groups=(1,))
    alone = look_up(host, experiment, False)
    inside = look_up(host, experiment, True, DETSHARE_PORT=granter.path)
    assert inside == substituted(alone)
    assert len(granter.hellos) == 1


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="knows the number of membarrier() on x86_64 only")
@pytest.mark.parametrize("shared", [True, False])
def test_the_barrier_is_prepared_while_there_is_one_thread(host, shared):
    """Later the kernel takes its time for that. The barrier itself is refused to who has not prepared it."""
    barrier = "import ctypes; print(ctypes.CDLL(None, use_errno=True).syscall(324, 8, 0, 0), ctypes.get_errno())"
    port = {"DETSHARE_PORT": "/no/such/port"} if shared else {}
    done = host.run("/usr/bin/python3", "-c", barrier, ASAN_OPTIONS="detect_leaks=0", **port)
    assert done.stdout == ("0 0\n" if shared else f"-1 {errno.EPERM}\n")


def test_another_namespace_is_left_alone(host):
    """A driver in a namespace of its own has its own copy of everything; what is looked up in it is its own."""
    if sanitizer_runtimes():
        pytest.skip("the sanitizers bear no second namespace")
    alone = look_up(host, "namespaces", False)
    inside = look_up(host, "namespaces", True)
    assert alone[0] == inside[0] == "opened 1"
    assert inside == alone


def test_a_host_without_a_driver(host, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    alone = look_up(host, "missing", False, LD_LIBRARY_PATH=empty)
    if any("found" in line for line in alone):
        pytest.skip("there is a driver on this host")
    inside = look_up(host, "missing", True, LD_LIBRARY_PATH=empty)
    assert inside[:3] == alone[:3]
    # Which object the linker names as the one without the symbol is another: it had to be sent past ours.
    assert [re.sub(r"\S+: undefined", "undefined", line) for line in inside] == \
           [re.sub(r"\S+: undefined", "undefined", line) for line in alone]


INTERPOSER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
static int count;
void *dlsym(void *handle, const char *name)
{
	static void *(*next)(void *, const char *);
	if (!next)
		next = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", VERSION);
	if (name && name[0] == 'c' && name[1] == 'u')
		count++;
	return next(handle, name);
}
__attribute__((destructor)) static void end(void)
{
	if (!count)
		abort();
}
"""


@pytest.fixture(params=["GLIBC_2.2.5", "GLIBC_2.34"])
def interposer(request, tmp_path):
    """Another library that stands in front of dlsym, and finds the next one by version, as many do."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    (tmp_path / "interposer.c").write_text(INTERPOSER)
    library = tmp_path / "interposer.so"
    if subprocess.run([compiler, "-shared", "-fPIC", f'-DVERSION="{request.param}"', "-o", library,
                       tmp_path / "interposer.c", "-ldl"], check=False).returncode:
        pytest.skip("the C compiler makes no shared object")
    return library


@pytest.mark.parametrize("order", ["in front", "behind"])
def test_another_interposer_of_dlsym(host, runtime, interposer, order):
    """Programs are in their partition all the same, wherever it stands in the list."""
    if "asan" in " ".join(sanitizer_runtimes()):
        pytest.skip("AddressSanitizer must be the first in the list")
    libraries = [interposer, LIBRARY] if order == "in front" else [LIBRARY, interposer]
    alone = host.experiment("work", preload=False).stdout
    host.clear()
    granter = runtime(groups=(2,))
    inside = host.run(GPU / "coroutine_program", "work", runtime=granter, check=order == "in front",
                      LD_PRELOAD=" ".join(str(library) for library in libraries))
    assert inside.stdout == alone
    assert host.sms() <= sms_of((2,))
    assert granter.port().launches == 18
    # Behind us, it is passed by: it has counted nothing, and aborts at the end.
    assert (inside.returncode == 0) == (order == "in front")


# What a driver has only since a version, of what the library uses or stands in for.
NEWER_THAN = {
    12050: ["cuMemBatchDecompressAsync", "cuMemcpyBatchAsync", "cuEventElapsedTime_v2", "cuStreamGetDevice",
            "cuCtxSynchronize_v2", "cuGreenCtxGetId"],
    12040: ["cuStreamGetCtx_v2", "cuCtxRecordEvent", "cuCtxWaitEvent", "cuGreenCtxStreamCreate", "cuCtxCreate_v4"],
    12020: ["cuGreenCtxCreate", "cuGreenCtxDestroy", "cuCtxFromGreenCtx", "cuDeviceGetDevResource",
            "cuDevSmResourceSplitByCount", "cuDevResourceGenerateDesc", "cuStreamGetGreenCtx",
            "cuStreamBeginCaptureToGraph", "cuGraphAddNode_v2", "cuFuncGetName"],
}


def older_driver(directory, version):
    """The emulated driver without what is newer: the names are spoilt in its table of symbols."""
    text = DRIVER.read_bytes()
    for newest, symbols in NEWER_THAN.items():
        for symbol in symbols if newest >= version else ():
            for name in (symbol, symbol + "_ptsz"):
                text = text.replace(b"\0" + name.encode() + b"\0", b"\0xx" + name[2:].encode() + b"\0")
    directory.mkdir()
    (directory / "libcuda.so.1").write_bytes(text)
    return {"LD_LIBRARY_PATH": directory, "EMUGPU_CUDA_VERSION": version}


def test_the_oldest_driver_that_works(host, runtime, tmp_path):
    """12.5, without anything newer: everything is as with the newest."""
    older = older_driver(tmp_path / "driver", 12050)
    for program, experiments in (("coroutine_program", ("work", "order", "properties", "graphs", "reset")),
                                 ("context_program", ("stack", "settings", "work", "green"))):
        for experiment in experiments:
            alone = host.run(GPU / program, experiment, preload=False, **older)
            inside = host.run(GPU / program, experiment, runtime=runtime(groups=(0, 1, 2, 3, 4)),
                              DETSHARE_CHAOS="2", **older)
            assert inside.stdout == alone.stdout


@pytest.mark.parametrize("version, called", [(12040, "12.4"), (12020, "12.2")])
def test_a_driver_that_is_too_old(host, runtime, tmp_path, version, called):
    """Says so once, and refuses or passes through, as it is told."""
    older = older_driver(tmp_path / "driver", version)
    alone = host.run(GPU / "coroutine_program", "work", preload=False, **older)
    refused = host.run(GPU / "coroutine_program", "work", runtime=runtime(), **older)
    assert refused.stdout == f'{{"retain": {NOT_PERMITTED}}}\n'
    assert one_line(refused.stderr, "may not use the GPU", f"CUDA {called}", "12.5 or newer")
    host.clear()
    free = host.run(GPU / "coroutine_program", "work", runtime=runtime(), DETSHARE_REQUIRED="0", **older)
    assert free.stdout == alone.stdout
    assert one_line(free.stderr, "whole GPU", f"CUDA {called}", "12.5 or newer")
    assert len(host.sms()) > len(sms_of((0, 1)))
    own = host.run(GPU / "context_program", "threads", runtime=runtime(), DETSHARE_REQUIRED="0", **older)
    assert own.stdout == host.run(GPU / "context_program", "threads", preload=False, **older).stdout
    assert host.run(GPU / "coroutine_program", "without-cuda", runtime=runtime(), **older).stderr == ""


def test_a_set_uid_program_is_left_alone(host, tmp_path_factory):
    """The linker preloads nothing into it, and it runs as if there were nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a set-uid program")
    folder = tmp_path_factory.mktemp("setuid")
    for above in (folder, *list(folder.parents)[:3]):
        above.chmod(0o755)
    program = folder / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
    maps = [subprocess.run([one, "/proc/self/maps"], capture_output=True, text=True, user=65534, check=False,
                           env=host.environment()) for one in ("/bin/cat", program)]
    if PRELOADED not in maps[0].stdout or maps[1].returncode:
        pytest.skip("another user cannot load the library from here, or set-uid programs do not run here")
    assert PRELOADED not in maps[1].stdout


def test_a_statically_linked_program_is_left_alone(host, tmp_path):
    compiler = shutil.which("cc")
    (tmp_path / "static.c").write_text("int main(void) { return 7; }\n")
    if not compiler or subprocess.run([compiler, "-static", "-o", tmp_path / "static", tmp_path / "static.c"],
                                      capture_output=True, check=False).returncode:
        pytest.skip("no statically linked program can be made here")
    assert host.run(tmp_path / "static", check=False).returncode == 7




# Stands in front of all and tells what the CUDA runtime asks for and gets.
TRACER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
typedef int get(const char *, void **, int, unsigned long, int *);
static get *real;
static int traced(const char *name, void **function, int version, unsigned long flags, int *status)
{
	int result = real(name, function, version, flags, status);
	Dl_info info = {0};
	if (!result && *function)
		dladdr(*function, &info);
	fprintf(stderr, "%s %d %lu = %d: %s %s\n", name, version, flags, result,
		info.dli_sname ? info.dli_sname : "none",
		info.dli_fname ? strrchr(info.dli_fname, '/') + 1 : "none");
	if (!strcmp(name, "cuGetProcAddress") && version >= 12000)
		*function = (void *)traced;
	return result;
}
void *dlsym(void *handle, const char *name)
{
	static void *(*next)(void *, const char *);
	void *found;
	if (!next)
		next = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", VERSION);
	found = next(handle, name);
	if (!name || strcmp(name, "cuGetProcAddress_v2") || !found)
		return found;
	real = (get *)found;
	return (void *)traced;
}
"""

RUNTIME_PROGRAM = """
#include <cuda_runtime_api.h>
#include <stdio.h>
int main(void)
{
	int n = -1, version = -1;
	void *memory;
	printf("%d", cudaDriverGetVersion(&version));
	printf(" %d\\n", version);
	printf("%d", cudaGetDeviceCount(&n));
	printf(" %d\\n", n);
	printf("%d\\n", cudaMalloc(&memory, 1024));
	printf("%d\\n", cudaDeviceSynchronize());
	return 0;
}
"""


@pytest.fixture(params=["static", "shared"])
def runtime_program(request, tmp_path):
    """A program with the CUDA runtime in it; one that needs no compiler of NVIDIA's."""
    makefile = (BUILD / "noderuntime" / "coroutine" / "Makefile").read_text()
    headers = re.search(r"^CUDA_CPPFLAGS = .*?(/\S+)$", makefile, re.M)
    root = Path(headers[1]).resolve().parent if headers else Path("/usr/local/cuda")
    name = {"static": "libcudart_static.a", "shared": "libcudart.so*"}[request.param]
    found = [path for folder in ("lib64", "lib", "targets/x86_64-linux/lib") for path in sorted(root.glob(f"{folder}/{name}"))]
    if not found or not (root / "include" / "cuda_runtime_api.h").exists() or not shutil.which("cc"):
        pytest.skip(f"no {name} beside the CUDA headers, or no C compiler")
    (tmp_path / "program.c").write_text(RUNTIME_PROGRAM)
    made = subprocess.run(["cc", "-I", root / "include", "-o", tmp_path / "program", tmp_path / "program.c", found[0],
                           f"-Wl,-rpath,{found[0].parent}", "-ldl", "-lpthread", "-lrt", "-lm"],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot be linked here: {made.stderr.splitlines()[-1]}")
    return tmp_path / "program"


def test_the_cuda_runtime_gets_the_stand_ins(host, runtime_program, tmp_path):
    """
    Static or shared, it asks cuGetProcAddress for all it uses, and gets a stand-in for each call of the table. On
    the emulated GPU it gets no further: the driver's private tables are not there.
    """
    if sanitizer_runtimes():
        pytest.skip("the sanitizers must be the first in the list")
    (tmp_path / "tracer.c").write_text(TRACER)
    subprocess.run(["cc", "-shared", "-fPIC", '-DVERSION="GLIBC_2.34"', "-o", tmp_path / "tracer.so",
                    tmp_path / "tracer.c", "-ldl"], check=True)
    tracer = tmp_path / "tracer.so"
    alone = host.run(runtime_program, preload=False, LD_PRELOAD=tracer)
    inside = host.run(runtime_program, LD_PRELOAD=f"{tracer} {LIBRARY}")
    assert inside.stdout == alone.stdout
    assert inside.stderr.splitlines() == substituted(alone.stderr.splitlines())
    assert inside.stderr.count(PRELOADED) > 100
    assert "cuLaunchKernel 4000 0 = 0: cuLaunchKernel libdetshare-cuda.so" in inside.stderr
