# SPDX-License-Identifier: Apache-2.0
"""JAX: jitted steps with gradients, random numbers, a scan, a convolution, sorting.

Usage: jax_jit.py [plain]
XLA makes CUDA graphs of what it can; with `plain` it launches kernel by kernel.
"""

import os
import sys

# Tuning by time is not reproducible, with or without detshare.
os.environ["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
if sys.argv[1:] == ["plain"]:
    os.environ["XLA_FLAGS"] += " --xla_gpu_enable_command_buffer="
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

from common import digest, skip  # noqa: E402

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    skip("no JAX here")
if jax.default_backend() != "gpu":
    skip("JAX has no GPU here")
STEPS = 2500


def loss(weights, x, key):
    for w in weights[:-1]:
        x = jax.nn.gelu(x @ w)
    x = x * jax.random.bernoulli(key, 0.9, x.shape)
    return jnp.mean((x @ weights[-1] - 1.0) ** 2)


@jax.jit
def step(weights, x, key):
    value, gradients = jax.value_and_grad(loss)(weights, x, key)
    return [w - 0.05 * g for w, g in zip(weights, gradients)], value


@jax.jit
def others(x):
    image = x.reshape(8, 16, 64, 16)[..., :8]
    kernel = jnp.ones((3, 3, 8, 8)) * 0.1
    convolved = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME",
                                             dimension_numbers=("NHWC", "HWIO", "NHWC"))
    scanned, _ = jax.lax.scan(lambda c, row: (jnp.tanh(c + row), None), x[0], x)
    return convolved, scanned, jnp.sort(x, axis=-1), (x.astype(jnp.bfloat16) @ x.T.astype(jnp.bfloat16))


def main():
    key = jax.random.PRNGKey(20)
    widths = [1024, 256, 256, 64]
    weights = [jax.random.normal(jax.random.fold_in(key, i), shape) * 0.05
               for i, shape in enumerate(zip(widths, widths[1:]))]
    x = jax.random.normal(key, (128, 1024))
    for i in range(STEPS):
        weights, value = step(weights, x, jax.random.fold_in(key, 100 + i))
        if i % 250 == 0:
            print(i, float(value), *map(digest, others(x + value)))
    print("weights", *map(digest, weights))


if __name__ == "__main__":
    main()
