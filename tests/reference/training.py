#!/usr/bin/env python3
"""PyTorch's side of two tests of training: one step on the joint batch, and torchvision's own initialiser.

`training.py FOLDER` reads the phantom slices that `graft generate --seed 1 --patients 20 FOLDER` writes, takes one step
of SGD on all training images at once, and writes `goldens/one-step.json`; and it writes the beginning of every tensor of
a fresh torchvision ResNet-18 to `goldens/torchvision-resnet18.json`. Both are committed.
"""

import csv
import os
import sys

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F

from reference import HERE, build, numbers, values, write

ARCHITECTURE, HEAD, RATE = "mobilenet_v1_025", "27.conv", 0.1


def philox(counter, key):
    """Philox4x32-10, Salmon et al., SC 2011."""
    c, k = list(counter), list(key)
    for r in range(10):
        if r:
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
    return c


def fresh(shape, fan_in, sequence, seed=0, purpose=2):
    """Graft's initial values of a head: uniform within 1 / sqrt(fan_in), two of 24 bits from each 64."""
    out, n = [], int(np.prod(shape))
    for i in range((n + 1) // 2):
        block = philox([i, 0, sequence, purpose], [seed, 0])
        bits = block[0] | block[1] << 32
        out += [bits >> 40, bits >> 8 & 0xFFFFFF]
    scaled = (np.array(out[:n], np.float64) / (1 << 23) - 1) / np.sqrt(fan_in)
    return torch.from_numpy(scaled.astype(np.float32).reshape(shape))


def one_step(folder):
    with open(os.path.join(folder, "phantom", "manifest.csv")) as f:
        rows = [row for row in csv.DictReader(f) if row["split"] == "train"]
    pixels = np.stack([np.asarray(Image.open(os.path.join(folder, "phantom", r["image"])).convert("RGB")) for r in rows])
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    y = torch.tensor([["normal", "lesion"].index(r["label"]) for r in rows])
    model = build(ARCHITECTURE, 2).eval()
    state = {k: values(k, v.shape) for k, v in model.state_dict().items()}
    width = state[HEAD + ".weight"].shape[1]
    state[HEAD + ".weight"], state[HEAD + ".bias"] = fresh((2, width, 1, 1), width, 0), fresh((2,), width, 1)
    model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    moved = {k: [float(f"{(p.detach() - state[k]).double().norm():.9g}")] + numbers(p, 6) for k, p in model.named_parameters() if not k.startswith(HEAD)}
    write(os.path.join(HERE, "goldens", "one-step.json"), {"images": len(rows), "loss": loss.item(), "parameters": moved})


def initialiser():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None)
    out = {k: [float(f"{v.double().norm():.9g}")] + numbers(v, 4) for k, v in model.state_dict().items()}
    write(os.path.join(HERE, "goldens", "torchvision-resnet18.json"), out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(2)
    one_step(sys.argv[1])
    initialiser()
