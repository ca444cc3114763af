# SPDX-License-Identifier: Apache-2.0
"""Convolutions through cuDNN, forwards and backwards, and what stands around them in a network."""

from common import Check, need_torch

torch = need_torch()
F = torch.nn.functional
ROUNDS = 60


def case(name, operation, x_shape, w_shape, dtype, channels_last=False, **options):
    x = torch.randn(*x_shape, device="cuda", dtype=dtype)
    w = torch.randn(*w_shape, device="cuda", dtype=dtype) * 0.1
    if channels_last:
        x, w = (t.to(memory_format=torch.channels_last) for t in (x, w))
    return name, operation, x.requires_grad_(), w.requires_grad_(), options


def main():
    torch.manual_seed(12)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    cases = [
        case("3x3 half", F.conv2d, (8, 32, 64, 64), (64, 32, 3, 3), half, padding=1),
        case("3x3 half nhwc", F.conv2d, (8, 64, 56, 56), (64, 64, 3, 3), half, True, padding=1),
        case("1x1 bfloat nhwc", F.conv2d, (8, 128, 28, 28), (256, 128, 1, 1), brain, True),
        case("7x7 stride 2", F.conv2d, (4, 3, 112, 112), (64, 3, 7, 7), single, stride=2, padding=3),
        case("grouped", F.conv2d, (4, 64, 28, 28), (64, 16, 3, 3), half, padding=1, groups=4),
        case("transposed", F.conv_transpose2d, (4, 32, 28, 28), (32, 16, 4, 4), half, stride=2, padding=1),
        case("1d", F.conv1d, (8, 64, 512), (64, 64, 5), brain, padding=2),
        case("3d", F.conv3d, (2, 16, 8, 28, 28), (16, 16, 3, 3, 3), half, padding=1),
    ]
    check = Check(torch)
    for _ in range(ROUNDS):
        for name, operation, x, w, options in cases:
            x.grad = w.grad = None
            y = operation(x, w, **options)
            y = F.relu(F.batch_norm(y, None, None, training=True))
            y.float().square().mean().backward()
            for part, tensor in (("y", y), ("dx", x.grad), ("dw", w.grad)):
                check(f"{name} {part}", tensor)
    check.report()


if __name__ == "__main__":
    main()
