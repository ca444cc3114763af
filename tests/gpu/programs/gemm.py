# SPDX-License-Identifier: Apache-2.0
"""84 half-precision products through cuBLAS and the same through cuBLASLt, again and again."""

from common import Check, need_torch

torch = need_torch()

SHAPES = [(1, 4096, 4096), (16, 4096, 4096), (33, 776, 1240), (64, 64, 64), (128, 512, 256), (256, 1024, 1024),
          (512, 512, 512), (1000, 1000, 1000), (1024, 4096, 1024), (1536, 1536, 1536), (2048, 2048, 2048),
          (4096, 4096, 4096), (4096, 1024, 8192), (8192, 1024, 512)]
ROUNDS = 12


def operand(rows, columns, transposed, dtype):
    if transposed:
        return torch.randn(columns, rows, device="cuda", dtype=dtype).t()
    return torch.randn(rows, columns, device="cuda", dtype=dtype)


def main():
    torch.manual_seed(11)
    products = []
    for m, n, k in SHAPES:
        for layout in ("nn", "nt", "tn"):
            for dtype in (torch.float16, torch.bfloat16):
                a, b = operand(m, k, layout[0] == "t", dtype), operand(k, n, layout[1] == "t", dtype)
                bias = torch.randn(n, device="cuda", dtype=dtype)
                products.append((f"{m}x{n}x{k} {layout} {str(dtype)[6:]}", a, b, bias))
    assert len(products) == 84
    check = Check(torch)
    for _ in range(ROUNDS):
        for library in ("cublas", "cublaslt"):
            torch.backends.cuda.preferred_blas_library(library)
            for name, a, b, bias in products:
                check(f"{library} {name}", a @ b)
        # A product with a bias goes through cuBLASLt, too, with an epilogue.
        for name, a, b, bias in products:
            check(f"bias {name}", torch.addmm(bias, a, b))
    check.report()


if __name__ == "__main__":
    main()
