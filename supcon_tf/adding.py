"""Classes added to an exported model by nearest prototype, from a few images and no training."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from supcon_tf import tflite
from supcon_tf.bundles import INDEX_IMAGES, THUMBNAILS, Bundle, load_bundle, newest_bundle
from supcon_tf.calibration import calibration_scores
from supcon_tf.comparing import compare_exports
from supcon_tf.config import AddClassConfig, ExportConfig
from supcon_tf.data import folder
from supcon_tf.data.datasets import Split, folder_split
from supcon_tf.errors import UserError
from supcon_tf.evaluation import unit_rows
from supcon_tf.exporting import check_scores, finish_bundle, next_version, tflite_metadata
from supcon_tf.files import writing
from supcon_tf.indexing import write_index_images
from supcon_tf.manifest import resumption
from supcon_tf.servable import Head, Index, Servable

_LOG_SCALE = (np.log(1.0), np.log(1000.0))
_SCALE_IMAGES = 200  # Of each class, at most.
_PRECISIONS = tflite.PRECISIONS[:-1]  # int8 would have to be calibrated on the training images.


def add_class(config: AddClassConfig) -> dict:
    """Writes a bundle's next version, with new classes beside the trained ones.

    A new class is the mean direction of its images' embeddings. The trained classes keep their
    classifier: what the new classes leave of the probability is divided as it says
    (`Servable.probabilities`).

    Args:
        config: the settings; `config.images` holds one subfolder of images for each new class.

    Returns:
        `path`, the `images` that each new class was made of, and top-1 on held-out images:
        `old_top1_before`, `old_top1`, `new_top1` and `per_class` of the new ones.

    Raises:
        UserError: if the bundle is unsound or has no index, or the folder's images or class names
            cannot be used.
    """
    bundle = load_bundle(newest_bundle(config.model))
    if not bundle.num_neighbors:
        raise UserError(
            f"{bundle.path} has no index, which says where its classes lie. Export it with "
            "--index_images above 0."
        )
    support, held_out, names = _new_images(config, bundle)
    target = next_version(str(bundle.path.parent.parent), bundle.path.parent.name, ExportConfig())
    with writing(target) as temporary:
        print(f"adding {', '.join(names)} in {target}", file=sys.stderr)
        temporary.mkdir(parents=True)
        scores = _write(temporary, target, bundle, support, held_out, names, config)
    return {"path": str(target), **scores}


def _new_images(config: AddClassConfig, bundle: Bundle) -> tuple[Split, Split, list[str]]:
    """The images to learn from, those held out, and the names of the new classes."""
    root = Path(config.images)
    if not config.images or not root.is_dir():
        raise UserError(
            f"images must be a folder with one subfolder a new class. Received: {config.images!r}."
        )
    examples = folder.list_classes(root)
    names = sorted({name for _, name in examples})
    if not names:
        raise UserError(f"folder {root} has no class subfolders. Give it one subfolder a class.")
    for name in names:
        if name in bundle.class_names or not name.isprintable():
            raise UserError(
                f"class names must be new and printable. Received: {name!r}, with "
                f"{len(bundle.class_names)} classes in {bundle.path}. Rename the folder."
            )
    bad = folder.check_images(root, examples)
    if bad:
        raise UserError(f"cannot read image {root / bad[0]}. Remove or replace it.")
    parts = folder.hold_out(str(root), examples, config.holdout_fraction, config.seed)
    every = [*bundle.class_names, *names]
    support, held_out = (folder_split(str(root), part, every) for part in parts)
    return support, held_out, names


def _write(path, target, bundle: Bundle, support: Split, held_out: Split, names, config) -> dict:
    class_names = [*bundle.class_names, *names]
    features, labels = _features(bundle, support, config.batch_size)
    servable = _servable(bundle, unit_rows(features), labels, class_names)
    servable.save(path)
    _extend_index(path, bundle, support, class_names)
    metadata = _metadata(bundle, target, names, support, config)
    _write_tflite(path, metadata)
    new = _Scored(servable, *_features(bundle, held_out, config.batch_size))
    with np.load(bundle.path / "held_out.npz") as arrays:
        old = _Scored(servable, arrays["features"], arrays["labels"])
    compared = compare_exports(path, held_out, held_out.num_examples, new.probabilities, new.labels)
    check_scores(compared, ExportConfig().max_difference)
    before = _Scored(_with_head(bundle, _old_head(bundle), None, bundle.class_names), *old.images)
    scores = {
        "images": metadata["added"]["images"],
        "old_images": len(old.labels),
        "new_images": len(new.labels),
        "old_top1_before": before.top1(),
        "old_top1": old.top1(),
        "new_top1": new.top1(),
        "per_class": {name: new.top1(class_names.index(name)) for name in names},
    }
    every = [np.concatenate(parts) for parts in zip(old.images, new.images, strict=True)]
    np.savez(path / "held_out.npz", features=every[0], labels=every[1])
    calibration = _calibration(bundle, _Scored(servable, *every))
    finish_bundle(path, metadata, _metrics(bundle, compared, calibration, scores))
    return scores


class _Scored:
    """What a servable says of features float32 [N, F] with labels int32 [N]."""

    def __init__(self, servable, features, labels):
        self.images, self.labels = (features, labels), labels
        self.probabilities = servable.probabilities(tf.constant(features)).numpy()

    def top1(self, label=None) -> float:
        """Share of the images, or of those with a label, that are recognized."""
        wanted = slice(None) if label is None else self.labels == label
        right = self.probabilities.argmax(axis=1) == self.labels
        return float(np.mean(right[wanted]))


def _extend_index(path, bundle: Bundle, support: Split, class_names) -> None:
    for name in (INDEX_IMAGES, THUMBNAILS):
        if (bundle.path / name).exists():
            (path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.path / name, path / name)
    thumbnails, rows = (bundle.path / THUMBNAILS).exists(), len(bundle.index_images())
    write_index_images(path, support, class_names, bundle.image_size_px, thumbnails, rows)


def _write_tflite(path, metadata) -> None:
    (path / "tflite").mkdir()
    for precision in _PRECISIONS:
        described = {**tflite_metadata(metadata), "precision": precision}
        file = path / "tflite" / f"{precision}.tflite"
        tflite.write(file, tflite.convert(path, precision), described)


def _features(bundle: Bundle, split: Split, batch_size: int):
    """Features float32 [N, F] and labels int32 [N], by the bundle's own encoder."""
    batches = split.images(bundle.image_size_px, batch_size)
    found = [(bundle.model.encode(images).numpy(), labels.numpy()) for images, labels in batches]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _old_head(bundle: Bundle) -> Head:
    model = bundle.model
    added = hasattr(model, "prototypes")
    return Head(
        model.kernel.numpy(),
        model.bias.numpy(),
        float(model.temperature.numpy()),
        model.prototypes.numpy() if added else None,
        float(model.prototype_scale.numpy()) if added else 1.0,
    )


