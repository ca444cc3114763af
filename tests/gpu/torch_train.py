# SPDX-License-Identifier: Apache-2.0
"""A small training run that uses what real ones use (bf16 autocast, dropout, AdamW, attention).

Prints a hash of the final weights: equal hashes mean bit-identical results.
"""

import hashlib
import sys

import torch


def main():
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    torch.manual_seed(7)
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.1, batch_first=True)
    model = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 4), torch.nn.Linear(512, 128))
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        inputs = torch.randn(16, 128, 512, device="cuda")
        targets = torch.randint(0, 128, (16, 128), device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    properties = torch.cuda.get_device_properties(0)
    print(digest.hexdigest()[:16], f"{loss.item():.9f}", properties.multi_processor_count)


if __name__ == "__main__":
    main()
