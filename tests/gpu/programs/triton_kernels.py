# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the program's own: pointwise, a reduction, a product on the tensor cores."""

from common import Check, need_torch, skip

torch = need_torch()
try:
    import triton
    import triton.language as tl
except ImportError:
    skip("no Triton here")
ROUNDS = 1500


@triton.jit
def scale_add(x, y, out, n, a, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, a * tl.load(x + i, i < n) + tl.load(y + i, i < n), i < n)


@triton.jit
def softmax_rows(x, out, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * columns + i, i < columns, -float("inf"))
    row = tl.exp(row - tl.max(row, 0))
    tl.store(out + tl.program_id(0) * columns + i, row / tl.sum(row, 0), i < columns)


@triton.jit
def product(a, b, c, n, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for at in range(0, n, BLOCK):
        left = tl.load(a + rows[:, None] * n + at + k[None, :])
        total += tl.dot(left, tl.load(b + (at + k[:, None]) * n + columns[None, :]))
    tl.store(c + rows[:, None] * n + columns[None, :], total)


def main():
    torch.manual_seed(19)
    n = 1 << 20
    x, y, out = torch.randn(n, device="cuda"), torch.randn(n, device="cuda"), torch.empty(n, device="cuda")
    rows = torch.randn(2048, 1000, device="cuda")
    soft = torch.empty_like(rows)
    a, b = (torch.randn(512, 512, device="cuda", dtype=torch.float16) for _ in range(2))
    c = torch.empty(512, 512, device="cuda")
    check = Check(torch)
    for _ in range(ROUNDS):
        scale_add[(triton.cdiv(n, 1024),)](x, y, out, n, 1.5, BLOCK=1024)
        softmax_rows[(2048,)](rows, soft, 1000, BLOCK=1024)
        product[(8, 8)](a, b, c, 512, BLOCK=64)
        for name, result in (("scale_add", out), ("softmax", soft), ("product", c)):
            check(name, result)
    check.report()


if __name__ == "__main__":
    main()
