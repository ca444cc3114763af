# SPDX-License-Identifier: Apache-2.0
"""What the test programs share: hashes of results, and how to say that a program cannot run here."""

import hashlib
import sys


def skip(reason):
    """Ends the program the way tests/gpu/test_chaos.py knows as "cannot run here"."""
    print(reason)
    sys.exit(77)


def digest(array):
    """Hash of the bytes of a tensor or array (PyTorch, NumPy, JAX, CuPy)."""
    if hasattr(array, "detach"):
        import torch

        array = array.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    elif hasattr(array, "get"):
        array = array.get()
    import numpy

    return hashlib.sha256(numpy.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def need_torch():
    try:
        import torch
    except ImportError:
        skip("no PyTorch here")
    if not torch.cuda.is_available():
        skip("PyTorch has no CUDA device here")
    return torch


class Check:
    """Compares a result, on the GPU, with what the same computation gave the first time."""

    def __init__(self, torch):
        self.torch = torch
        self.first = {}
        self.different = torch.zeros((), dtype=torch.int64, device="cuda")

    def __call__(self, name, tensor):
        bits = tensor.detach().contiguous().view(-1).view(self.torch.uint8)
        if name in self.first:
            self.different += (bits != self.first[name]).sum()
        else:
            self.first[name] = bits.clone()

    def report(self):
        for name, bits in self.first.items():
            print(name, digest(bits) if bits.numel() <= 1 << 18 else self.weighed(bits))
        print("bytes that changed between rounds:", self.different.item())

    def weighed(self, bits):
        """For large results: every byte times a number of its own, summed on the GPU (integers: in any order)."""
        weights = self.torch.arange(1, bits.numel() + 1, device="cuda") * 0x9E3779B97F4A7C1 | 1
        return f"{((bits.long() + 1) * weights).sum().item() & (1 << 64) - 1:016x}"
