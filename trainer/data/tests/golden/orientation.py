"""Writes orientation.json: pictures that are not square in every orientation of EXIF, and the SHA-256 of what Pillow's
`ImageOps.exif_transpose` makes of them; a JPEG also by `Image.draft` at a fraction of its size.

Run from this folder with Pillow 13.0.0 and numpy: python orientation.py
"""
import hashlib
import io
import json

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112


def stored(width, height, orientation, form, **how):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * 7 + y * 13) % 256], axis=-1).astype(np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(file, form, exif=exif, **how)
    return file.getvalue()


def case(name, file, enough=None):
    image = Image.open(io.BytesIO(file))
    if enough:
        image.draft(image.mode, (enough, enough))
    image = ImageOps.exif_transpose(image).convert("RGB")
    return dict(name=name, file=file.hex(), enough=enough, size=image.size, sha256=hashlib.sha256(image.tobytes()).hexdigest())


cases = []
for orientation in range(1, 9):
    for form, how in [("JPEG", dict(quality=80)), ("PNG", {}), ("TIFF", dict(compression="tiff_lzw")), ("WEBP", dict(lossless=True))]:
        cases.append(case(f"{form} {orientation}", stored(13, 9, orientation, form, **how)))
for orientation in (6, 8):
    cases.append(case(f"JPEG {orientation} drafted", stored(45, 22, orientation, "JPEG", quality=80), 11))
# EXIF of the other byte order, and with the beginning that it has in a JPEG.
webp = stored(13, 9, 6, "WEBP", lossless=True)
at = webp.index(b"EXIF")
exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
webp = webp[:at] + b"EXIF" + len(exif).to_bytes(4, "little") + exif
cases.append(case("WEBP 6 begins as in a JPEG", webp[:4] + (len(webp) - 8).to_bytes(4, "little") + webp[8:]))
with open("orientation.json", "w") as out:
    json.dump(cases, out, indent=0)
