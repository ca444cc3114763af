# SPDX-License-Identifier: Apache-2.0
"""Small stand-ins for the programs, through the driver API alone: for the emulated GPU, to test what runs them."""
import ctypes
import hashlib
from pathlib import Path

import partition

PTX = Path(__file__).resolve().parents[3] / "gpu" / "kernels.ptx"
WORDS = 4096
# name -> (blocks that spin, for how many us, warm-up steps, steps of a request)
SHAPES = {"decode": (16, 200, 2, 4), "train": (132, 2000, 2, 1), "small": (12, 1000, 2, 1), "prefill": (132, 3000, 2, 1),
          "copy": (0, 0, 2, 1), "compute": (132, 1000, 2, 1)}


class Program:
    def __init__(self, name, groups):
        self.blocks, self.us, self.warmup, self.steps_each = SHAPES[name]
        self.cuda = cuda = partition.driver()
        context, module = ctypes.c_void_p(), ctypes.c_void_p()
        self.must(cuda.cuInit(0))
        self.must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self.must(cuda.cuCtxSetCurrent(context))
        self.must(cuda.cuModuleLoadData(ctypes.byref(module), PTX.read_bytes() + b"\0"))
        self.functions = {}
        for kernel in "spin_us", "reduce_sum":
            found = ctypes.c_void_p()
            self.must(cuda.cuModuleGetFunction(ctypes.byref(found), module, kernel.encode()))
            self.functions[kernel] = found
        self.stream = ctypes.c_void_p(partition.stream(*groups) if groups else None)
        self.input, self.output = self.memory(4 * WORDS), self.memory(4 * 64)
        self.seed, self.history = 0, []

    @staticmethod
    def must(result):
        partition.must(result, "a driver call")

    def memory(self, size):
        made = ctypes.c_uint64()
        self.must(self.cuda.cuMemAlloc_v2(ctypes.byref(made), ctypes.c_size_t(size)))
        return made

    def launch(self, kernel, blocks, *arguments):
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.cast(ctypes.pointer(a), ctypes.c_void_p) for a in arguments))
        self.must(self.cuda.cuLaunchKernel(self.functions[kernel], blocks, 1, 1, 256, 1, 1, 0, self.stream, pointers, None))

    def step(self):
        data = (ctypes.c_float * WORDS)(*((i * 37 + self.seed * 101) % 1009 for i in range(WORDS)))
        result = (ctypes.c_float * 64)()
        self.seed += 1
        self.must(self.cuda.cuMemcpyHtoDAsync_v2(self.input, data, ctypes.c_size_t(4 * WORDS), self.stream))
        if self.blocks:
            self.launch("spin_us", self.blocks, ctypes.c_uint32(self.us), ctypes.c_uint64(0))
        self.launch("reduce_sum", 64, self.input, self.output, ctypes.c_uint32(WORDS), ctypes.c_uint64(0))
        self.must(self.cuda.cuMemcpyDtoHAsync_v2(result, self.output, ctypes.c_size_t(4 * 64), self.stream))
        self.must(self.cuda.cuStreamSynchronize(self.stream))
        self.history.append(hashlib.sha256(bytes(result)).hexdigest()[:12])

    def new_request(self, number):
        self.seed = 1000 * number

    def reset(self):
        self.seed, self.history = 0, []

    def digests(self):
        return self.history


def make(name, groups):
    return Program(name, groups)


def facts():
    return {}
