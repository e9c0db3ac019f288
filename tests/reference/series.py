#!/usr/bin/env python3
"""Makes what graft-data's test of DICOM series compares with: what pydicom reads from ct-series in GRAFT_DATA.

`series.py DATA` writes goldens/ct-series.csv: for each series its slices by their position along the normal, with minimum, maximum
and mean in Hounsfield units.
"""
import csv
import os
import sys
import warnings

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut

HERE = os.path.dirname(os.path.abspath(__file__))
warnings.filterwarnings("ignore")


def place(data):
    row, column = np.array(data.ImageOrientationPatient[:3], float), np.array(data.ImageOrientationPatient[3:], float)
    return float(np.dot(np.cross(row, column), np.array(data.ImagePositionPatient, float)))


if __name__ == "__main__":
    root = os.path.join(sys.argv[1], "ct-series")
    series = {}
    for where, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".dcm"):
                data = pydicom.dcmread(os.path.join(where, name))
                key = os.path.relpath(os.path.join(where, name), root)
                values = apply_modality_lut(data.pixel_array, data).astype(np.float64)
                series.setdefault(data.SeriesInstanceUID, []).append((place(data), key, values.min(), values.max(), values.mean()))
    with open(os.path.join(HERE, "goldens/ct-series.csv"), "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "position", "minimum", "maximum", "mean"])
        for slices in sorted(series.values(), key=lambda slices: min(key for _, key, *_ in slices)):
            for position, key, *values in sorted(slices):
                writer.writerow([key, f"{position:.6f}", *(f"{value:.6f}" for value in values)])
