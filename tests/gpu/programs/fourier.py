# SPDX-License-Identifier: Apache-2.0
"""cuFFT: lengths of many kinds (powers of two, primes), one to three dimensions, both precisions."""

from common import Check, need_torch

torch = need_torch()
ROUNDS = 150


def main():
    torch.manual_seed(13)
    inputs = {n: torch.randn(64, n, device="cuda") for n in (128, 1000, 1009, 4096, 65536)}
    image, volume = torch.randn(8, 256, 320, device="cuda"), torch.randn(48, 64, 80, device="cuda")
    double = torch.randn(32, 2187, device="cuda", dtype=torch.complex128)
    check = Check(torch)
    for _ in range(ROUNDS):
        for n, x in inputs.items():
            there = torch.fft.rfft(x)
            check(f"r2c {n}", torch.view_as_real(there))
            check(f"c2r {n}", torch.fft.irfft(there, n))
        check("2d", torch.view_as_real(torch.fft.rfft2(image)))
        check("3d", torch.view_as_real(torch.fft.fftn(volume)))
        check("double", torch.view_as_real(torch.fft.fft(double)))
    check.report()


if __name__ == "__main__":
    main()
