"""Classes added to an exported model by nearest prototype, from a few images and no training."""

import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import AddClassConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import writing
from supcon_tf.core.provenance import resumption
from supcon_tf.data import folder
from supcon_tf.data.datasets import folder_split
from supcon_tf.data.splits import Split
from supcon_tf.exporting import tflite
from supcon_tf.exporting.bundle import INDEX_IMAGES, THUMBNAILS, Bundle, load_bundle, newest_bundle
from supcon_tf.exporting.calibration import calibration_scores
from supcon_tf.exporting.comparing import check_exports, compare_exports
from supcon_tf.exporting.export import finish_bundle, next_version
from supcon_tf.exporting.index import index_scores, write_index_images
from supcon_tf.exporting.prototypes import fit_scale, mean_directions
from supcon_tf.exporting.servable import Head, Index, Servable
from supcon_tf.stages.features import encode_split
from supcon_tf.stages.scores import unit_rows

_PRECISIONS = tflite.PRECISIONS[:-1]  # Not int8.


def add_class(config: AddClassConfig) -> dict:
    """Writes a bundle's next version, with new classes beside the trained ones.

    A new class is the mean direction of its images' embeddings. The trained classes keep their
    classifier: what the new classes leave of the probability is divided as it says
    (`Servable.probabilities`). There is no int8 model, which the training images would have to
    calibrate.

    Args:
        config: the settings; `config.images` holds one subfolder of images for each new class.

    Returns:
        `path`; `learned_from`, images by new class; top-1 on held-out images: `old_top1_before`,
        `old_top1`, `new_top1` and `per_class` of the new ones, of `old_images` and `new_images`;
        `calibration` and `index` over all of them; and what `compare_exports` gives on the new.

    Raises:
        UserError: if the bundle is unsound or has no index, or the folder's images or class names
            cannot be used.
    """
    bundle = load_bundle(newest_bundle(config.model).resolve())
    _check_index(bundle)
    old = _held_out(bundle)
    support, held_out, names = _new_images(config, bundle)
    target = next_version(bundle.path.parent)
    with writing(target) as temporary:
        print(f"adding {', '.join(names)} in {target}", file=sys.stderr)
        temporary.mkdir(parents=True)
        scores = _write(temporary, target, bundle, old, support, held_out, names, config)
    return {"path": str(target), **scores}


def _check_index(bundle: Bundle) -> None:
    """Refuses a bundle that does not say where each of its classes lies."""
    labels = bundle.model.index_labels.numpy() if bundle.num_neighbors else ()
    missing = sorted(set(range(len(bundle.class_names))) - set(labels))
    if missing:
        raise UserError(
            f"the index of {bundle.path} has no image of class {bundle.class_names[missing[0]]!r}. "
            "Export it again with more --index_images."
        )
    if len(bundle.index_images()) != len(labels):
        raise UserError(f"{bundle.path}/{INDEX_IMAGES} is damaged. Export it again.")


def _held_out(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N, F] and labels int32 [N] of the old classes' held-out images."""
    try:
        with np.load(bundle.path / "held_out.npz", allow_pickle=False) as arrays:
            features, labels = arrays["features"], arrays["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{bundle.path}/held_out.npz is damaged. Export it again.") from error
    width = bundle.model.kernel.shape[0]
    sound = (
        features.dtype == np.float32
        and features.shape == (len(labels), width)
        and len(labels) > 0
        and np.issubdtype(labels.dtype, np.integer)
        and labels.ndim == 1
        and 0 <= labels.min() <= labels.max() < len(bundle.class_names)
        and np.isfinite(features).all()
    )
    if not sound:
        raise UserError(f"{bundle.path}/held_out.npz is damaged. Export it again.")
    return features, labels


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


def _write(path, target, bundle: Bundle, old, support: Split, held_out: Split, names, config):
    class_names = [*bundle.class_names, *names]
    features, labels = _features(bundle, support, config.batch_size)
    servable, index = _servable(bundle, unit_rows(features), labels, class_names)
    servable.save(path)
    _extend_index(path, bundle, support, class_names)
    metadata = _metadata(bundle, target, names, support, config)
    exported = bundle.metadata["settings"]["export"]
    tflite.write_all(path, metadata, _PRECISIONS, select_ops=exported["tflite_select_ops"])
    new = _Scored(servable, *_features(bundle, held_out, config.batch_size))
    compared = compare_exports(path, held_out, held_out.num_examples, new.probabilities, new.labels)
    check_exports(path, compared, exported["max_difference"], exported["max_tflite_loss"])
    old = _Scored(servable, *old)
    before = _Scored(_with_head(bundle, _old_head(bundle), None, bundle.class_names), *old.images)
    every = [np.concatenate(parts) for parts in zip(old.images, new.images, strict=True)]
    np.savez(path / "held_out.npz", features=every[0], labels=every[1])
    scores = {
        "learned_from": metadata["added"][-1]["images"],
        "old_images": len(old.labels),
        "new_images": len(new.labels),
        "old_top1_before": before.top1(),
        "old_top1": old.top1(),
        "new_top1": new.top1(),
        "per_class": {name: new.top1(class_names.index(name)) for name in names},
        "calibration": _calibration(bundle, _Scored(servable, *every)),
        "index": index_scores(index, every[0]),
        **compared,
    }
    finish_bundle(path, metadata, {**bundle.metrics, "added": scores})
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


def _features(bundle: Bundle, split: Split, batch_size: int):
    """Features float32 [N, F] and labels int32 [N], by the bundle's own encoder."""
    encode, size = bundle.model.encode, bundle.image_size_px
    return encode_split(encode, size, split, batch_size=batch_size, progress="features")


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


def _servable(bundle: Bundle, embeddings, labels, class_names) -> tuple[Servable, Index]:
    """The bundle's encoder and classifier with prototypes of all classes, and the longer index.

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
        old = mean_directions(gallery, gallery_labels, range(len(bundle.class_names)))
    new = mean_directions(embeddings, labels, range(len(old), len(class_names)))
    prototypes = np.concatenate([old, new])
    scale = fit_scale(prototypes, gallery, gallery_labels, embeddings, labels)
    index = Index(
        np.concatenate([gallery, embeddings]),
        np.concatenate([gallery_labels, labels]),
        bundle.model.index_distances.numpy(),
        bundle.num_neighbors,
    )
    head = Head(head.kernel, head.bias, head.temperature, prototypes, scale)
    return _with_head(bundle, head, index, class_names), index


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
        "added": [*bundle.metadata.get("added", []), added],
    }


def _calibration(bundle: Bundle, scored: _Scored) -> dict:
    """Of all held-out images; the temperature is the one that was there."""
    likelihood = np.log(np.maximum(scored.probabilities, 1e-30))
    found = calibration_scores(likelihood, scored.labels, 1.0)
    before = bundle.metrics.get("added", bundle.metrics["export"])["calibration"]
    return {
        **{name: found[name] for name in ("nll", "ece")},
        **{name: before[name] for name in ("temperature", "fitted_on")},
    }
