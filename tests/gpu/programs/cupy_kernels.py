# SPDX-License-Identifier: Apache-2.0
"""CuPy: kernels compiled at run time (RawKernel, elementwise, reduction), libraries, streams, graphs."""

from common import digest, skip

try:
    import cupy
except ImportError:
    skip("no CuPy here")
try:
    cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as error:
    skip(f"CuPy has no GPU here: {error}")
ROUNDS = 1500

RAW = cupy.RawKernel(r"""
extern "C" __global__ void mix(const float *x, float *y, unsigned n, unsigned round)
{
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        y[i] = y[i] * 0.75f + x[(i + round * 7919u) % n];
}
""", "mix")
ELEMENTWISE = cupy.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = x * x - y * 0.5f", "squares")
REDUCTION = cupy.ReductionKernel("float32 x", "float32 y", "x", "a > b ? a : b", "y = a", "-1e30f", "largest")


def main():
    n = 1 << 18
    generator = cupy.random.RandomState(21)
    x = generator.standard_normal(n, dtype=cupy.float32)
    y, z = cupy.zeros_like(x), None
    square = x[:65536].reshape(256, 256)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    parts = [cupy.zeros(4096, cupy.float32) for _ in streams]
    cupy.cuda.Device().synchronize()
    for i in range(ROUNDS):
        RAW((n // 256,), (256,), (x, y, cupy.uint32(n), cupy.uint32(i)))
        z = ELEMENTWISE(x, y)
        top = REDUCTION(z)
        for stream, part in zip(streams, parts):
            with stream:
                part += 1.5
                part *= 0.999
        if i % 100 == 0:
            print(i, digest(top), digest(square @ square), digest(cupy.fft.rfft(z[:4096])), digest(cupy.sort(z[:10000])))
    for stream in streams:
        stream.synchronize()
    print("result", digest(y), digest(z), *map(digest, parts), digest(cupy.cumsum(y.view(cupy.int32))))


if __name__ == "__main__":
    main()
