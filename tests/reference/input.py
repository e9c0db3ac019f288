"""The other side of `cargo xtask bench input`: images read, decoded, resized and cropped by torchvision or Pillow, and DICOM by pydicom.

    input.py torchvision LIST      images per second, one thread: decode_image, Resize(256), CenterCrop(224)
    input.py pillow LIST           the same by Pillow and torchvision's transforms
    input.py pydicom LIST          pixel_array by pydicom with pylibjpeg
    input.py lossless FOLDER       print the files below FOLDER that are JPEG lossless in DICOM
    input.py jpegs LIST FOLDER     write each image as a JPEG of 512 x 512, quality 90, into FOLDER

LIST is a file with one path per line. What is measured prints one line of JSON; a first pass, which does not count, fills the page cache.
"""
import json
import os
import sys
import time

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

torch.set_num_threads(1)
LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
FIT = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])


def by_torchvision(path):
    return FIT(decode_image(path, mode=ImageReadMode.RGB)).contiguous()


def by_pillow(path):
    return np.ascontiguousarray(np.asarray(FIT(Image.open(path).convert("RGB"))).transpose(2, 0, 1))


def by_pydicom(path):
    import pydicom

    return pydicom.dcmread(path).pixel_array


def measure(read, paths):
    for path in paths:
        read(path)
    began = time.perf_counter()
    for path in paths:
        read(path)
    return len(paths) / (time.perf_counter() - began)


def lossless(folder):
    import pydicom

    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(place, name)
            try:
                syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
                if syntax in LOSSLESS:
                    by_pydicom(path)
                    print(path)
            except Exception:  # what pydicom refuses is not compared
                continue


def jpegs(paths, folder):
    for i, path in enumerate(paths):
        Image.open(path).convert("RGB").resize((512, 512), Image.BILINEAR).save(os.path.join(folder, f"{i:05}.jpg"), quality=90)


def main(task, what, *rest):
    if task == "lossless":
        return lossless(what)
    with open(what) as f:
        paths = f.read().split("\n")[:-1]
    if task == "jpegs":
        return jpegs(paths, *rest)
    read = {"torchvision": by_torchvision, "pillow": by_pillow, "pydicom": by_pydicom}[task]
    print(json.dumps({"images_per_second": measure(read, paths)}))


main(*sys.argv[1:])
