# SPDX-License-Identifier: Apache-2.0
"""Many ways in which PyTorch uses a GPU, each with a hash of its result: equal output means equal bits."""

import hashlib
import threading

import torch

DEVICE = "cuda"


def digest(tensor):
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:12]


def streams():
    a = torch.randn(2048, 2048, device=DEVICE)
    first, second, event = torch.cuda.Stream(), torch.cuda.Stream(priority=-1), torch.cuda.Event()
    first.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(first):
        b = a @ a
        event.record(first)
    with torch.cuda.stream(second):
        second.wait_event(event)
        c = b.float().softmax(-1)
    torch.cuda.default_stream().wait_stream(second)
    return digest(c)


def gemm(n):
    x = torch.randn(n, n, device=DEVICE, dtype=torch.float16)
    y = torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16)
    return digest(x @ x), digest(y @ y)


def convolution():
    x = torch.randn(8, 32, 64, 64, device=DEVICE, dtype=torch.float16)
    w = torch.randn(64, 32, 3, 3, device=DEVICE, dtype=torch.float16)
    return digest(torch.nn.functional.conv2d(x, w, padding=1))


def fourier():
    return digest(torch.view_as_real(torch.fft.rfft2(torch.randn(64, 256, 256, device=DEVICE))))


def graph():
    model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(8)]).to(DEVICE).half().eval()
    x = torch.randn(4, 512, device=DEVICE, dtype=torch.float16)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            y = model(x)
        for _ in range(20):
            x.copy_(y * 0.5 + x)
            captured.replay()
    return digest(y)


def pinned():
    there = torch.randn(1 << 20).pin_memory().to(DEVICE, non_blocking=True)
    back = torch.empty(1 << 20).pin_memory()
    back.copy_(there * 2, non_blocking=True)
    torch.cuda.synchronize()
    return digest(back)


def threads():
    results = {}

    def work(number):
        generator = torch.Generator(device=DEVICE)
        generator.manual_seed(number)
        with torch.cuda.stream(torch.cuda.Stream()):
            t = torch.randn(512, 512, device=DEVICE, generator=generator)
            for _ in range(50):
                t = (t @ t).tanh()
            torch.cuda.current_stream().synchronize()
            results[number] = digest(t)

    running = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return [results[number] for number in sorted(results)]


def profiler():
    a = torch.randn(512, 512, device=DEVICE)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(5):
            a = (a @ a).tanh()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if "tanh" in event.key)


def loader():
    data = torch.utils.data.TensorDataset(torch.arange(64.0).view(-1, 1))
    total = torch.zeros(1, device=DEVICE)
    for (x,) in torch.utils.data.DataLoader(data, batch_size=8, num_workers=2, pin_memory=True):
        total += x.to(DEVICE, non_blocking=True).sum()
    return total.item()


def compiled():
    return digest(torch.compile(lambda x: (x * x + 1).sin().sum(-1))(torch.randn(1024, 1024, device=DEVICE)))


def main():
    torch.manual_seed(3)
    print("sms", torch.cuda.get_device_properties(0).multi_processor_count)
    for n in (64, 512, 1536, 4096):
        print("gemm", n, *gemm(n))
    for what in (streams, convolution, fourier, graph, pinned, threads, profiler, loader, compiled):
        print(what.__name__, what())


if __name__ == "__main__":
    main()
