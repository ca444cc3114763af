# SPDX-License-Identifier: Apache-2.0
"""PyTorch's profiler (CUPTI): it must see every kernel, and the results must not change."""

from common import digest, need_torch

torch = need_torch()
STEPS = 2500


def main():
    torch.manual_seed(18)
    a = torch.randn(512, 512, device="cuda")
    b = torch.eye(512, device="cuda")
    torch.mm(a, b)  # libraries load outside the profile
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(STEPS):
            b = (torch.mm(a, b) * 0.04).tanh() + 0.01
        torch.cuda.synchronize()
    events = profile.key_averages()
    for name in ("tanh", "gemm"):
        print(name, sum(event.count for event in events if name in event.key.lower()))
    print("time seen", sum(event.self_device_time_total for event in events) > 0)
    print("result", digest(b))


if __name__ == "__main__":
    main()
