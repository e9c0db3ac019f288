"""PyTorch's side of `cargo xtask bench parity`: features of COVID-CT's test images by Pillow and torchvision.

    features.py ARCHITECTURE DATA WEIGHTS FEATURES

DATA is the folder of real data, WEIGHTS a file of its `weights/`, FEATURES the folder of Graft's features of the whole data
set. Prints one line of JSON: how many images, and the largest error of any of their features, relative to the largest
feature of its image.
"""
import csv
import glob
import json
import os
import sys

import numpy as np
import torch
from PIL import Image

import reference

SIDE = {"mobilenet_v1_075": 192, "mobilenet_v1_050": 160, "mobilenet_v1_025": 128}
SPLITS = ["train", "val", "test"]
BATCH = 16


def from_tensorflow(architecture):
    """Those weights want inputs in [-1, 1] and SAME padding; the others are PyTorch's."""
    return architecture.startswith("mobilenet_v1") or architecture == "mobilenet_v2"


def backbone(architecture, path):
    """The network on the weights; the head stays fresh where they have none, features do not pass through it."""
    state = reference.read_safetensors(path)
    model = reference.build(architecture, 1000, same=from_tensorflow(architecture))
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    missing, unexpected = model.load_state_dict({k: v for k, v in state.items() if shapes.get(k) == v.shape}, strict=False)
    head = ("classifier.", "27.")
    assert not unexpected and all(k.startswith(head) or k.endswith("num_batches_tracked") for k in missing), (missing, unexpected)
    return model.eval()


def image(path, side):
    """`fit: stretch` with Pillow's bilinear filter, as bytes `[3, side, side]`."""
    return np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.BILINEAR)).transpose(2, 0, 1)


def graft_s(folder):
    """Graft's features of all samples: training, validation, test, each in the manifest's order."""
    (manifest,) = glob.glob(os.path.join(folder, "*", "manifest.json"))
    with open(manifest) as f:
        parts = json.load(f)["parts"]
    return torch.cat([reference.read_safetensors(os.path.join(os.path.dirname(manifest), part))["features"] for part in parts])


def main(architecture, data, weights, folder):
    with open(os.path.join(data, "covid-ct/manifest.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    samples = sorted(rows, key=lambda row: SPLITS.index(row["split"]))
    tests = [i for i, row in enumerate(samples) if row["split"] == "test"]
    ours = graft_s(folder)
    assert len(ours) == len(samples), (len(ours), len(samples))
    model, side = backbone(architecture, os.path.join(data, "weights", weights)), SIDE.get(architecture, 224)
    mean, std = ([0.5] * 3, [0.5] * 3) if from_tensorflow(architecture) else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    channel = lambda v: torch.tensor(v, dtype=torch.float64).float().view(1, 3, 1, 1)
    largest = 0.0
    for start in range(0, len(tests), BATCH):
        chunk = tests[start:start + BATCH]
        pixels = np.stack([image(os.path.join(data, "covid-ct", samples[i]["image"]), side) for i in chunk])
        with torch.inference_mode():
            theirs = reference.features(architecture, model, (torch.from_numpy(pixels).float() / 255 - channel(mean)) / channel(std))
        error = (ours[chunk] - theirs).abs().amax(1) / theirs.abs().amax(1)
        largest = max(largest, error.max().item())
    print(json.dumps({"images": len(tests), "largest_relative_error": largest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
