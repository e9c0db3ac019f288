"""Writes variants.json: small pictures in each way in which PNG, TIFF, BMP, WebP and JPEG store pixels, and what Pillow's
`convert("RGB")` makes of them, pixel by pixel. `wide` is the RGB of 16 bits that a file of such shows, because Pillow rounds
its colours down and does not scale its grey at all.

Run from this folder with Pillow 13.0.0 and numpy: python variants.py
"""
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 11, 7
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGBA = np.stack([X * 255 // (WIDTH - 1), Y * 255 // (HEIGHT - 1), (X * 37 + Y * 91) % 256, (X * 53 + Y * 29) % 256], axis=-1)
WIDE = (RGBA * 257 + (X * 31 + Y * 17)[:, :, None] * 7 % 256 - 128).clip(0, 65535).astype(np.uint16)
RGBA = RGBA.astype(np.uint8)
GREY = Image.fromarray(RGBA[:, :, 2])
COLOUR = Image.fromarray(RGBA[:, :, :3])


def png(bits, kind, rows, *chunks):
    """A PNG that Pillow does not write: `rows` are bytes of packed pixels."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def tiff(kind, bits, samples, data, *more):
    """An uncompressed TIFF that Pillow does not write; `kind` is the photometric interpretation."""
    tags = [(256, 3, [WIDTH]), (257, 3, [HEIGHT]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [kind]), (273, 4, [0]), (277, 3, [samples]),
            (278, 3, [HEIGHT]), (279, 4, [len(data)]), *more]
    at = 8 + 2 + 12 * len(tags) + 4
    entries, behind = b"", b""
    values = {}
    for tag, form, numbers in tags:
        packed = b"".join(struct.pack("<H" if form == 3 else "<I", n) for n in numbers)
        values[tag] = packed
        if len(packed) > 4:
            behind += packed
    start = at + len(behind)
    spot = at
    for tag, form, numbers in tags:
        packed = struct.pack("<I", start) if tag == 273 else values[tag]
        if len(packed) > 4:
            entries += struct.pack("<HHII", tag, form, len(numbers), spot)
            spot += len(packed)
        else:
            entries += struct.pack("<HHI", tag, form, len(numbers)) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + behind + data


def saved(image, form, **how):
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def packed(levels, bits):
    """Rows of levels of fewer than 8 bits."""
    return [int("".join(f"{v:0{bits}b}" for v in row).ljust(-(-WIDTH * bits // 8) * 8, "0"), 2).to_bytes(-(-WIDTH * bits // 8), "big") for row in levels]


big = lambda pixels: [row.astype(">u2").tobytes() for row in pixels]
palette = COLOUR.quantize(13)
transparent = palette.copy()
transparent.info["transparency"] = 3
cmyk = COLOUR.convert("CMYK")
BIG_CMYK = Image.fromarray(np.kron(RGBA[:, :, :3], np.ones((2, 2, 1), np.uint8))).convert("CMYK")
files = {
    "PNG palette": saved(palette, "PNG"),
    "PNG palette of 4 colours": saved(COLOUR.quantize(4), "PNG", bits=2),
    "PNG palette with a transparent colour": saved(transparent, "PNG", transparency=3),
    "PNG 1 bit": saved(GREY.convert("1"), "PNG"),
    "PNG 2 bits": png(2, 0, packed(RGBA[:, :, 2] >> 6, 2)),
    "PNG 4 bits": png(4, 0, packed(RGBA[:, :, 2] >> 4, 4)),
    "PNG grey and alpha": saved(Image.fromarray(RGBA).convert("LA"), "PNG"),
    "PNG grey with a transparent level": saved(GREY, "PNG", transparency=91),
    "PNG RGB with a transparent colour": saved(COLOUR, "PNG", transparency=(0, 0, 0)),
    "PNG RGBA": saved(Image.fromarray(RGBA), "PNG"),
    "PNG 16-bit grey": png(16, 0, big(WIDE[:, :, 2])),
    "PNG 16-bit grey and alpha": png(16, 4, big(WIDE[:, :, 2:])),
    "PNG 16-bit RGB": png(16, 2, big(WIDE[:, :, :3])),
    "PNG 16-bit RGBA": png(16, 6, big(WIDE)),
    "TIFF palette": saved(palette, "TIFF"),
    "TIFF 1 bit": saved(GREY.convert("1"), "TIFF"),
    "TIFF 1 bit, fax": saved(GREY.convert("1"), "TIFF", compression="group4"),
    "TIFF 1 bit, white is 0": tiff(0, 1, 1, b"".join(packed(RGBA[:, :, 2] >> 7, 1))),
    "TIFF 4 bits": tiff(1, 4, 1, b"".join(packed(RGBA[:, :, 2] >> 4, 4))),
    "TIFF grey": saved(GREY, "TIFF", compression="packbits"),
    "TIFF grey, white is 0": tiff(0, 8, 1, RGBA[:, :, 2].tobytes()),
    "TIFF grey and alpha": saved(Image.fromarray(RGBA).convert("LA"), "TIFF"),
    "TIFF RGBA": saved(Image.fromarray(RGBA), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF JPEG": saved(COLOUR, "TIFF", compression="jpeg", quality=95),
    "TIFF CMYK": saved(cmyk, "TIFF"),
    "TIFF 16-bit grey": saved(Image.fromarray(WIDE[:, :, 2]), "TIFF"),
    "TIFF 16-bit grey, white is 0": tiff(0, 16, 1, WIDE[:, :, 2].astype("<u2").tobytes()),
    "TIFF 16-bit RGB": tiff(2, 16, 3, WIDE[:, :, :3].astype("<u2").tobytes()),
    "TIFF 16-bit RGBA": tiff(2, 16, 4, WIDE.astype("<u2").tobytes(), (338, 3, [2])),
    "TIFF 32-bit float": saved(Image.fromarray(RGBA[:, :, 2].astype(np.float32)), "TIFF"),
    "TIFF 32-bit integers": saved(Image.fromarray(RGBA[:, :, 2].astype(np.int32)), "TIFF"),
    "BMP palette": saved(palette, "BMP"),
    "BMP 1 bit": saved(GREY.convert("1"), "BMP"),
    "BMP grey": saved(GREY, "BMP"),
    "BMP RGBA": saved(Image.fromarray(RGBA), "BMP"),
    "WebP RGBA": saved(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
    "WebP lossy": saved(COLOUR, "WEBP", quality=80),
    "JPEG grey": saved(GREY, "JPEG", quality=90),
    "JPEG CMYK": saved(BIG_CMYK, "JPEG", quality=95, subsampling=0),
    "JPEG RGB": saved(COLOUR, "JPEG", quality=90, keep_rgb=True),
}
wide = {
    "PNG 16-bit grey": WIDE[:, :, [2, 2, 2]],
    "PNG 16-bit grey and alpha": WIDE[:, :, [2, 2, 2]],
    "PNG 16-bit RGB": WIDE[:, :, :3],
    "PNG 16-bit RGBA": WIDE[:, :, :3],
    "TIFF 16-bit grey": WIDE[:, :, [2, 2, 2]],
    "TIFF 16-bit grey, white is 0": 65535 - WIDE[:, :, [2, 2, 2]],
    "TIFF 16-bit RGB": WIDE[:, :, :3],
    "TIFF 16-bit RGBA": WIDE[:, :, :3],
}
cases = []
for name, file in files.items():
    image = Image.open(io.BytesIO(file))
    case = dict(name=name, file=file.hex(), mode=image.mode, expected=image.convert("RGB").tobytes().hex())
    if name in wide:
        case["wide"] = wide[name].astype(">u2").tobytes().hex()
    cases.append(case)
with open("variants.json", "w") as out:
    json.dump(cases, out, indent=0)
