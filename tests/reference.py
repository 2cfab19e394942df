"""Slow float64 references, written as loops from the equations."""

import math

import numpy as np


def raw(shape, *a):
    """sin(0.5 + a0 i0 + a1 i1 + ...): inputs without symmetry, the same on every machine."""
    grids = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return np.sin(0.5 + sum(factor * grid for factor, grid in zip(a, grids, strict=True)))


def l2(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def flatten(labels, embeddings):
    """View-major rows and their labels."""
    batch, views, _ = embeddings.shape
    rows = [embeddings[image, view] for view in range(views) for image in range(batch)]
    return [int(label) for label in labels] * views, np.array(rows, np.float64)


def supcon(labels, embeddings, temperature, location="out"):
    """One value per anchor, view-major; 0 where an anchor has no positive."""
    labels, rows = flatten(labels, embeddings)
    count = len(rows)
    losses = []
    for i in range(count):
        others = [a for a in range(count) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            losses.append(0.0)
            continue
        logit = {a: float(rows[i] @ rows[a]) / temperature for a in others}
        top = max(logit.values())
        denominator = top + math.log(sum(math.exp(logit[a] - top) for a in others))
        if location == "out":
            losses.append(-sum(logit[p] - denominator for p in positives) / len(positives))
        else:
            inside = sum(math.exp(logit[p] - denominator) for p in positives) / len(positives)
            losses.append(-math.log(inside))
    return np.array(losses)
