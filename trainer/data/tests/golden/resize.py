"""Writes resize.json: what Pillow makes of images given by a formula, with torchvision's Resize and CenterCrop arithmetic.

Run from this folder with Pillow 13.0.0 and numpy: python resize.py
"""
import json

import numpy as np
from PIL import Image


def picture(width, height, channels):
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((x * 7 + y * 13 + c * 29 + (x * y) % 31 * 5) % 256).astype(np.uint8)


def run(width, height, channels, resize, size, fit, interpolation):
    pixels = picture(width, height, channels)
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).convert("RGB")
    filter = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[interpolation]
    if fit == "stretch":
        image = image.resize((size, size), filter)
    else:
        short, long = min(width, height), max(width, height)
        other = int(resize * long / short)
        image = image.resize((resize, other) if width <= height else (other, resize), filter)
        top, left = (int(round((n - size) / 2.0)) for n in (image.height, image.width))
        image = image.crop((left, top, left + size, top + size))
    planes = np.asarray(image).transpose(2, 0, 1)
    return dict(width=width, height=height, channels=channels, resize=resize, size=size, fit=fit,
                interpolation=interpolation, expected=planes.tobytes().hex())


cases = [
    run(61, 47, 3, 28, 23, "crop", "bilinear"),
    run(61, 47, 3, 30, 23, "crop", "bicubic"),
    run(20, 33, 3, 30, 23, "crop", "bilinear"),
    run(20, 33, 3, 28, 23, "crop", "bicubic"),
    run(61, 47, 1, 24, 24, "stretch", "bilinear"),
    run(40, 90, 4, 24, 20, "crop", "bilinear"),
    run(26, 31, 3, 26, 22, "crop", "bilinear"),
    run(200, 150, 3, 18, 16, "crop", "bicubic"),
]
json.dump(cases, open("resize.json", "w"), indent=0)
