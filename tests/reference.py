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


def pair_kinds(labels, batch, views, cap=None):
    """Weights of the positives and the negatives of every row, as lists of indices.

    Keeps the first `cap` positive rows of other images in the order of the batch.
    """
    rows = range(len(labels))
    kinds = []
    for i in rows:
        own = [p for p in rows if p != i and p % batch == i % batch]
        images = [b for b in range(batch) if b != i % batch and labels[b] == labels[i]]
        if cap is not None:
            images = images[: cap // views]
        others = [b + view * batch for b in images for view in range(views)]
        negatives = [n for n in rows if labels[n] != labels[i]]
        kinds.append((own + others, negatives))
    return kinds


def supcon_modes(
    embeddings,
    labels=None,
    temperature=0.1,
    summation_location="out",
    contrast_mode="all",
    denominator_mode="all",
    positives_cap=None,
    scale_by_temperature=False,
    positive_weights=None,
):
    """One value per anchor, 0 where there is no positive or a needed negative is missing."""
    batch, views, _ = embeddings.shape
    row_labels, rows = flatten(labels if labels is not None else range(batch), embeddings)
    if positive_weights is None:
        kinds = pair_kinds(row_labels, batch, views, positives_cap)
        kinds = [(dict.fromkeys(positives, 1.0), negatives) for positives, negatives in kinds]
    else:
        kinds = []
        for i in range(len(rows)):
            weight = {
                j: float(positive_weights[i % batch][j % batch]) for j in range(len(rows)) if j != i
            }
            positives = {j: w for j, w in weight.items() if w > 0}
            kinds.append((positives, [j for j, w in weight.items() if w == 0]))
    losses = []
    for i in range(len(rows) if contrast_mode == "all" else batch):
        weights, negatives = kinds[i]
        if not weights or (denominator_mode == "only_negatives" and not negatives):
            losses.append(0.0)
            continue
        s = {j: float(rows[i] @ rows[j]) / temperature for j in [*weights, *negatives]}
        total = sum(weights.values())
        terms = {}
        for p in weights:
            inside = {
                "all": [*weights, *negatives],
                "one_positive": [p, *negatives],
                "only_negatives": negatives,
            }[denominator_mode]
            top = max(s[j] for j in inside)
            terms[p] = s[p] - top - math.log(sum(math.exp(s[j] - top) for j in inside))
        if summation_location == "out":
            loss = -sum(weights[p] * terms[p] for p in weights) / total
        else:
            top = max(terms.values())
            mean = sum(weights[p] * math.exp(terms[p] - top) for p in weights) / total
            loss = -top - math.log(mean)
        losses.append(loss * (temperature if scale_by_temperature else 1.0))
    return np.array(losses)


def triplets(labels, embeddings, margin, distance, mining, soft=False):
    """Every chosen triplet as (anchor, penalty)."""
    labels, rows = flatten(labels, embeddings)
    count = len(rows)

    def d(i, j):
        squared = float(np.sum((rows[i] - rows[j]) ** 2))
        return squared if distance == "squared" else math.sqrt(squared)

    def penalty(i, p, n):
        x = d(i, p) - d(i, n)
        if soft or margin is None:
            return math.log1p(math.exp(x + (margin or 0.0)))
        return max(0.0, x + margin)

    found = []
    for i in range(count):
        positives = [p for p in range(count) if p != i and labels[p] == labels[i]]
        negatives = [n for n in range(count) if labels[n] != labels[i]]
        if not positives or not negatives:
            continue
        if mining == "all":
            found += [(i, penalty(i, p, n)) for p in positives for n in negatives]
        elif mining == "hard":
            farthest = max(positives, key=lambda p: d(i, p))
            nearest = min(negatives, key=lambda n: d(i, n))
            found.append((i, penalty(i, farthest, nearest)))
        elif mining == "easy_positive":
            positive = min(positives, key=lambda p: d(i, p))
            found.append((i, penalty(i, positive, min(negatives, key=lambda n: d(i, n)))))
        else:
            for p in positives:
                farther = [n for n in negatives if d(i, n) > d(i, p)]
                chosen = (
                    min(farther, key=lambda n: d(i, n))
                    if farther
                    else max(negatives, key=lambda n: d(i, n))
                )
                found.append((i, penalty(i, p, chosen)))
    return found


def triplet(
    labels, embeddings, margin=0.2, distance="squared", mining="all", average="all", soft=False
):
    """The mean over the triplets."""
    values = [value for _, value in triplets(labels, embeddings, margin, distance, mining, soft)]
    if average == "active":
        values = [value for value in values if value > 0]
    return sum(values) / len(values) if values else 0.0


def npairs(labels, embeddings):
    """One value per image; view 0 against view 1."""
    batch = len(embeddings)
    losses = []
    for i in range(batch):
        logits = [float(embeddings[i, 0] @ embeddings[j, 1]) for j in range(batch)]
        total = math.log(sum(math.exp(logit) for logit in logits))
        own = [j for j in range(batch) if labels[j] == labels[i]]
        losses.append(total - sum(logits[j] for j in own) / len(own))
    return np.array(losses)


def max_margin(labels, embeddings, margin=1.0, average="all"):
    """The mean over the ordered pairs, or half of each kind's mean."""
    labels, rows = flatten(labels, embeddings)
    positive, negative = [], []
    for i in range(len(rows)):
        for j in range(len(rows)):
            d = math.sqrt(float(np.sum((rows[i] - rows[j]) ** 2)))
            if i != j and labels[i] == labels[j]:
                positive.append(d**2)
            elif i != j:
                negative.append(max(0.0, margin - d) ** 2)
    if average == "all":
        return (sum(positive) + sum(negative)) / (len(positive) + len(negative))
    means = [sum(values) / len(values) if values else 0.0 for values in (positive, negative)]
    return sum(means) / 2
