#!/usr/bin/env python3
"""Makes what graft-trainer's tests compare with: PyTorch's, torchvision's and timm's own results, and files that torch.save
writes.

Weights and inputs come from an integer hash of names and positions, so that Rust makes the same bits and nothing large is
kept. `cargo xtask reference` runs it with the pinned packages (`reference.py goldens fixtures`); the results are committed.
`goldens` may be followed by names of architectures. With `real FOLDER` it also runs the published weights in FOLDER.
"""
import hashlib
import json
import os
import struct
import sys
from collections import OrderedDict

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
CLASSES, BATCH, SIDE, DROPOUT_SEED = 5, 4, 64, 7
WIDTHS = {"mobilenet_v1_100": 4, "mobilenet_v1_075": 3, "mobilenet_v1_050": 2, "mobilenet_v1_025": 1}
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
               "vgg19_bn", "densenet121", "densenet169", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
               "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "convnext_tiny", "convnext_small",
               "convnext_base", "squeezenet1_0", "squeezenet1_1", "vit_b_16"]
TIMM = {"vit_small_patch16_224": 64, "vit_small_patch14_dinov2": 70, "vit_base_patch14_dinov2": 70}
# Of models with more parameters than this only a digest of the layout, less of each gradient and few buffers are kept.
MANY = 200


def uniform(name, count):
    """Numbers in [0, 1) with 24 bits: SplitMix64 of the position plus the 32-bit FNV-1a hash of the name."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 & 0xFFFFFFFF
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + np.uint64(seed) * np.uint64(1 << 31)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def values(name, shape):
    """What a tensor of a state dict holds in every comparison."""
    shape = tuple(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = uniform(name, int(np.prod(shape)))
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        v = (2 * u - 1) * np.sqrt(6.0 / fan_in)
    elif name.endswith("running_var") or (name.endswith("weight")):
        v = 0.5 + u
    else:
        v = 0.2 * (2 * u - 1)
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def images(n, side):
    return torch.from_numpy((4 * uniform("images", n * 3 * side * side) - 2).astype(np.float32).reshape(n, 3, side, side))


class SameConv(nn.Conv2d):
    """TensorFlow's SAME padding."""

    def forward(self, x):
        pad = []
        for size, k, s in [(x.shape[3], self.kernel_size[1], self.stride[1]), (x.shape[2], self.kernel_size[0], self.stride[0])]:
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pad += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pad), self.weight, self.bias, self.stride, 0, 1, self.groups)


class MobileNetV1(nn.Module):
    def __init__(self, quarters, classes):
        super().__init__()
        plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
        c = 32 * quarters // 4
        layers = [("00", "conv", SameConv(3, c, 3, 2, 1))]
        for i, (out, stride) in enumerate(plan):
            out = out * quarters // 4
            layers.append((f"{2 * i + 1:02}", "dw", SameConv(c, c, 3, stride, 1, groups=c)))
            layers.append((f"{2 * i + 2:02}", "conv", SameConv(c, out, 1)))
            c = out
        layers.append(("27", "conv", nn.Conv2d(c, classes, 1)))
        self.names = [number for number, _, _ in layers]
        for number, kind, conv in layers:
            holder = nn.Module()
            setattr(holder, kind, conv)
            self.add_module(number, holder)

    def features(self, x):
        for number in self.names[:-1]:
            x = F.relu6(next(self._modules[number].children())(x))
        return x.mean((2, 3))

    def forward(self, x):
        return self._modules["27"].conv(self.features(x)[:, :, None, None]).flatten(1)


def build(name, classes, same=False):
    if name in WIDTHS:
        return MobileNetV1(WIDTHS[name], classes)
    if name in TIMM:
        import timm  # Not everywhere where torchvision is, and slow to import.
        return timm.create_model(name, pretrained=False, num_classes=classes, dynamic_img_size=True)
    # Every value is overwritten.
    model = getattr(torchvision.models, name)(weights=None, num_classes=classes, **({"init_weights": False} if name.startswith("vgg") else {}))
    if same:
        for module in model.modules():
            if type(module) is nn.Conv2d and module.padding != (0, 0):
                module.__class__ = SameConv
    if name == "vit_b_16":
        any_size(model)
    return model


