# SPDX-License-Identifier: Apache-2.0
"""torch.compile: kernels that Inductor makes with Triton, forwards and backwards."""

from common import Check, digest, need_torch

torch = need_torch()
STEPS = 1200


def pointwise(x):
    return ((x * x + 1).sin() * x.sigmoid()).softmax(-1).sum(-1)


def main():
    torch.manual_seed(17)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.LayerNorm(512),
                                torch.nn.Linear(512, 256)).cuda()
    weights = list(model.parameters())

    def step(x):
        for weight in weights:
            weight.grad = None
        loss = (torch.nn.functional.silu(model(x)) - x).square().mean()
        return loss

    compiled_pointwise, compiled_step = torch.compile(pointwise), torch.compile(step)
    x = torch.randn(128, 256, device="cuda")
    check = Check(torch)
    for _ in range(STEPS):
        check("pointwise", compiled_pointwise(x))
        loss = compiled_step(x)
        loss.backward()
        with torch.no_grad():
            torch._foreach_add_(weights, [weight.grad for weight in weights], alpha=-0.05)
    check.report()
    print("loss", loss.item(), "weights", *map(digest, weights))


if __name__ == "__main__":
    main()
