#!/usr/bin/env python3
"""Makes the small JPEG-LS pictures that graft-data's decoder is tested with, by CharLS (pillow-jpls): `jpegls.py` writes *.jls beside it.
The formula of the pixels stands in the test as well."""
import os

import numpy as np
import pillow_jpls  # noqa: F401
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
y, x = np.mgrid[0:29, 0:37]


def plane(c):
    """Noise, and squares of one colour, which are runs."""
    noise = ((x * x + y * 7 * (c + 1)) ^ ((x * y) >> c)) & 0xFF
    return np.where((x // 8 + y // 8) % 2 == 0, 40 * (c + 1), noise).astype(np.uint8)


def save(name, picture, **options):
    Image.fromarray(picture).save(os.path.join(HERE, name), **options)


for interleave in ("none", "line", "sample"):
    save(f"rgb_{interleave}.jls", np.stack([plane(c) for c in range(3)], -1), near_lossless=0, interleave=interleave)
save("grey_near3.jls", plane(0), near_lossless=3)
save("grey16.jls", (plane(0).astype(np.uint16) << 4) | (plane(1) >> 4), near_lossless=0)