def any_size(model):
    """torchvision's ViT takes one input size only; positions are resampled here as timm resamples them."""
    encoder = model.encoder

    def forward(tokens):
        position = encoder.pos_embedding
        if position.shape[1] != tokens.shape[1]:
            from timm.layers import resample_abs_pos_embed
            side = int((tokens.shape[1] - 1) ** 0.5)
            position = resample_abs_pos_embed(position, [side, side])
        return encoder.ln(encoder.layers(encoder.dropout(tokens + position)))

    def patches(x):
        return model.conv_proj(x).flatten(2).transpose(1, 2)

    encoder.forward, model._process_input = forward, patches


def features(name, model, x):
    if name in WIDTHS:
        return model.features(x)
    if name in TIMM:
        return model.forward_head(model.forward_features(x), pre_logits=True)
    if name.startswith(("resne", "vit")):
        holder, head = (model.heads, "head") if name.startswith("vit") else (model, "fc")
        kept = getattr(holder, head)
        setattr(holder, head, nn.Identity())
        f = model(x)
        setattr(holder, head, kept)
        return f
    if name.startswith("mobilenet_v3"):
        return model.classifier[:2](model.avgpool(model.features(x)).flatten(1))
    if name.startswith("convnext"):
        return model.classifier[:2](model.avgpool(model.features(x)))
    f = F.relu(model.features(x)) if name.startswith("densenet") else model.features(x)
    if name.startswith("vgg"):
        return model.classifier[:6](model.avgpool(f).flatten(1))
    return F.adaptive_avg_pool2d(f, 1).flatten(1)


def numbers(tensor, count=6, digits=9):
    return [float(f"{v:.{digits}g}") for v in tensor.detach().double().flatten()[:count].tolist()]


def layout(model):
    """Names and shapes in order, or their digest where there are many."""
    listed = [[k, list(v.shape)] for k, v in model.state_dict().items()]
    text = "".join(f"{k} {v}\n" for k, v in listed)
    few = len(list(model.parameters())) <= MANY
    return {"state_dict": listed} if few else {"state_dict_sha256": hashlib.sha256(text.encode()).hexdigest()}


def golden(name, same):
    """In double precision: ReLUs whose input is within rounding of 0 open on one kind of CPU and not on another, and gradients
    in single precision differ by a tenth for that alone."""
    model = build(name, CLASSES, same).double()
    model.load_state_dict({k: values(k, v.shape) for k, v in model.state_dict().items()})
    side = TIMM.get(name, SIDE)
    x, y = images(BATCH, side).double(), torch.arange(BATCH) % CLASSES
    model.eval()
    with torch.no_grad():
        out = {"architecture": name, "padding": "same" if same or name in WIDTHS else "symmetric", "side": side, **layout(model),
               "features": [numbers(f, 8) for f in features(name, model, x)],
               "feature_norm": features(name, model, x).norm().item(),
               "logits": numbers(model(x), BATCH * CLASSES)}
    model.train()
    torch.manual_seed(DROPOUT_SEED)
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    out["train_logits"] = numbers(logits, BATCH * CLASSES)
    out["loss"] = loss.item()
    parameters, buffers = list(model.named_parameters()), list(model.named_buffers())
    if len(parameters) > MANY:
        kept, digits, buffers = 1, 7, buffers[::20]
    else:
        kept, digits = 4, 9
    out["gradients"] = {k: numbers(p.grad.norm(), 1, digits) + numbers(p.grad, kept, digits) for k, p in parameters}
    out["buffers"] = {k: numbers(b, 4, digits) for k, b in buffers}
    return out


def published():
    """What torchvision and timm say of their weights with 1,000 classes."""
    out = {}
    for name in TORCHVISION:
        w = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        t = w.transforms()
        out[name] = {"parameters": w.meta["num_params"], "gmacs": w.meta["_ops"], "size": t.crop_size[0], "resize": t.resize_size[0],
                     "interpolation": t.interpolation.value, "mean": t.mean, "std": t.std}
    for name in TIMM:
        import timm
        model = timm.create_model(name, pretrained=False, num_classes=1000)
        c = model.pretrained_cfg
        out[name] = {"parameters": sum(p.numel() for p in model.parameters()), "gmacs": None, "size": c["input_size"][1],
                     "resize": int(c["input_size"][1] / c["crop_pct"]), "interpolation": c["interpolation"], "mean": c["mean"], "std": c["std"]}
    write(os.path.join(HERE, "goldens", "published.json"), out)


def write(path, data):
    with open(path, "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in data.items()) + "\n}\n")


def goldens(chosen):
    for name in chosen or list(WIDTHS) + TORCHVISION + list(TIMM):
        for same in [False, True] if name == "mobilenet_v2" else [False]:
            write(os.path.join(HERE, "goldens", name + ("-same" if same else "") + ".json"), golden(name, same))
            print(name, same, flush=True)
    published()


