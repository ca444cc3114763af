# SPDX-License-Identifier: Apache-2.0
"""A GPT-style decode, one token at a time: a whole step is one CUDA graph, replayed for every token."""

from common import digest, need_torch

torch = need_torch()
F = torch.nn.functional
LAYERS, WIDTH, HEADS, VOCABULARY, WINDOW, TOKENS = 6, 512, 8, 1024, 256, 8000


class Decoder:
    def __init__(self):
        def weights(*shape):
            return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.03

        self.table = weights(VOCABULARY, WIDTH) * 10
        self.layers = [[weights(3 * WIDTH, WIDTH), weights(WIDTH, WIDTH), weights(4 * WIDTH, WIDTH),
                        weights(WIDTH, 4 * WIDTH)] for _ in range(LAYERS)]
        self.keys, self.values = (torch.zeros(LAYERS, 1, HEADS, WINDOW, WIDTH // HEADS, device="cuda",
                                              dtype=torch.bfloat16) for _ in range(2))
        self.token = torch.zeros(1, dtype=torch.int64, device="cuda")
        self.position = torch.zeros(1, dtype=torch.int64, device="cuda")
        self.history = torch.zeros(TOKENS, dtype=torch.int64, device="cuda")

    def step(self):
        slot = self.position % WINDOW
        seen = torch.arange(WINDOW, device="cuda") <= self.position
        x = self.table[self.token]
        for i, (qkv, out, up, down) in enumerate(self.layers):
            q, k, v = F.linear(F.layer_norm(x, (WIDTH,)), qkv).view(1, 3, HEADS, 1, -1).unbind(1)
            self.keys[i].index_copy_(2, slot, k)
            self.values[i].index_copy_(2, slot, v)
            y = F.scaled_dot_product_attention(q, self.keys[i], self.values[i], attn_mask=seen.view(1, WINDOW))
            x = x + F.linear(y.reshape(1, WIDTH), out)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (WIDTH,)), up)), down)
        scores = F.linear(F.layer_norm(x, (WIDTH,)), self.table).float()
        # Never the same token twice in a row: a decode that got stuck would hide a wrong step.
        scores.scatter_(1, self.token.view(1, 1), float("-inf"))
        self.token.copy_(scores.argmax(-1))
        self.history.index_copy_(0, self.position % TOKENS, self.token)
        self.position += 1


@torch.no_grad()
def main():
    torch.manual_seed(16)
    decoder = Decoder()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            decoder.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder.step()
    for token in range(TOKENS):
        graph.replay()
        if token % 500 == 499:
            print(token + 1, decoder.token.item(), digest(decoder.history))
    print("keys", digest(decoder.keys), "values", digest(decoder.values))


if __name__ == "__main__":
    main()
