"""Writes metrics.json: cases with scikit-learn's answers, and permutations from an independent Philox4x32-10.

Run from this folder with scikit-learn 1.9.1, scipy and numpy: python metrics.py
"""
import json

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import (accuracy_score, confusion_matrix, f1_score, log_loss, mean_absolute_error, r2_score, recall_score,
                             roc_auc_score, root_mean_squared_error)

M32 = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


def order(n, seed, epoch):
    def key(i):
        block = philox([i & M32, i >> 32, epoch, 0], [seed & M32, seed >> 32])
        return (block[0] | block[1] << 32, i)
    return sorted(range(n), key=key)


def case(name, p, y, classes, positive):
    p, y = np.asarray(p, dtype=np.float64), np.asarray(y)
    labels = list(range(classes))
    if classes == 2:
        predicted = np.where(p[:, positive] >= 0.5, positive, 1 - positive)
        kind = dict(pos_label=positive, average="binary")
        auroc = roc_auc_score(y == positive, p[:, positive])
        specificity = recall_score(y, predicted, pos_label=1 - positive, average="binary")
    else:
        predicted = p.argmax(axis=1)
        kind = dict(labels=labels, average="macro")
        auroc = roc_auc_score(y, p, multi_class="ovr", average="macro", labels=labels)
        specificity = np.mean([recall_score(y != c, predicted != c) for c in labels])
    return {
        "name": name, "classes": classes, "positive": positive,
        "probabilities": p.ravel().tolist(), "labels": y.tolist(),
        "accuracy": accuracy_score(y, predicted), "auroc": auroc, "f1": f1_score(y, predicted, **kind),
        "sensitivity": recall_score(y, predicted, **kind), "specificity": specificity,
        "log_loss": log_loss(y, p, labels=labels), "confusion": confusion_matrix(y, predicted, labels=labels).tolist(),
    }


def numbers(truth, predicted):
    differences = predicted - truth
    return {
        "truth": truth.tolist(), "predicted": predicted.tolist(), "mae": mean_absolute_error(truth, predicted),
        "rmse": root_mean_squared_error(truth, predicted), "r2": r2_score(truth, predicted), "pearson": pearsonr(predicted, truth).statistic,
        "bias": differences.mean(), "low": differences.mean() - 1.96 * differences.std(ddof=1),
        "high": differences.mean() + 1.96 * differences.std(ddof=1),
    }


def binary(rng, n, signal, step=None):
    y = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + signal * (y - 0.5))))
    if step:
        p = np.round(p / step) * step
    return np.stack([1 - p, p], axis=1), y


def multi(rng, n, classes, signal):
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    z = rng.normal(size=(n, classes)) + signal * np.eye(classes)[y]
    p = np.exp(z)
    return p / p.sum(axis=1, keepdims=True), y


rng = np.random.default_rng(0)
cases = [
    case("binary", *binary(rng, 80, 1.5), 2, 1),
    case("binary, first class positive", *binary(rng, 61, 1.0), 2, 0),
    case("binary with ties and exact halves", *binary(rng, 60, 1.0, step=0.125), 2, 1),
    case("binary with certain answers, some wrong", [[1, 0], [0, 1], [1, 0], [0, 1], [0.5, 0.5]], [0, 1, 1, 0, 1], 2, 1),
    case("binary, worse than chance", *binary(rng, 40, -2.0), 2, 1),
    case("three classes", *multi(rng, 50, 3, 1.0), 3, 2),
    case("seven classes", *multi(rng, 60, 7, 1.5), 7, 6),
]
permutations = [
    {"samples": 12, "seed": 0, "epoch": 0, "order": order(12, 0, 0)},
    {"samples": 20, "seed": 0x123456789ABC, "epoch": 3, "order": order(20, 0x123456789ABC, 3)},
]
ages = rng.uniform(20, 90, 50)
regression = [
    numbers(ages, ages + rng.normal(2, 6, 50)),
    numbers(ages, 60 + rng.normal(0, 15, 50)),
    numbers(np.asarray([1.0, 2.0]), np.asarray([1.5, 1.0])),
]
json.dump({"cases": cases, "permutations": permutations, "regression": regression}, open("metrics.json", "w"))