def _with_head(bundle, head, index, class_names):
    model = bundle.model
    return Servable(
        model.encode, model.encoder_variables, head, index, class_names, bundle.image_size_px
    )


def _servable(bundle: Bundle, embeddings, labels, class_names) -> Servable:
    """The bundle's encoder and classifier with prototypes of all classes.

    Args:
        bundle: what is added to.
        embeddings: float32 [M, F] of the new images, unit norm.
        labels: int32 [M] in all classes.
        class_names: old and new.
    """
    gallery = bundle.model.index_embeddings.numpy()
    gallery_labels = bundle.model.index_labels.numpy()
    head = _old_head(bundle)
    old = head.prototypes
    if old is None:
        old = _prototypes(gallery, gallery_labels, range(len(bundle.class_names)))
    new = _prototypes(embeddings, labels, range(len(old), len(class_names)))
    prototypes = np.concatenate([old, new])
    scale = fit_scale(prototypes, gallery, gallery_labels, embeddings, labels)
    index = Index(
        np.concatenate([gallery, embeddings]),
        np.concatenate([gallery_labels, labels]),
        bundle.model.index_distances.numpy(),
        bundle.num_neighbors,
    )
    head = Head(head.kernel, head.bias, head.temperature, prototypes, scale)
    return _with_head(bundle, head, index, class_names)


def _prototypes(embeddings, labels, classes: Sequence[int]) -> np.ndarray:
    """The mean direction of each class, float32 [len(classes), F]."""
    means = [embeddings[labels == label].mean(axis=0) for label in classes]
    return unit_rows(np.stack(means))


def fit_scale(prototypes, gallery, gallery_labels, embeddings, labels) -> float:
    """The factor on cosines, from 1 to 1000, under which all classes are most likely.

    Every class counts alike. A new image is compared with the prototype of the others of its
    class, as it would be near its own.

    Args:
        prototypes: float [C, F], unit norm.
        gallery: float [N, F], unit norm: training images of the old classes.
        gallery_labels: int [N].
        embeddings: float [M, F], unit norm: images of the new classes.
        labels: int [M].
    """
    cosines, targets = [], []
    for label in np.unique(gallery_labels):
        rows = gallery[gallery_labels == label][:_SCALE_IMAGES]
        cosines.append(rows @ prototypes.T)
        targets += [label] * len(rows)
    for row, label in zip(embeddings, labels, strict=True):
        rest = embeddings[labels == label].sum(axis=0) - row
        if not rest.any():
            continue  # The only image of its class.
        found = prototypes @ row
        found[label] = unit_rows(rest[None])[0] @ row
        cosines.append(found[None])
        targets.append(label)
    cosines, targets = np.concatenate(cosines).astype(np.float64), np.array(targets)
    weights = 1.0 / np.bincount(targets)[targets]

    def loss(log_scale):
        likelihood = log_softmax(np.exp(log_scale) * cosines, axis=1)
        return -np.average(likelihood[np.arange(len(targets)), targets], weights=weights)

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_SCALE, method="bounded").x))


def _metadata(bundle: Bundle, target: Path, names, support: Split, config) -> dict:
    counts = np.bincount(support.labels(), minlength=len(bundle.class_names) + len(names))
    added = {
        **resumption(),
        "from_version": bundle.version,
        "images": {
            name: int(count) for name, count in zip(names, counts[-len(names) :], strict=True)
        },
        "fingerprint": support.fingerprint,
        "settings": config.to_dict(),
    }
    return {
        **bundle.metadata,
        "name": target.parent.name,
        "version": int(target.name),
        "class_names": [*bundle.class_names, *names],
        "added": added,
    }


def _calibration(bundle: Bundle, scored: _Scored) -> dict:
    """Of all held-out images; the temperature is the one that was there."""
    likelihood = np.log(np.maximum(scored.probabilities, 1e-30))
    found = calibration_scores(likelihood, scored.labels, 1.0)
    before = bundle.metrics["export"]["calibration"]
    return {
        **{name: found[name] for name in ("nll", "ece")},
        **{name: before[name] for name in ("temperature", "fitted_on")},
    }


def _metrics(bundle: Bundle, compared, calibration, scores) -> dict:
    index = bundle.metrics["export"]["index"]
    export = {"calibration": calibration, "index": index, **compared}
    return {**bundle.metrics, "export": export, "added": scores}
