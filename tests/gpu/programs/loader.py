# SPDX-License-Identifier: Apache-2.0
"""Data loading by worker processes and by threads, each with a stream of its own, beside training."""

import threading

from common import digest, need_torch

torch = need_torch()
THREADS, STEPS = 4, 700


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 2048

    def __getitem__(self, index):
        return torch.sin(torch.arange(256.0) * (index + 1))


def with_processes(pinned):
    model = torch.nn.Linear(256, 256).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(2):
        for x in torch.utils.data.DataLoader(Samples(), batch_size=32, num_workers=3, pin_memory=pinned):
            x = x.cuda(non_blocking=True)
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
    return digest(model.weight)


def with_threads():
    results = [None] * THREADS

    def work(number):
        generator = torch.Generator(device="cuda")
        generator.manual_seed(number)
        host = torch.arange(512.0 * 512).view(512, 512).sin().pin_memory()
        with torch.cuda.stream(torch.cuda.Stream()):
            t = torch.randn(512, 512, device="cuda", generator=generator)
            for _ in range(STEPS):
                t = (t @ host.cuda(non_blocking=True)).tanh()
            torch.cuda.current_stream().synchronize()
            results[number] = digest(t)

    running = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results


def main():
    torch.manual_seed(22)
    torch.set_num_threads(1)
    torch.zeros(1, device="cuda")  # the workers are forked after the first use
    print("processes", with_processes(False))
    print("processes, pinned", with_processes(True))
    print("threads", *with_threads())


if __name__ == "__main__":
    main()
