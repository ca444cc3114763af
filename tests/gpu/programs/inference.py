# SPDX-License-Identifier: Apache-2.0
"""Eager inference: every kind of attention PyTorch has, dropout, sampling, sorting, indexing; several streams."""

from common import Check, need_torch

torch = need_torch()
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

F = torch.nn.functional
ROUNDS = 120


def attention(check):
    q, k, v = (torch.randn(4, 8, 256, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,
                    SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        except RuntimeError:
            continue  # this build does not have it
        check(f"attention {backend.name}", y)


def sampling(check):
    logits = torch.randn(16, 32000, device="cuda")
    values, indices = logits.topk(50)
    check("topk", values)
    check("multinomial", torch.multinomial(values.softmax(-1), 8, replacement=True))
    check("gathered", indices.gather(1, torch.multinomial(values.softmax(-1), 4)))
    check("sorted", logits[:, :4096].sort(-1).values)
    check("cumsum", indices.cumsum(0))  # of integers: the order of a scan's sums is not fixed
    check("dropout", F.dropout(logits, 0.3))


def streams(check):
    a = torch.randn(1024, 1024, device="cuda", dtype=torch.float16)
    first, second, event = torch.cuda.Stream(), torch.cuda.Stream(priority=-1), torch.cuda.Event()
    first.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(first):
        b = a @ a
        event.record(first)
    with torch.cuda.stream(second):
        second.wait_event(event)
        c = b.float().softmax(-1)
    torch.cuda.current_stream().wait_stream(second)
    check("streams", c)
    pinned = torch.empty(c.shape, pin_memory=True)
    pinned.copy_(c, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    check("pinned", pinned.cuda(non_blocking=True))


@torch.no_grad()
def main():
    torch.manual_seed(14)
    table = torch.nn.Embedding(1000, 256).cuda()
    layer = torch.nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.1, batch_first=True).cuda()
    tokens = torch.randint(0, 1000, (8, 128), device="cuda")
    check = Check(torch)
    for _ in range(ROUNDS):
        torch.manual_seed(15)  # every round draws the same numbers
        attention(check)
        sampling(check)
        streams(check)
        check("encoder, dropout on", layer.train()(table(tokens)))
        check("encoder, fused", layer.eval()(table(tokens)))
        check("scattered", torch.zeros(64, device="cuda").scatter(0, tokens.view(-1)[:16] % 64, 1.0))
    check.report()


if __name__ == "__main__":
    main()
