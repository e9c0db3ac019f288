#!/usr/bin/env python3
"""Makes what graft-data's tests of DICOM and NIfTI compare with: what pydicom and nibabel read from the files in GRAFT_DATA.

`medical.py DATA` writes goldens/medical.json. Of each picture it keeps the size, 16 grey or colour levels on a grid and the SHA-256 of
all, after the window that Graft takes where a job names none.
"""
import hashlib
import json
import os
import sys
import warnings

import nibabel
import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

HERE = os.path.dirname(os.path.abspath(__file__))
warnings.filterwarnings("ignore")


def grid(picture):
    """Levels at 4 × 4 places of `[height, width, 3]`, the mean of all, and the digest of all as unsigned bytes."""
    height, width = picture.shape[:2]
    rows, columns = [[(2 * i + 1) * n // 8 for i in range(4)] for n in (height, width)]
    levels = [[int(v) for v in picture[r, c]] for r in rows for c in columns]
    digest = hashlib.sha256(picture.astype(np.uint8).tobytes()).hexdigest()
    return {"size": [width, height], "levels": levels, "mean": round(float(picture.mean()), 3), "sha256": digest}


def through(values, low, high):
    share = (values - low) / max(high - low, 1e-38)
    return np.floor(np.clip(np.nan_to_num(share, nan=0.0), 0, 1) * 255 + 0.5)


def eight(samples, bits):
    return np.floor(samples.astype(np.float64) * 255 / (2**bits - 1) + 0.5)


def first(value):
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)


def dicom(path):
    data = pydicom.dcmread(path, force=False)
    frame = pixel_array(data, index=0)
    if data.SamplesPerPixel == 3:
        picture = frame if frame.dtype == np.uint8 else eight(frame, data.BitsStored)
    elif data.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(frame, data)[..., :3]
        picture = colours if colours.max() < 256 else eight(colours, 16)
    else:
        values = apply_modality_lut(frame, data).astype(np.float64)
        if "WindowCenter" in data and first(data.WindowWidth) > 0:
            center, width = first(data.WindowCenter), first(data.WindowWidth)
            # PS3.3, C.11.2.1.2.1.
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
        else:
            low, high = values.min(), values.max()
        grey = through(values, low, high)
        if data.PhotometricInterpretation == "MONOCHROME1":
            grey = 255 - grey
        picture = np.repeat(grey[..., None], 3, axis=2)
    spacing = data.get("PixelSpacing") or data.get("ImagerPixelSpacing") or data.get("PixelAspectRatio") or [1, 1]
    return {**grid(picture), "square": abs(float(spacing[0]) / float(spacing[1]) - 1) < 0.01}


def nifti(path):
    image = nibabel.as_closest_canonical(nibabel.load(path))
    shape = image.shape + (1,) * (3 - len(image.shape))
    volume = np.asarray(image.dataobj).reshape(shape[0], shape[1], shape[2], -1)[..., 0]
    z = shape[2] // 2
    values = volume.astype(np.float64)
    ordered = np.sort(values[np.isfinite(values)].ravel())
    cut = int(np.floor((len(ordered) - 1) * 0.005 + 0.5))
    view = through(values[::-1, ::-1, z].T, ordered[cut], ordered[len(ordered) - 1 - cut])
    zooms = image.header.get_zooms()
    return {**grid(np.repeat(view[..., None], 3, axis=2)), "slice": z, "square": abs(float(zooms[1]) / float(zooms[0]) - 1) < 0.01}


def every(data, folder, endings, read):
    made = {}
    for where, folders, names in os.walk(os.path.join(data, folder)):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            key = os.path.relpath(path, data)
            if name.endswith(endings) or (endings == ".dcm" and "." not in name):
                try:
                    made[key] = read(path)
                except Exception as error:  # Whatever the peer says of it, Graft must not crash.
                    made[key] = {"refused": type(error).__name__}
    return made


if __name__ == "__main__":
    source = sys.argv[1]
    made = {
        "dicom": {**every(source, "dicom/test_files", ".dcm", dicom), **every(source, "ct-series", ".dcm", dicom)},
        "nifti": every(source, "nifti", (".nii", ".nii.gz"), nifti),
    }
    some = sorted(os.listdir(os.path.join(source, "hippocampus/images")))[:6]
    for name in some:
        made["nifti"][f"hippocampus/images/{name}"] = nifti(os.path.join(source, "hippocampus/images", name))
    with open(os.path.join(HERE, "goldens/medical.json"), "w") as file:
        json.dump(made, file, indent=0, sort_keys=True, separators=(",", ":"))
        file.write("\n")
