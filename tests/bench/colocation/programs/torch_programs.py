# SPDX-License-Identifier: Apache-2.0
"""The programs, in PyTorch. Each keeps a number for every step that depends on all bits of its output."""
import os

# Before CUDA is used: products whose result does not depend on which stream of which process is first.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import partition  # noqa: E402

HISTORY = 1 << 16


class Block(nn.Module):
    """A transformer's layer; with keys and values of earlier tokens if they are given."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x, cache=None):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Program:
    """One with a stream, a history of digests, and steps that end with a synchronisation."""

    warmup, steps_each = 4, 1

    def __init__(self, groups):
        self.stream = torch.cuda.ExternalStream(partition.stream(*groups)) if groups else torch.cuda.current_stream()
        with torch.cuda.stream(self.stream):
            torch.manual_seed(11)
            self.history = torch.zeros(HISTORY, dtype=torch.int64, device="cuda")
            self.at = torch.zeros(1, dtype=torch.int64, device="cuda")
            self.build()
        self.stream.synchronize()

    def note(self, *outputs):
        """Every bit counts, in whatever order they are added up: they are integers."""
        total = 0
        for number, output in enumerate(outputs, 1):
            bits = output.detach().view(torch.int16 if output.element_size() == 2 else torch.int32).to(torch.int64).flatten()
            weights = torch.arange(bits.numel(), device="cuda") % 8191 + number
            total = total + (bits * weights).sum()
        self.history.index_copy_(0, self.at % HISTORY, total.view(1))
        self.at += 1

    def capture(self, body):
        """`body` as a CUDA graph."""
        with torch.cuda.stream(self.stream):
            side = self.stream if self.stream != torch.cuda.default_stream() else torch.cuda.Stream()
            side.wait_stream(self.stream)
            with torch.cuda.stream(side):
                for _ in range(3):
                    body()
            self.stream.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=side):
                body()
        return graph

    def step(self):
        with torch.cuda.stream(self.stream):
            self.body()
        self.stream.synchronize()

    def new_request(self, number):
        """Programs that only go on do nothing here."""

    def reset(self):
        """After the warm-up: what follows must be the same whatever that was."""
        with torch.cuda.stream(self.stream):
            self.at.zero_()
            self.restart()
        self.stream.synchronize()

    def restart(self):
        pass

    def digests(self):
        return self.history[:min(HISTORY, int(self.at.item()))].tolist()


class Decode(Program):
    """A language model of 1.2 billion parameters, one token at a time, each a replay of one graph."""

    steps_each = 16

    @torch.no_grad()
    def build(self):
        width, heads, layers, context = 2048, 16, 24, 512
        self.layers = nn.ModuleList([Block(width, heads) for _ in range(layers)]).to("cuda", torch.bfloat16).eval()
        self.cache = [torch.randn(2, 1, heads, context, width // heads, device="cuda", dtype=torch.bfloat16) for _ in range(layers)]
        self.prompts = torch.randn(64, 1, 1, width, device="cuda", dtype=torch.bfloat16)
        self.token = self.prompts[0].clone()
        self.graph = self.capture(self.one)

    @torch.no_grad()
    def one(self):
        x = self.token
        for layer, cache in zip(self.layers, self.cache):
            x = layer(x, cache)
        self.note(x)
        self.token.copy_(functional.layer_norm(x, x.shape[-1:]))

    def body(self):
        self.graph.replay()

    @torch.no_grad()
    def new_request(self, number):
        with torch.cuda.stream(self.stream):
            self.token.copy_(self.prompts[number % len(self.prompts)])


class Training(Program):
    """What trainings share. After the warm-up the weights are those from before it."""

    def restart(self):
        with torch.no_grad():
            for weight, first in zip(self.weights, self.first):
                weight.copy_(first)

    def remember(self, model):
        self.weights = list(model.parameters())
        self.first = [weight.detach().clone() for weight in self.weights]


class Train(Training):
    """A training that fills the GPU."""

    def build(self):
        width, heads = 4096, 32
        self.layers = nn.ModuleList([Block(width, heads) for _ in range(4)]).to("cuda", torch.bfloat16)
        self.x = torch.randn(8, 1024, width, device="cuda", dtype=torch.bfloat16)
        self.optimizer = torch.optim.SGD(self.layers.parameters(), lr=1e-4)
        self.remember(self.layers)

    def body(self):
        y = self.x
        for layer in self.layers:
            y = layer(y)
        loss = y.float().pow(2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.note(loss.view(1), self.layers[0].qkv.weight[:64].contiguous())


class Small(Training):
    """A training whose kernels do not fill the GPU: twenty steps are one replay each of a graph."""

    def build(self):
        width, heads = 512, 8
        self.layers = nn.ModuleList([Block(width, heads) for _ in range(4)]).to("cuda")
        self.x = torch.randn(4, 128, width, device="cuda")
        self.remember(self.layers)
        self.graph = self.capture(self.one)

    def one(self):
        y = self.x
        for layer in self.layers:
            y = layer(y)
        loss = y.pow(2).mean()
        with torch.no_grad():
            for weight, gradient in zip(self.weights, torch.autograd.grad(loss, self.weights)):
                weight.add_(gradient, alpha=-1e-4)
            self.note(loss.view(1))

    def body(self):
        for _ in range(20):
            self.graph.replay()


class Prefill(Program):
    """Prompts of 2048 tokens through the model that Decode has."""

    @torch.no_grad()
    def build(self):
        width, heads, layers = 2048, 16, 24
        self.layers = nn.ModuleList([Block(width, heads) for _ in range(layers)]).to("cuda", torch.bfloat16).eval()
        self.prompts = torch.randn(4, 1, 2048, width, device="cuda", dtype=torch.bfloat16)
        self.turn = 0

    @torch.no_grad()
    def body(self):
        x = self.prompts[self.turn % len(self.prompts)]
        self.turn += 1
        for layer in self.layers:
            x = layer(x)
        self.note(x)

    def restart(self):
        self.turn = 0


class Compute(Program):
    """Products of matrices: bound by arithmetic."""

    @torch.no_grad()
    def build(self):
        self.a, self.b = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        self.x = self.a.clone()

    @torch.no_grad()
    def body(self):
        for _ in range(20):
            torch.mm(self.x, self.b, out=self.a)
            self.x, self.a = functional.layer_norm(self.a, (4096,)), self.x
        self.note(self.x)

    @torch.no_grad()
    def restart(self):
        self.x = torch.full_like(self.x, 0.01) + torch.arange(4096, device="cuda", dtype=torch.bfloat16) / 4096


class Copy(Program):
    """A gigabyte from here to there and back: bound by memory."""

    @torch.no_grad()
    def build(self):
        self.here = torch.arange(1 << 27, device="cuda", dtype=torch.int64)
        self.there = torch.empty_like(self.here)

    @torch.no_grad()
    def body(self):
        for _ in range(5):
            self.there.copy_(self.here)
            self.here.copy_(self.there)
        self.here[:4096].add_(1)
        self.note(self.here[:8192].to(torch.int32))

    @torch.no_grad()
    def restart(self):
        self.here[:4096] = torch.arange(4096, device="cuda")


PROGRAMS = {"decode": Decode, "train": Train, "small": Small, "prefill": Prefill, "compute": Compute, "copy": Copy}


def make(name, groups):
    # Outputs are compared, so a program must repeat itself: other kinds of attention add up in the order in which blocks end.
    torch.use_deterministic_algorithms(True)  # to warn is not enough for the attention of trainings
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_flash_sdp(name in ("train", "prefill"))
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.cuda.init()
    return PROGRAMS[name](groups)


def facts():
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(),
            "memory_mib": torch.cuda.max_memory_allocated() >> 20}
