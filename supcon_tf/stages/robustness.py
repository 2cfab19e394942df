"""Errors and calibration of a classifier on corrupted images, also relative to a baseline."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import softmax
from tqdm import tqdm

from supcon_tf.core.interrupts import check_interrupts
from supcon_tf.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from supcon_tf.data.images import preprocess
from supcon_tf.data.splits import Split
from supcon_tf.stages.scores import calibration_error

_BATCH = 256


def conditions(split: Split, image_size_px: int, limit: int | None, seed: int) -> dict:
    """Conditions that two classifiers' scores must share to be compared.

    Args:
        split: as in `corruption_scores`.
        image_size_px: side of the classifier's images.
        limit: images at most; None for all.
        seed: of the corruptions.

    Returns:
        `images`, their number; `fingerprint`; `side_px`, at which they are corrupted: the data
        set's own if its images are squares of one size, otherwise the classifier's; `seed`.
    """
    return {
        "images": split.num_examples if limit is None else min(limit, split.num_examples),
        "fingerprint": split.fingerprint,
        "side_px": split.native_size_px or image_size_px,
        "seed": seed,
    }


def corruption_scores(
    split: Split,
    classify: Callable[[tf.Tensor], np.ndarray],
    image_size_px: int,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict:
    """Scores a classifier on every corruption of a split's images.

    The centre square that evaluation sees is corrupted.

    Args:
        split: the images.
        classify: from images float32 [b, S, S, 3] in [0, 1] to logits [b, C].
        image_size_px: S.
        limit: at most this many images, spread over the split; None for all.
        seed: of the corruptions.

    Returns:
        `clean` and, by corruption, `error` (a share, 1 - top-1) and `ece`, for corruptions one per
        severity; `mean_error` and `mean_ece`, over all of them; and the `conditions`.
    """
    known = conditions(split, image_size_px, limit, seed)
    split = split if limit is None else split.spread(limit)
    cells = [("clean", 0), *((name, level) for name in CORRUPTIONS for level in SEVERITIES)]
    outcomes: dict[tuple, list] = {cell: [] for cell in cells}
    batches = tqdm(split.images(known["side_px"], _BATCH), "corruptions", leave=False, disable=None)
    for number, (images, labels) in enumerate(batches):
        pixels = np.rint(images.numpy() * 255.0).astype(np.uint8)
        for name, level in cells:
            check_interrupts()
            seen = corrupt(pixels, name, level, seed, number * _BATCH) if level else pixels
            logits = classify(preprocess(tf.constant(seen), image_size_px))
            outcomes[name, level].append(_outcomes(logits, labels.numpy()))
    found = {cell: _scores(parts) for cell, parts in outcomes.items()}
    by_corruption = {
        name: {
            score: [found[name, level][score] for level in SEVERITIES] for score in ("error", "ece")
        }
        for name in CORRUPTIONS
    }
    corrupted = [scores for (name, _), scores in found.items() if name != "clean"]
    return {
        **known,
        "clean": found["clean", 0],
        "by_corruption": by_corruption,
        "mean_error": float(np.mean([one["error"] for one in corrupted])),
        "mean_ece": float(np.mean([one["ece"] for one in corrupted])),
    }


def _outcomes(logits, labels):
    """The confidence of every prediction, and whether it is right: float64 [2, b]."""
    probabilities = softmax(np.asarray(logits, np.float64), axis=1)
    return np.stack([probabilities.max(axis=1), probabilities.argmax(axis=1) == labels])


def _scores(parts):
    confidence, hits = np.concatenate(parts, axis=1)
    return {"error": float(1.0 - hits.mean()), "ece": calibration_error(confidence, hits)}


def relative_scores(found: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict:
    """Corruption errors relative to those of a baseline.

    With the error E_{s,c} on corruption c at severity s, and E on clean images, of the model f and
    the baseline b:

        CE_c          = sum_s E^f_{s,c} / sum_s E^b_{s,c}
        relative CE_c = sum_s (E^f_{s,c} - E^f) / sum_s (E^b_{s,c} - E^b)

    and the mCE and the relative mCE are their means over the corruptions. The baseline has 1; lower
    is more robust.

    Args:
        found: of f, as from `corruption_scores`.
        baseline: of b, on the same images.

    Returns:
        `mce` and `relative_mce`, and `ce` and `relative_ce` by corruption. None if a denominator
        is not above 0: the baseline then makes no errors, or no more than on clean images.

    Reference:
        Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
        and Perturbations", section 4.2.
    """

    def divided(subtract_clean):
        ratios = {}
        for name in CORRUPTIONS:
            sums = [
                sum(scores["by_corruption"][name]["error"])
                - subtract_clean * len(SEVERITIES) * scores["clean"]["error"]
                for scores in (found, baseline)
            ]
            ratios[name] = sums[0] / sums[1] if sums[1] > 1e-12 else None
        known = None not in ratios.values()
        return ratios, float(np.mean(list(ratios.values()))) if known else None

    (ce, mce), (relative_ce, relative_mce) = divided(False), divided(True)
    return {"mce": mce, "relative_mce": relative_mce, "ce": ce, "relative_ce": relative_ce}
