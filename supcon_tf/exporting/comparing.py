"""Comparison of exports with the model they were made from, in a process without this package."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import FORMATS, OPTIONAL_FORMATS
from supcon_tf.core.errors import UserError
from supcon_tf.data.splits import Split
from supcon_tf.exporting.layout import ONNX, tflite_file
from supcon_tf.stages.label_scores import headline, headline_score
from supcon_tf.stages.scores import top_k_accuracy

_IN_FLOAT32 = ("tflite_float32", "onnx")
_RELOAD = Path(__file__).with_name("reload_export.py")


@contextlib.contextmanager
def start_reload(bundle: Path, formats: Sequence[str]) -> Iterator[subprocess.Popen]:
    """Starts the process that `compare_exports` runs a bundle in, before the bundle exists.

    It imports TensorFlow, which takes seconds, and waits. At the end of the block it is stopped.

    Args:
        bundle: folder of the SavedModel, with tflite/ in it.
        formats: those of its models, as `ExportConfig.format_names` gives them.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", str(_RELOAD), str(bundle), *formats],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def compare_exports(
    bundle: Path,
    formats: Sequence[str],
    split: Split,
    limit: int,
    expected: np.ndarray,
    labels: np.ndarray,
    process: subprocess.Popen,
) -> dict:
    """Runs a bundle in a fresh process, and compares it with the model it was made from.

    Args:
        bundle: as in `start_reload`.
        formats: as in `start_reload`.
        split: images to compare on, as encoded bytes, so that preprocessing is compared too.
        limit: at most this many of them, as `Split.sample` draws them.
        expected: probabilities float [N, C] that the model gives for them.
        labels: int [N], or bool [N, C] for several classes per image.
        process: what `start_reload` yields.

    Returns:
        By export: `top1`, `model_top1` (with several classes per image the mean average precisions,
        `map` and `model_map`), `max_difference` (of probabilities), `bytes` and `ms`, the
        median time for one image of the size that the encoder takes; `images` compared; and
        `failed`, the reason for each export that could not be run.
    """
    outputs, failed = _run_elsewhere(bundle, formats, split, limit, process)
    score, of_model = headline(labels.ndim == 2), _model_score(expected, labels)
    files = {name: _files(bundle, name) for name in formats if name not in failed}
    scores = {
        name: {
            score: headline_score(outputs[name], labels),
            f"model_{score}": of_model,
            "max_difference": float(np.abs(outputs[name] - expected).max()),
            "bytes": sum(path.stat().st_size for path in paths),
            "ms": float(outputs[f"ms/{name}"]),
        }
        for name, paths in files.items()
    }
    return {"images": len(labels), **scores, "failed": failed}


def _model_score(expected, labels):
    """With one class per image, a label that ties with another class counts as wrong."""
    if labels.ndim == 2:
        return headline_score(expected, labels)
    return top_k_accuracy(expected, labels, 1)


def _files(bundle, name):
    if name == "saved_model":
        return [bundle / "saved_model.pb", *(bundle / "variables").iterdir()]
    if name == "onnx":
        return [bundle / ONNX]
    return [tflite_file(bundle, name.removeprefix("tflite_"))]


def _run_elsewhere(bundle, formats, split, limit, process):
    """The output of `reload_export.py`, and why some formats have none."""
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "images.tfrecord"
        with tf.io.TFRecordWriter(str(records)) as writer:
            for encoded, _ in split.sample(limit).as_numpy_iterator():
                writer.write(encoded)
        outputs, fault = _outputs(process, records)
        if not fault:
            return outputs, {}
        failed = {}
        for name in formats:  # Each by itself, as one of them may end the process of all.
            with start_reload(bundle, [name]) as alone:
                found, fault = _outputs(alone, records)
            outputs.update(found)
            failed.update({name: fault} if fault else {})
        return outputs, failed


def _outputs(process, records):
    """The outputs of one process, none if it fails; and the reason why."""
    output = records.with_name("found.npz")
    _, said = process.communicate(f"{records}\n{output}\n")
    if process.returncode < 0:
        number = -process.returncode
        name = signal.strsignal(number)
        return {}, f"the process that ran it was killed by signal {number} ({name})"
    if process.returncode:
        return {}, f"it could not be run ({''.join(said.strip().splitlines()[-1:])})"
    with np.load(output) as arrays:
        outputs = dict(arrays)
    if not all(np.isfinite(values).all() for values in outputs.values()):
        return {}, "its outputs are not finite"
    return outputs, ""


def check_exports(bundle: Path, scores: dict, max_difference: float, max_loss: float) -> None:
    """Refuses a SavedModel that differs; removes other models that fail, differ or lose too much.

    Args:
        bundle: folder of the SavedModel.
        scores: `compare_exports`'s result; what is removed in spite of a score is marked
            `left_out`.
        max_difference: largest probability difference of the models in float32.
        max_loss: largest loss of top-1, as a share, of the other TFLite models.

    Raises:
        UserError: if the SavedModel fails, or differs by more.
    """
    if fault := scores["failed"].get("saved_model"):
        raise UserError(f"the SavedModel cannot be reloaded: {fault}; nothing was exported.")
    if fault := _difference(scores["saved_model"], max_difference):
        raise UserError(f"the reloaded SavedModel {fault} Nothing was exported.")
    faults = dict(scores["failed"])
    for name in (*FORMATS[1:], *OPTIONAL_FORMATS):
        if not (found := scores.get(name)):
            continue
        if name in _IN_FLOAT32:
            fault = _difference(found, max_difference)
        else:
            fault = _loss(found, max_loss)
        if fault:
            faults[name], found["left_out"] = fault, True
    for name, fault in faults.items():
        _files(bundle, name)[0].unlink()
        print(f"left out {name}: {fault}", file=sys.stderr)


def _difference(found, largest):
    """The warning about an export whose probabilities differ too much."""
    difference = found["max_difference"]
    if difference <= largest:  # False if it is NaN.
        return ""
    return (
        f"differs from its model by {difference:.2e}, above max_difference={largest:.0e}. An "
        "encoder that has hardly been trained may magnify float32 rounding this much: train it "
        "longer, or allow the difference."
    )


def _loss(found, largest):
    score, name = ("map", "average precision") if "map" in found else ("top1", "top-1")
    loss = found[f"model_{score}"] - found[score]
    if loss <= largest:
        return ""
    return (
        f"it loses {loss:.3f} of {name}, above max_tflite_loss={largest}. Train longer, calibrate "
        "it on more --representative_images, or allow it."
    )