REAL = [("mobilenet_v2_imagenet", "mobilenet_v2", True), ("squeezenet1_1_imagenet", "squeezenet1_1", False),
        ("mobilenet_v1_0.25_128_quant.folded", "mobilenet_v1_025", True), ("mobilenet_v1_0.5_160_quant.folded", "mobilenet_v1_050", True),
        ("mobilenet_v1_0.75_192_quant.folded", "mobilenet_v1_075", True),
        ("mobilenet_v1_1.0_224_quant_embedding_extractor.folded", "mobilenet_v1_100", True)]


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    header.pop("__metadata__", None)
    cut = lambda v: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], np.float32).reshape(v["shape"]).copy()
    return {k: torch.from_numpy(cut(v)) for k, v in header.items()}


def real(folder):
    """Published weights on the hashed images, at 128 pixels and with the padding that they were trained with."""
    out = {}
    for file, name, same in REAL:
        state = read_safetensors(os.path.join(folder, file + ".safetensors"))
        head = [v.shape[0] for k, v in state.items() if k in ("27.conv.weight", "classifier.1.weight")]
        model = build(name, head[0] if head else CLASSES, same).eval()
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all(k.endswith("num_batches_tracked") or not head and k.startswith("27.") for k in missing), (missing, unexpected)
        with torch.no_grad():
            x = images(2, 128) / 2
            f = features(name, model, x)
            out[file] = {"architecture": name, "padding": "same" if same else "symmetric", "classes": head[0] if head else 0,
                         "features": [numbers(row, 64) for row in f], "feature_norm": float(f.double().norm())}
            if head:
                logits = model(x)
                out[file].update(logits=[numbers(row, 32) for row in logits], argmax=logits.argmax(1).tolist())
    write(os.path.join(HERE, "goldens", "real-weights.json"), out)


class Crafted:
    """Pickles as a tensor with a given offset, shape and strides."""

    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (*self.parts, False, OrderedDict())


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/graft-was-here",)


def fixtures():
    at = lambda name: os.path.join(HERE, "fixtures", name)
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    state = small.state_dict()
    base = torch.arange(24, dtype=torch.float32) / 8
    state.update(half=base[:3].half(), bfloat16=base[:3].bfloat16(), double=base[:3].double(), int32=torch.tensor([-1, 2], dtype=torch.int32),
                 uint8=torch.tensor([1, 255], dtype=torch.uint8), bool=torch.tensor([True, False]), scalar=torch.tensor(2.5),
                 transposed=base.view(4, 6).t(), part=base[10:14], channels_last=base.view(1, 3, 2, 4).contiguous(memory_format=torch.channels_last),
                 empty=torch.zeros(0, 3), parameter=nn.Parameter(base[20:].clone()))
    torch.save(state, at("small.pth"))
    write(at("small.json"), {k: {"shape": list(v.shape), "values": v.detach().double().flatten().tolist()} for k, v in state.items()})
    wrapped = {"epoch": 3, "state_dict": {"module." + k: v for k, v in small.state_dict().items()}, "optimizer": {"lr": 0.1}}
    torch.save(wrapped, at("wrapped.pth"))
    torch.save(small.state_dict(), at("legacy.pth"), _use_new_zipfile_serialization=False)
    torch.save(small, at("whole-model.pth"))
    storage = torch.ones(8).storage()
    torch.save({"w": Crafted(storage, 7, (2,), (1,))}, at("outside.pth"))
    torch.save({"w": Crafted(storage, 0, (1 << 40, 1 << 40), (0, 0))}, at("expanded.pth"))
    torch.save({"w": Crafted(storage, 0, (2, 2), (-1, 1))}, at("negative.pth"))
    torch.save({"w": Evil()}, at("system.pth"))
    torch.save({"w": torch.ones(2), "epoch": 3}, at("not-only-tensors.pth"))
    torch.save([torch.ones(2)], at("list.pth"))


if __name__ == "__main__":
    torch.set_num_threads(2)
    arguments = sys.argv[1:]
    if "goldens" in arguments:
        goldens([a for a in arguments if a in WIDTHS or a in TORCHVISION or a in TIMM])
    if "fixtures" in arguments:
        fixtures()
    if "real" in arguments:
        real(arguments[arguments.index("real") + 1])
    if not arguments:
        sys.exit(__doc__)
