# SPDX-License-Identifier: Apache-2.0
"""A stream in a green context over some SM groups, for programs that partition the GPU by themselves."""
import ctypes

RESOURCE = ctypes.c_ubyte * 144  # CUdevResource
RESOURCE_SM, DEFAULT_STREAM = 1, 1
NON_BLOCKING = 1


def driver():
    return ctypes.CDLL("libcuda.so.1")


def must(result, call):
    if result != 0:
        raise RuntimeError(f"{call}: CUDA error {result}")


def split(cuda, device=0, group_sms=8):
    """(groups, remainder) of the GPU's SMs."""
    whole, rest, n = RESOURCE(), RESOURCE(), ctypes.c_uint(0)
    must(cuda.cuDeviceGetDevResource(device, ctypes.byref(whole), RESOURCE_SM), "cuDeviceGetDevResource")
    must(cuda.cuDevSmResourceSplitByCount(None, ctypes.byref(n), ctypes.byref(whole), None, 0, group_sms), "split")
    groups = (RESOURCE * n.value)()
    must(cuda.cuDevSmResourceSplitByCount(groups, ctypes.byref(n), ctypes.byref(whole), ctypes.byref(rest), 0, group_sms), "split")
    return list(groups), rest


def stream(first, last):
    """A CUstream in groups first..last-1; with the last group goes the remainder."""
    cuda = driver()
    groups, rest = split(cuda)
    chosen = groups[first:last] + ([rest] if last == len(groups) else [])
    described, green, made = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    must(cuda.cuDevResourceGenerateDesc(ctypes.byref(described), (RESOURCE * len(chosen))(*chosen), len(chosen)), "describe")
    must(cuda.cuGreenCtxCreate(ctypes.byref(green), described, 0, DEFAULT_STREAM), "cuGreenCtxCreate")
    must(cuda.cuGreenCtxStreamCreate(ctypes.byref(made), green, NON_BLOCKING, 0), "cuGreenCtxStreamCreate")
    return made.value
