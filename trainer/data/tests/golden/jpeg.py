"""Writes jpeg.json: the SHA-256 of what Pillow makes of JPEGs, whole and by `Image.draft` at a fraction of their size.

Some are made here and lie in the file, some are BCCD's. Run from this folder with Pillow 13.0.0 and numpy: python jpeg.py "$GRAFT_DATA"
"""
import hashlib
import io
import json
import os
import sys

import numpy as np
from PIL import Image


def drafted(source, enough):
    image = Image.open(source)
    if enough:
        image.draft(image.mode, (enough, enough))
    image = image.convert("RGB")
    return [enough, image.width, image.height, hashlib.sha256(image.tobytes()).hexdigest()]


def made(channels, **how):
    y, x = np.mgrid[:90, :141]
    smooth = np.stack([x * 255 // 140, y * 255 // 89, (x + y) * 255 // 229], axis=-1)
    pixels = (smooth[:, :, :channels] * 3 + ((x * 7 + y * 13 + x * y % 31 * 5) % 256)[:, :, None]) // 4
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8).squeeze()).save(file, "JPEG", quality=85, **how)
    return file.getvalue()


cases = []
for how in [dict(channels=1), dict(channels=3), dict(channels=3, subsampling=0, progressive=True), dict(channels=3, subsampling=1, restart_marker_rows=1)]:
    jpeg = made(**how)
    cases.append(dict(jpeg=jpeg.hex(), expected=[drafted(io.BytesIO(jpeg), enough) for enough in (None, 91, 45, 30, 22, 11)]))
folder = os.path.join(sys.argv[1], "bccd/JPEGImages")
for name in sorted(os.listdir(folder))[::60]:
    cases.append(dict(file="bccd/JPEGImages/" + name, expected=[drafted(os.path.join(folder, name), enough) for enough in (None, 240, 224, 100, 60)]))
with open("jpeg.json", "w") as out:
    json.dump(cases, out, indent=0)
